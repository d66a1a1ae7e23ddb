"""`safety-modules audit --apply` and `--estimate`: what becomes of a reviewer's marks."""

from pathlib import Path


def apply(out: Path, marks: Path, to: Path | None = None) -> None:
    """Write the cleaned copy of the audited data, and say what was removed."""
    from rich.console import Console

    from safety_modules.audit.review_apply import apply_marks

    done = apply_marks(out, marks, to)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{done.input} rows: {done.kept} kept, {done.removed} removed.", markup=False)
    console.print(f"Cleaned copy: {done.copy}\nWhat was removed, and why: {done.manifest}", markup=False)
    console.print(f"Training data: {done.exports['confirm']} (risks), {done.exports['reject']} (clean).", markup=False)


def estimate(out: Path, marks: Path) -> None:
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
