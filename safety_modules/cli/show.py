"""`safety-modules classify`, `path` and `inspect`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Model, Quantize, attach, writable_folder
from safety_modules.errors import AdapterError, ConfigError, DataError
from safety_modules.paths import shipped_path

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment
    from safety_modules.policy.verdict import Verdict

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
    from rich.table import Table

    from safety_modules.pocket.base import notice

    paths, others = pictures_in(images)
    safety = attach(model, adapter, quantize, dtype)
    if told := notice(safety.backbone.fingerprint()):
        typer.echo(told, err=True)
    about = {"notice": told} if told else {}
    table, broken = Table(header_style="bold"), 0
    for column in ("picture", "verdict", "level", "score", "threshold"):
        table.add_column(column, overflow="fold")
    for number, (path, verdict) in enumerate(_judged(safety, paths, question)):
        if isinstance(verdict, str):
            broken += 1
            typer.secho(f"{path}: {verdict}", fg="red", err=True)
            if as_json:
                typer.echo(json.dumps({"image": str(path), "error": verdict}))
            continue
        if overlays is not None:
            overlays.mkdir(parents=True, exist_ok=True)
            verdict.overlay(path).save(overlays / f"{number:04d}_{path.stem}.png")
        if as_json:
            typer.echo(json.dumps({"image": str(path), **verdict.to_dict(), "image_index": number, **about}))
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
        inside = sorted(place.rglob("*")) if place.is_dir() else []
        files = [path for path in inside if path.is_file() and "/." not in f"/{path.relative_to(place).as_posix()}"]
        pictures = [path for path in files if path.suffix.lower() in Image.registered_extensions()]
        paths += pictures if place.is_dir() else [place]
        others += len(files) - len(pictures)
    if not paths:
        names = ", ".join(map(str, given))
        raise DataError(f"nothing to judge: expected pictures in {names}, got {others} other files. Check the path.")
    return paths, others


def _judged(
    safety: "SafetyAttachment", paths: Sequence[Path], question: str | None
) -> "Iterator[tuple[Path, Verdict | str]]":
    """Every path with its verdict, or with why it cannot be read."""
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        try:
            yield from zip(some, safety.classify(images=some, questions=question), strict=True)
        except DataError:  # one of them: that costs it its own verdict, and the others nothing
            for path in some:
                try:
                    yield path, safety.classify(images=path, questions=question)[0]
                except DataError as error:
                    yield path, str(error).removeprefix("images[0]: ")


def _cells(path: Path, verdict: "Verdict") -> tuple[str, ...]:
    from rich.markup import escape

    name = f"[red]{verdict.type}[/red]" if verdict.flagged else "[green]not flagged[/green]"
    if verdict.is_outside:
        name += f" [yellow](unlike what was trained, p = {verdict.outside:.3f})[/yellow]"
    if verdict.frames > 1:
        name += f" (frame {verdict.frame + 1} of {verdict.frames}, {verdict.frames_judged} judged)"
    if verdict.flagged and (verdict.turn or 0) > 1:
        name += f" (turn {verdict.turn})"
    type = verdict.nearest
    if type is None:
        return escape(str(path)), name, "", "", "every type is off"
    nearest = "" if verdict.flagged else f" ({type})"
    level = verdict.level if verdict.flagged else ""
    return escape(str(path)), name, level, f"{verdict.scores[type]:.2f}", f"{verdict.limits[type]:.2f}{nearest}"


def path(
    name: Annotated[
        str, typer.Argument(help="A shipped model, adapter, recipe or accelerate/... configuration; policy.")
    ],
) -> None:
    """Where something that comes with the package lies, to look at it, copy it, or hand it to another program."""
    typer.echo(shipped_path(name))


def inspect(
    path: Annotated[str | None, typer.Argument(help="Adapter: folder, hub id or shipped name.")] = None,
    plan: Annotated[str | None, typer.Option(help="Size on a published base: llava-1.5-7b or llava-1.5-13b.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What an adapter holds, all of it checked; or how large one would be. Exit code 1: refused, with every reason."""
    from safety_modules.adapter.describe import adapter_record, adapter_text, presets_record, presets_text
    from safety_modules.adapter.hub import find_adapter

    if (path is None) == (plan is None):
        raise ConfigError("nothing to inspect: expected an adapter folder or --plan, got both or neither. Pass one.")
    try:
        record = adapter_record(find_adapter(path)) if path is not None else presets_record(str(plan))
    except AdapterError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"path": str(path), "valid": False, "problems": error.problems}, indent=2))
        raise typer.Exit(1) from None
    text = adapter_text if path is not None else presets_text
    typer.echo(json.dumps(record, indent=2) if as_json else text(record))
