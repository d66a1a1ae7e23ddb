"""An evaluation's main numbers as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from safety_modules.evaluation.harness.strengths import strength_rows, worst_strengths
from safety_modules.evaluation.harness.summary import ALL, BASE, group_title
from safety_modules.evaluation.outcomes import CONTENT, MEASURES, REACTIONS, RISK_NOTE, RISKS, attack_lines

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
        shown = Table(title=title, title_justify="left", header_style="bold")
        shown.add_column("system", no_wrap=True)
        for name in measures:
            shown.add_column(MEASURES[name].title + (", %" if MEASURES[name].share else ""), justify="right")
        if group == ALL:
            shown.add_column("time, ratio", justify="right")
        for system, row in table.items():
            cells = [_cell(name, row[name], findings.get((group, name, system), "")) for name in measures]
            if group == ALL:
                ratio = report["cost"][system]["time_ratio"]
                cells.append("–" if ratio is None else f"{ratio['median']:.2f}")
            shown.add_row(system, *cells)
        console.print(shown)
        _print_attacks(report["attacks"][judge][group], title, console)
    _print_strengths(report, judge, console)
    console.print(
        f"judge {judge}; 95 % intervals; [green]ahead of[/green] or [red]behind[/red] {BASE} where they show it"
    )


def _print_attacks(table: Mapping[str, Any], title: str, console: Console) -> None:
    lines = attack_lines(table)
    if not lines:
        return
    shown = Table(title=f"{title}: what attacks got, %", title_justify="left", header_style="bold")
    for column in ("system", "risk"):
        shown.add_column(column)
    columns = (*REACTIONS, CONTENT)
    for name in (*REACTIONS.values(), "content reached the user"):
        shown.add_column(name, justify="right")
    for system, risk, shares in lines:
        cells = (f"{100 * shares[name]['value']:.1f}" if name in shares else "–" for name in columns)
        shown.add_row(system, RISKS[risk][0], *cells)
    if any(risk == "low" for _, risk, _ in lines):
        shown.caption, shown.caption_justify = RISK_NOTE, "left"
    console.print(shown)


def _print_strengths(report: Mapping[str, Any], judge: str, console: Console) -> None:
    rows = strength_rows(report, judge)
    if not rows:
        return
    shown = Table(title="corrupted pictures, by strength, %", title_justify="left", header_style="bold")
    for column in ("pictures", "system", "attack success rate", "over-refusal"):
        shown.add_column(column)
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
