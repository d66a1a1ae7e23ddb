"""The command line, `safety-modules`: a thin dispatcher. Heavy imports wait until a command runs."""

import errno
import sys
from typing import Annotated

import typer

from safety_modules.cli import audit, calibrate, data, demo, doctor, evaluate, fit, serve, show, train
from safety_modules.cli.examples import epilog
from safety_modules.cli.interruption import Interruptible
from safety_modules.errors import SafetyModulesError
from safety_modules.version import __version__


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"safety-modules {__version__}")
        raise typer.Exit()


app = typer.Typer(
    cls=Interruptible,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Attach safety to a LLaVA that is already trained."""


evaluate_app = typer.Typer(invoke_without_command=True, epilog=epilog("evaluate"))
data_app = typer.Typer(help="Look at risk data before training on it.", no_args_is_help=True)

app.command(epilog=epilog("demo"))(demo.demo)
app.command(epilog=epilog("train"))(train.train)
app.command(epilog=epilog("fit"))(fit.fit)
app.command(epilog=epilog("calibrate"))(calibrate.calibrate)
app.command(epilog=epilog("audit"))(audit.audit)
app.command(epilog=epilog("doctor"))(doctor.doctor)
app.command(epilog=epilog("classify"))(show.classify)
app.command(epilog=epilog("serve"))(serve.serve)
app.command(epilog=epilog("inspect"))(show.inspect)
app.command(epilog=epilog("path"))(show.path)
app.add_typer(evaluate_app, name="evaluate")
evaluate_app.callback()(evaluate.evaluate)
evaluate_app.command(epilog=epilog("evaluate pocket"))(evaluate.pocket)
app.add_typer(data_app, name="data")
data_app.command(epilog=epilog("data check"))(data.check)


def main(program: typer.Typer = app) -> None:
    """Run a command; what the package refuses is one message and exit code 1, not a traceback."""
    _quiet()
    try:
        program()
    except SafetyModulesError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in FULL_OR_CLOSED:
            raise
        typer.secho(
            f"stopped: expected to write, got {error}. Make room, or name another place; then run the command again.",
            fg="red",
            err=True,
        )
        sys.exit(1)


FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a disk says that fills up or is taken away while a command runs."""


def _quiet() -> None:
    """No progress bars and advice from libraries between our own lines; errors still show."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
