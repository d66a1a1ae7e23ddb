"""`safety-modules classify` and `safety-modules inspect`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.cli.options import Adapter, Dtype, Model, Quantize, attach, writable_folder
from safety_modules.errors import AdapterError, ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from safety_modules.attachment import SafetyAttachment
    from safety_modules.verdict import Verdict


AT_ONCE = 64
"""Pictures that are in memory at a time."""


def classify(
    images: Annotated[
        list[Path], typer.Argument(help="Pictures to judge, or folders of them with all that is inside.")
    ],
    adapter: Adapter = None,
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    question: Annotated[str | None, typer.Option(help="What is asked about them; default: images alone.")] = None,
    overlays: Annotated[
        Path | None, typer.Option(callback=writable_folder, help="Write pictures with attention maps here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Verdicts on pictures, without the language model.

    Files that cannot be read are listed, and the rest is judged; the exit code is then 1.
    """
    from rich.console import Console

    paths, others = pictures_in(images)
    safety = attach(model, adapter, quantize, dtype)
    table, broken = _table(), 0
    for start in range(0, len(paths), AT_ONCE):
        for number, (path, verdict, picture) in enumerate(
            _judged(safety, paths[start : start + AT_ONCE], question), start
        ):
            if isinstance(verdict, str):
                broken += 1
                typer.secho(f"{path}: {verdict}", fg="red", err=True)
                if as_json:
                    typer.echo(json.dumps({"image": str(path), "error": verdict}))
                continue
            if overlays is not None:
                overlays.mkdir(parents=True, exist_ok=True)
                verdict.overlay(picture).save(overlays / f"{number:04d}_{path.stem}.png")
            if as_json:
                typer.echo(json.dumps({"image": str(path), **verdict.to_dict(), "image_index": number}))
            else:
                table.add_row(*_cells(path, verdict))
    if table.row_count:
        Console().print(table)
    if broken or others:
        counts = f"{len(paths) - broken} judged, {broken} not readable, {others} files that are no pictures passed over"
        typer.echo(f"{len(paths) + others} files: {counts}", err=True)
    if broken:
        raise typer.Exit(1)


def pictures_in(given: Sequence[Path]) -> tuple[list[Path], int]:
    """Pictures among files and in folders, in the order of names; and how many other files the folders hold.

    Names that begin with a dot are passed over. A file that is named always counts as a picture.

    Raises:
        DataError: folders without a picture.
    """
    from PIL import Image

    paths: list[Path] = []
    others = 0
    for place in given:
        if not place.is_dir():
            paths.append(place)
            continue
        hidden = len(place.parts)
        inside = [path for path in sorted(place.rglob("*")) if not any(p.startswith(".") for p in path.parts[hidden:])]
        files = [path for path in inside if path.is_file()]
        pictures = [path for path in files if path.suffix.lower() in Image.registered_extensions()]
        paths += pictures
        others += len(files) - len(pictures)
    if not paths:
        names = ", ".join(map(str, given))
        raise DataError(f"nothing to judge: expected pictures in {names}, got {others} other files. Check the path.")
    return paths, others


def _judged(
    safety: "SafetyAttachment", paths: Sequence[Path], question: str | None
) -> "Iterator[tuple[Path, Verdict | str, Any]]":
    """Every path with its verdict and picture, or with why it cannot be read."""
    from safety_modules.records.record import Record

    loaded: list[Any] = []
    for path in paths:
        try:
            record = Record(image=path, question="", answer=None, type="clean", level="safe")
            loaded.append(record.load_image())
        except DataError as error:
            loaded.append(str(error))
    pictures = [picture for picture in loaded if not isinstance(picture, str)]
    verdicts = iter(safety.classify(images=pictures, questions=question) if pictures else ())
    for path, picture in zip(paths, loaded, strict=True):
        yield (path, picture, None) if isinstance(picture, str) else (path, next(verdicts), picture)


def _table() -> "Table":
    from rich.table import Table

    table = Table(header_style="bold")
    for column in ("picture", "verdict", "level", "risk", "rule"):
        table.add_column(column, overflow="fold")
    return table


def _cells(path: Path, verdict: "Verdict") -> tuple[str, ...]:
    from rich.markup import escape

    name = f"[red]{verdict.type}[/red]" if verdict.flagged else "[green]not flagged[/green]"
    return escape(str(path)), name, verdict.level, f"{verdict.risk:.3f}", verdict.rule or ""


def path(
    name: Annotated[
        str, typer.Argument(help="A shipped model, adapter, recipe or accelerate/... configuration; policy.")
    ],
) -> None:
    """Where something that comes with the package lies, to look at it, copy it, or hand it to another program."""
    from safety_modules.paths import shipped_path

    typer.echo(shipped_path(name))


def inspect(
    path: Annotated[str | None, typer.Argument(help="Adapter: folder, hub id or shipped name.")] = None,
    plan: Annotated[str | None, typer.Option(help="Size on a published base: llava-1.5-7b or llava-1.5-13b.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What an adapter holds, all of it checked; or how large one would be. Exit code 1: refused, with every reason."""
    from safety_modules.adapter_hub import find_adapter
    from safety_modules.describe import adapter_record, adapter_text, plan_record, plan_text

    if (path is None) == (plan is None):
        raise ConfigError("nothing to inspect: expected an adapter folder or --plan, got both or neither. Pass one.")
    if plan is not None:
        record = plan_record(plan)
        typer.echo(json.dumps(record, indent=2) if as_json else plan_text(record))
        return
    assert path is not None
    try:
        record = adapter_record(find_adapter(path))
    except AdapterError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"path": str(path), "valid": False, "problems": error.problems}, indent=2))
        raise typer.Exit(1) from None
    typer.echo(json.dumps(record, indent=2) if as_json else adapter_text(record))
