"""`safety-modules classify` and `safety-modules inspect`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Model, Quantize, attach
from safety_modules.errors import AdapterError, ConfigError


def classify(
    images: Annotated[list[Path], typer.Argument(help="Pictures to judge.")],
    adapter: Adapter = None,
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    question: Annotated[str | None, typer.Option(help="What is asked about them; default: images alone.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="Write pictures with attention maps here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Verdicts on pictures, without the language model."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from safety_modules.pocket.base import notice
    from safety_modules.records.record import Record

    pictures = [
        Record(image=path, question="", answer=None, type="clean", level="safe").load_image() for path in images
    ]
    safety = attach(model, adapter, quantize, dtype)
    verdicts = safety.classify(images=pictures, questions=question)
    told = notice(safety.backbone.fingerprint())
    if told:
        typer.echo(told, err=True)
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
        for number, (path, picture, verdict) in enumerate(zip(images, pictures, verdicts, strict=True)):
            verdict.overlay(picture).save(overlays / f"{number:04d}_{path.stem}.png")
    if as_json:
        for path, verdict in zip(images, verdicts, strict=True):
            typer.echo(json.dumps({"image": str(path), **verdict.to_dict(), **({"notice": told} if told else {})}))
        return
    table = Table(header_style="bold")
    for column in ("picture", "verdict", "level", "risk", "rule"):
        table.add_column(column, overflow="fold")
    for path, verdict in zip(images, verdicts, strict=True):
        name = f"[red]{verdict.type}[/red]" if verdict.flagged else "[green]not flagged[/green]"
        table.add_row(escape(str(path)), name, verdict.level, f"{verdict.risk:.3f}", verdict.rule or "")
    Console().print(table)


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
