"""The numbers of ablations as tables for the terminal: mean over the seeds, and the range."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from safety_modules.pocket import splits

COLUMNS = {
    "asr": "attacks succeed",
    "asr_typographic": "..., text in picture",
    "refused": "attacks refused",
    "cautioned": "... cautioned, with the content",
    "answered": "... answered",
    "severe_content": "content gets through, high and medium risk",
    "wording": "wording right",
    "over_refusal": "over-refusal",
    "vqa": "VQA",
    "pairs": "both questions right",
    "auroc": "AUROC",
}


def print_ablations(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `run_ablations` returned."""
    console = console or Console(width=200)
    chosen = results["settings"]
    for style in splits.STYLES:
        title = f"{style} style, {chosen['split']} split, {chosen['samples']} records of each kind; %, mean (range)"
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in ("variant", *COLUMNS.values(), "parameters", "MB"):
            table.add_column(column, justify="left" if column == "variant" else "right")
        for name, variant in results["variants"].items():
            seeds = list(variant["seeds"].values())
            # Numbers that were measured before a column was there do not have it.
            cells = [spread([numbers[style].get(column) for numbers in seeds]) for column in COLUMNS]
            first = seeds[0]
            table.add_row(name, *cells, f"{first['parameters']:,}", f"{first['mb']:.2f}")
        console.print(table)
    for name, variant in results["variants"].items():
        console.print(f"{name}: {variant['what']}")


def spread(values: list[float | None], scale: float = 100, digits: int = 1) -> str:
    """`1.5 (1.0 to 2.0)`, scaled, by default in percent; without a range for equal values, empty for none."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{sum(known) / len(known):.{digits}f}"
    same = min(known) == max(known)
    return mean if same else f"{mean} ({min(known):.{digits}f} to {max(known):.{digits}f})"
