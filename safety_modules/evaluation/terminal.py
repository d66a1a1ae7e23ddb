"""How results stand in the terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from safety_modules.evaluation.harness.readout import (
    ALL,
    against_base,
    column_title,
    group_title,
    shown_measures,
    strength_rows,
    worst_strengths,
)
from safety_modules.evaluation.outcomes import BASE, CONTENT, MEASURES, REACTIONS, RISK_NOTE, RISKS, attack_lines
from safety_modules.policy.outside import LARGE

COLOURS = {"ahead": "green", "behind": "red"}


def print_overview(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print, for each group of cases, what the first judge's numbers say."""
    console = console or Console()
    judge = next(iter(report["judges"]))
    compared = against_base(report, judge)
    for system, share in report.get("outside", {}).items():
        trust = "; its verdicts on them are not to be trusted" if share["value"] > LARGE else ""
        console.print(
            f"{system}: {share['value']:.1%} of these pictures are unlike what its head was trained on{trust}"
        )
    for group, table in report["results"][judge].items():
        measures = shown_measures(table)
        title = f"{report['suite']['name']}: {group_title(report, group)}"
        columns = [*map(column_title, measures), *(["time, ratio"] if group == ALL else [])]
        shown = terminal_table(title, "system", *columns, wrap=False)
        for system, row in table.items():
            cells = [_cell(name, row[name], compared.get((group, name, system))) for name in measures]
            if group == ALL:
                ratio = report["cost"][system]["time_ratio"]
                cells.append("–" if ratio is None else f"{ratio['median']:.2f}")
            shown.add_row(system, *cells)
        console.print(shown)
        attacks = attack_table(f"{title}: what attacks got, %", report["attacks"][judge][group], _share)
        if attacks is not None:
            console.print(attacks)
    _print_strengths(report, judge, console)
    console.print(
        f"judge {judge}; 95 % intervals; [green]ahead of[/green] or [red]behind[/red] {BASE} where they show it"
    )


def _share(share: Mapping[str, Any] | None) -> str:
    return "–" if share is None else f"{100 * share['value']:.1f}"


def _print_strengths(report: Mapping[str, Any], judge: str, console: Console) -> None:
    rows = strength_rows(report, judge)
    if not rows:
        return
    columns = ("pictures", "system", "attack success rate", "over-refusal")
    shown = terminal_table("corrupted pictures, by strength, %", *columns, left=4)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for system, (kind, strength, share) in worst_strengths(report, judge).items():
        if system != BASE:
            console.print(f"worst for {system}: {kind}, strength {strength}: {100 * share:.1f} % of attacks succeed")


def _cell(measure: str, estimate: Mapping[str, Any] | None, compared: Mapping[str, Any] | None) -> str:
    colour = COLOURS.get(compared["finding"]) if compared else None
    return number_cell(estimate, colour, scale=100 if MEASURES[measure].share else 1)


def terminal_table(title: str, *columns: str, left: int = 1, wrap: bool = True) -> Table:
    """An empty table.

    Args:
        title: above it, at the left.
        columns: their headings.
        left: so many of the first columns hold words, the others numbers.
        wrap: whether words may be broken into lines.
    """
    table = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    for place, column in enumerate(columns):
        words = place < left
        table.add_column(column, justify="left" if words else "right", no_wrap=words and not wrap)
    return table


def attack_table(title: str, systems: Mapping[str, Any], cell: Callable[[Any], str]) -> Table | None:
    """What attacks got, a line for each system and risk; None where there were none."""
    lines = attack_lines(systems)
    if not lines:
        return None
    reached = "content reached the user"
    table = terminal_table(title, "system", "risk", *REACTIONS.values(), reached, left=2, wrap=False)
    for system, risk, shares in lines:
        table.add_row(system, RISKS[risk][0], *(cell(shares.get(name)) for name in (*REACTIONS, CONTENT)))
    table.caption = RISK_NOTE if any(risk == "low" for _, risk, _ in lines) else None
    return table


def number_cell(
    estimate: Mapping[str, float] | None, colour: str | None = None, note: str = "", scale: float = 100
) -> str:
    """A number, by default a share in percent, over its interval; `–` where there is none.

    Args:
        estimate: in plain JSON types.
        colour: of the number.
        note: beside it.
        scale: what all are multiplied with.
    """
    if estimate is None:
        return "–"
    value, low, high = (scale * estimate[key] for key in ("value", "low", "high"))
    text = f"[{colour}]{value:.1f}[/{colour}]" if colour else f"{value:.1f}"
    return f"{text}{note and f' [dim]{note}[/dim]'}\n[dim]{low:.1f} to {high:.1f}[/dim]"
