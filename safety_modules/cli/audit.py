"""`safety-modules audit`."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Adapter, Model, grouped
from safety_modules.cli.reading import ImageKey
from safety_modules.errors import ConfigError
from safety_modules.paths import adapter_for, checkpoint_dir


class Scan(NamedTuple):
    """How the data is read and judged: as `audit.audit` names it."""

    image_dir: Annotated[
        Path | None, typer.Option("--images", help="Where relative image paths start; default: beside the data.")
    ] = None
    image_key: ImageKey = None
    format: Annotated[
        str | None,
        typer.Option(help="jsonl, llava, vlguard, csv, parquet, folder, hf or webdataset; default: recognised."),
    ] = None
    question: Annotated[str | None, typer.Option(help="folder: what is asked about every picture.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="hf: read while loading.")] = False
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None
    dtype: Annotated[str | None, typer.Option(help="Of the tower; default: bfloat16 on CUDA, float32 on the CPU.")] = (
        None
    )
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures in one run of the tower.")] = None
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode pictures; default: all cores but one.")
    ] = None


@grouped
def audit(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for what is found; the same command on it goes on.")],
    data: Annotated[str | None, typer.Argument(help="Folder of pictures, data file, shards or hf:// address.")] = None,
    model: Model = None,
    adapter: Adapter = None,
    scan: Scan = Scan(),
    policy: Annotated[Path | None, typer.Option(help="Policy file; default: the shipped one.")] = None,
    apply: Annotated[
        Path | None, typer.Option(help="Marks of a review: write the data without what was confirmed.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="--apply: where the cleaned copy goes; default: in OUT.")] = None,
    estimate: Annotated[Path | None, typer.Option(help="Marks of a random sample: print the precision.")] = None,
) -> None:
    """Find the risky pictures of a dataset; no language model is loaded. Interrupted, the same command goes on.

    --apply and --estimate work on an audit that is done.
    """
    if apply is not None:
        apply_review(out, apply, to)
    if estimate is not None:
        print_precision(out, estimate)
    if apply is not None or estimate is not None:
        return
    if data is None:
        raise ConfigError("nothing to audit: expected DATA, got none. Name a folder, file, shards or address.")
    guard = adapter_for(model, adapter)

    from safety_modules.audit import audit as run
    from safety_modules.audit.report import write_report
    from safety_modules.backbones.bases import find_base
    from safety_modules.policy.outside import Outsiders
    from safety_modules.policy.policy import Policy

    goes_on(context)
    base = checkpoint_dir() if model is None else find_base(model)
    rules = None if policy is None else Policy.from_yaml(policy)
    found = run(data, out, base, guard, policy=rules, **scan._asdict())
    if found.get("notice"):
        typer.echo(found["notice"])
    known = Outsiders(**found["outside"]) if found.get("outside") else None
    if known is not None and (known.large or known.void):
        typer.echo("\n".join(known.lines()))
    names = ("scored", "duplicates", "unreadable", "text_only")
    counts = ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in names)
    typer.echo(f"{found['rows']} rows: {counts}; {found['images_per_second']} pictures a second")
    for what, count in found["left_out"].items():
        typer.echo(f"{count} passed over: {what}")
    if (moving := found["animations"])["rows"]:
        typer.echo(f"{moving['rows']} animations: {moving['judged']} of {moving['frames']} frames judged")
    by_type = ", ".join(f"{name} {count}" for name, count in found["by_type"].items() if count)
    typer.echo(f"{found['flagged']} flagged{': ' if by_type else ''}{by_type}")
    typer.echo(f"{found['label_disagreements']['count']} labels doubted; report: {write_report(out)}")


def apply_review(out: Path, marks: Path, to: Path | None = None) -> None:
    """Write the cleaned copy of the audited data, and say what was removed."""
    from safety_modules.audit.review_apply import apply_marks

    done = apply_marks(out, marks, to)
    typer.echo(f"{done.input} rows: {done.kept} kept, {done.removed} removed.")
    typer.echo(f"Cleaned copy: {done.copy}\nWhat was removed, and why: {done.manifest}")
    typer.echo(f"Training data: {done.exports['confirm']} (risks), {done.exports['reject']} (clean).")


def print_precision(out: Path, marks: Path) -> None:
    """Print the precision that a judged random sample shows."""
    from rich.console import Console
    from rich.table import Table

    from safety_modules.audit.review_marks import ENOUGH, estimate_precision

    found = estimate_precision(out, marks)
    table = Table(title=f"Precision: true finds among {found.flagged} flagged rows", title_justify="left")
    for column in ("type", "judged", "precision (95 %)"):
        table.add_column(column)
    table.add_row("all", str(found.overall.n), found.overall.percent())
    for type, one in found.types.items():
        table.add_row(type, str(one.n), one.percent())
    for type, count in found.too_few.items():
        table.add_row(type, str(count), f"too few: expected at least {ENOUGH}")
    Console().print(table)
