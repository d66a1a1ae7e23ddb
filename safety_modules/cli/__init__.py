"""The command line, `safety-modules`: a thin dispatcher. Heavy imports wait until a command runs."""

import sys

import typer

from safety_modules.cli import audit, calibrate, data, demo, evaluate, harness, plan, show, systems, train
from safety_modules.errors import SafetyModulesError

app = typer.Typer(
    help="Attach safety to a LLaVA that is already trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate_app = typer.Typer(invoke_without_command=True)
data_app = typer.Typer(help="Look at risk data before training on it.", no_args_is_help=True)

app.command()(demo.demo)
app.command()(train.train)
app.command()(calibrate.calibrate)
app.command()(audit.audit)
app.command()(show.classify)
app.command()(show.inspect)
app.command()(plan.plan)
app.command()(show.path)
app.add_typer(evaluate_app, name="evaluate")
evaluate_app.callback()(harness.evaluate)
evaluate_app.command()(evaluate.pocket)
evaluate_app.command()(evaluate.head)
evaluate_app.command()(evaluate.promise)
evaluate_app.command()(evaluate.new_type)
evaluate_app.command()(evaluate.audit)
evaluate_app.command()(systems.train_systems)
evaluate_app.command()(systems.ablations)
evaluate_app.command()(systems.seeds)
app.add_typer(data_app, name="data")
data_app.command()(data.check)


def main() -> None:
    """Run a command; what the package refuses is one message and exit code 1, not a traceback."""
    _quiet()
    try:
        app()
    except SafetyModulesError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)


def _quiet() -> None:
    """No progress bars and advice from libraries between our own lines; errors still show."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
