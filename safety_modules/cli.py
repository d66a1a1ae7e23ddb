"""The command line, `safety-modules`: a thin dispatcher. Heavy imports wait until a command runs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.errors import AdapterError, ConfigError, SafetyModulesError

if TYPE_CHECKING:
    from safety_modules.attach import SafetyAttachment

app = typer.Typer(
    help="Attach safety to a LLaVA that is already trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate_app = typer.Typer(help="Measure a base model and its safety modules.", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate")

Model = Annotated[
    Path | None, typer.Option(help="Folder of a base model (transformers' LLaVA); default: llava-pocket.")
]
Adapter = Annotated[Path | None, typer.Option(help="Adapter folder; default: the one shipped for llava-pocket.")]
Images = Annotated[Path | None, typer.Option(help="Where relative image paths start; default: beside the data.")]
Cache = Annotated[Path | None, typer.Option(help="Keep vision features here between runs.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")]


def main() -> None:
    """Run a command; what the package refuses is one message and exit code 1, not a traceback."""
    _quiet()
    try:
        app()
    except SafetyModulesError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)


@app.command()
def demo(
    pretrained: Annotated[bool, typer.Option(help="Use the shipped adapter: one minute, no training.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture, the report and the adapter.")] = Path(
        "safety-demo"
    ),
) -> None:
    """The whole tour: attack, train, evaluate, toggle, save, detach, reload."""
    from safety_modules.demo import run_demo

    run_demo(out, pretrained)


@evaluate_app.command()
def pocket(
    adapter: Adapter = None,
    json_file: Json = None,
    samples: Annotated[int, typer.Option(min=1, help="Records per set.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    base_card: Annotated[bool, typer.Option("--base-card", help="The base model's own numbers, no adapter.")] = False,
) -> None:
    """Base against guarded on pocket's held-out test data: the numbers in the README."""
    from safety_modules import pocket as world
    from safety_modules.evaluation.base_card import evaluate_base_card
    from safety_modules.evaluation.pocket_suite import evaluate_pocket
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.tables import print_base_card, print_results

    if base_card:
        if adapter is not None:
            raise ConfigError("two subjects: expected --adapter or --base-card, got both. Leave one out.")
        results = evaluate_base_card(*world.load(), samples=samples, seed=seed)
        print_base_card(results)
    else:
        results = evaluate_pocket(_attach(None, adapter), samples=samples, seed=seed)
        print_results(results)
    if json_file is not None:
        write_json(json_file, results)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Model = None,
    data: Annotated[
        Path | None, typer.Option(help="Records (.jsonl or .json); default: pocket's training mix.")
    ] = None,
    images: Images = None,
    recipe: Annotated[
        list[Path] | None, typer.Option(help="A stage's YAML file; repeat for both. Default: pocket's.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Design of the modules: default or paper.")] = "default",
    validation: Annotated[Path | None, typer.Option(help="Records to measure the head on.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder for logs and checkpoints.")] = None,
    cache: Cache = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --runs.")] = False,
) -> None:
    """Train safety modules in two stages, and save an adapter. Pocket's is calibrated too."""
    from safety_modules.attach import attach_safety
    from safety_modules.config import SafetyConfig
    from safety_modules.paths import recipe_dir
    from safety_modules.pocket import mix
    from safety_modules.training import calibrate as set_thresholds
    from safety_modules.training import read_records, train_safety

    if data is None and model is not None:
        raise ConfigError("nothing to train on: expected --data with --model, got none. Name a data file.")
    base, processor = _load_base(model)
    safety = attach_safety(base, processor, config=SafetyConfig.preset(preset))
    recipes = recipe or [recipe_dir() / "stage1.yaml", recipe_dir() / "stage2.yaml"]
    records = mix.training_records() if data is None else read_records(data, images)
    held_out = None if validation is None else read_records(validation, images)
    train_safety(safety, records, recipes, held_out, runs, cache_dir=cache, resume=resume)
    metadata = {
        "data": "pocket" if data is None else data.name,
        "records": len(records),
        "recipes": {path.name: path.read_text(encoding="utf-8") for path in recipes},
    }
    safety.save_pretrained(out, metadata=metadata)
    if data is not None:
        typer.echo(f"{out}: not calibrated yet. Next: safety-modules calibrate --adapter {out} --benign FILE")
        return
    _calibrate(set_thresholds, out, None, mix.calibration_records(), mix.MAX_FALSE_ALARM, False, cache)


