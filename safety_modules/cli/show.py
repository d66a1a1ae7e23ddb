"""`safety-modules classify` and `safety-modules inspect`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Model, Quantize, attach
from safety_modules.errors import AdapterError, ConfigError, DataError


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
    """Verdicts on pictures, without the language model. Exit code 1: some could not be read."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    safety = attach(model, adapter, quantize, dtype)
    table = Table(header_style="bold")
    for column in ("picture", "verdict", "level", "risk", "rule"):
        table.add_column(column, overflow="fold")
    bad = False
    for number, path in enumerate(images):
        try:
            verdict = replace(safety.classify(images=path, questions=question)[0], image_index=number)
        except DataError as error:  # costs that picture only
            bad, reason = True, str(error).removeprefix("images[0]: ")
            if as_json:
                typer.echo(json.dumps({"image": str(path), "error": reason}))
            table.add_row(escape(str(path)), "[yellow]unreadable[/yellow]", "", "", escape(reason))
            continue
        if overlays is not None:
            overlays.mkdir(parents=True, exist_ok=True)
            verdict.overlay(path).save(overlays / f"{number:04d}_{path.stem}.png")
        if as_json:
            typer.echo(json.dumps({"image": str(path), **verdict.to_dict()}))
        name = f"[red]{verdict.type}[/red]" if verdict.flagged else "[green]not flagged[/green]"
        if verdict.frames > 1:
            name += f" (frame {verdict.frame + 1} of {verdict.frames}, {verdict.frames_judged} judged)"
        table.add_row(escape(str(path)), name, verdict.level, f"{verdict.risk:.3f}", verdict.rule or "")
    if not as_json:
        Console().print(table)
    if bad:
        raise typer.Exit(1)


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
