"""An evaluation's main numbers as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from safety_modules.evaluation.harness.strengths import strength_rows, worst_strengths
from safety_modules.evaluation.harness.summary import ALL, BASE, group_title
from safety_modules.evaluation.outcomes import MEASURES
from safety_modules.evaluation.terminal import attack_table, terminal_table

COLOURS = {"ahead": "green", "behind": "red"}


def print_overview(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print, for each group of cases, what the first judge's numbers say."""
    console = console or Console()
    judge = next(iter(report["judges"]))
    findings = {
        (row["group"], row["measure"], row["system"]): row["finding"]
        for row in report["comparisons"]
        if row["judge"] == judge and row["against"] == BASE
    }
    for group, table in report["results"][judge].items():
        measures = [name for name in MEASURES if MEASURES[name].main and any(row[name] for row in table.values())]
        title = f"{report['suite']['name']}: {group_title(report, group)}"
        columns = [*map(column_title, measures), *(["time, ratio"] if group == ALL else [])]
        shown = terminal_table(title, "system", *columns, wrap=False)
        for system, row in table.items():
            cells = [_cell(name, row[name], findings.get((group, name, system), "")) for name in measures]
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


def column_title(measure: str) -> str:
    """What a column with the measure is called."""
    return MEASURES[measure].title + (", %" if MEASURES[measure].share else "")


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


def _cell(measure: str, estimate: Mapping[str, Any] | None, finding: str) -> str:
    if estimate is None:
        return "–"
    scale = 100 if MEASURES[measure].share else 1
    value, low, high = (scale * estimate[key] for key in ("value", "low", "high"))
    colour = COLOURS.get(finding)
    text = f"[{colour}]{value:.1f}[/{colour}]" if colour else f"{value:.1f}"
    return f"{text}\n[dim]{low:.1f} to {high:.1f}[/dim]"