@app.command()
def calibrate(
    adapter: Annotated[Path, typer.Option(help="Adapter folder; its thresholds are replaced.")],
    model: Model = None,
    benign: Annotated[
        Path | None, typer.Option(help="Clean records (.json or .jsonl); default: pocket's validation data.")
    ] = None,
    images: Images = None,
    max_false_alarm: Annotated[float, typer.Option(help="At most this share of benign images is flagged.")] = 0.01,
    per_type: Annotated[bool, typer.Option("--per-type", help="A threshold for each risk type.")] = False,
    cache: Cache = None,
) -> None:
    """Set an adapter's thresholds: "at most 1 % of my benign images flagged"."""
    from safety_modules.pocket import mix
    from safety_modules.training import calibrate as set_thresholds
    from safety_modules.training import read_records

    if benign is None and model is not None:
        raise ConfigError("nothing to calibrate on: expected --benign with --model, got none. Name a data file.")
    records = mix.calibration_records() if benign is None else read_records(benign, images)
    _calibrate(set_thresholds, adapter, model, records, max_false_alarm, per_type, cache)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Pictures to judge.")],
    adapter: Adapter = None,
    model: Model = None,
    question: Annotated[str | None, typer.Option(help="What is asked about them; default: images alone.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Write pictures with attention maps here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Verdicts on pictures, without the language model."""
    from rich.console import Console
    from rich.table import Table

    from safety_modules.training.records import Record

    pictures = [
        Record(image=path, question="", answer=None, type="clean", level="safe").load_image() for path in images
    ]
    verdicts = _attach(model, adapter).classify(images=pictures, questions=question)
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
        for number, (path, picture, verdict) in enumerate(zip(images, pictures, verdicts, strict=True)):
            verdict.overlay(picture).save(overlays / f"{number:04d}_{path.stem}.png")
    if as_json:
        for path, verdict in zip(images, verdicts, strict=True):
            typer.echo(json.dumps({"image": str(path), **verdict.to_dict()}))
        return
    table = Table(header_style="bold")
    for column in ("picture", "verdict", "level", "risk", "rule"):
        table.add_column(column, overflow="fold")
    for path, verdict in zip(images, verdicts, strict=True):
        name = f"[red]{verdict.type}[/red]" if verdict.flagged else "[green]not flagged[/green]"
        table.add_row(str(path), name, verdict.level, f"{verdict.risk:.3f}", verdict.rule or "")
    Console().print(table)


@app.command()
def inspect(
    path: Annotated[Path | None, typer.Argument(help="Adapter folder.")] = None,
    plan: Annotated[str | None, typer.Option(help="Size on a published base: llava-1.5-7b or llava-1.5-13b.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What an adapter holds, all of it checked; or how large one would be. Exit code 1: refused, with every reason."""
    from safety_modules.describe import adapter_record, adapter_text, plan_record, plan_text

    if (path is None) == (plan is None):
        raise ConfigError("nothing to inspect: expected an adapter folder or --plan, got both or neither. Pass one.")
    if plan is not None:
        record = plan_record(plan)
        typer.echo(json.dumps(record, indent=2) if as_json else plan_text(record))
        return
    assert path is not None
    try:
        record = adapter_record(path)
    except AdapterError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"path": str(path), "valid": False, "problems": error.problems}, indent=2))
        raise typer.Exit(1) from None
    typer.echo(json.dumps(record, indent=2) if as_json else adapter_text(record))


def _calibrate(
    set_thresholds: Any,
    adapter: Path,
    model: Path | None,
    records: Any,
    max_false_alarm: float,
    per_type: bool,
    cache: Path | None,
) -> None:
    """On the adapter as it is on disk, so that rounding is part of what is calibrated."""
    from safety_modules.adapter import read_adapter

    safety = _attach(model, adapter)
    config = read_adapter(adapter).config
    found = set_thresholds(safety, records, max_false_alarm, per_type, cache_dir=cache)
    safety.save_pretrained(adapter, dtype=config.dtype, metadata=config.metadata)
    limits = ", ".join(f"{name} {value:.3f}" for name, value in found.thresholds.items())
    typer.echo(f"{adapter}: thresholds {limits}; {found.flagged} of {found.images} benign pictures flagged")


def _load_base(model: Path | None) -> tuple[Any, Any]:
    if model is None:
        from safety_modules import pocket as world

        return world.load()
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    if not (model / "config.json").is_file():
        raise ConfigError(f"no base model: expected a folder with config.json, got {model}. Check --model.")
    base = LlavaForConditionalGeneration.from_pretrained(model, dtype="auto")
    return base.eval(), AutoProcessor.from_pretrained(model)


def _attach(model: Path | None, adapter: Path | None) -> "SafetyAttachment":
    from safety_modules.attach import attach_safety
    from safety_modules.paths import adapter_dir

    if adapter is None and model is not None:
        raise ConfigError("no adapter: expected --adapter with --model, got none. Name the adapter's folder.")
    base, processor = _load_base(model)
    return attach_safety(base, processor, adapter=adapter or adapter_dir())


def _quiet() -> None:
    """No progress bars and advice from libraries between our own lines; errors still show."""
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
