"""What page, plots and terminal all show of `report.json`."""

import re
from collections.abc import Mapping
from typing import Any

from safety_modules.evaluation.outcomes import BASE, MEASURES

ALL, TIME = "all", "time"
STRENGTH = re.compile(r"(?P<kind>.+)-(?P<strength>\d+)(?:/(?P<source>.+))?")
"""Parts that are one thing at several strengths, such as `corrupted-jpeg-3/attack`."""


def strengths(parts: Mapping[str, Any], measure: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Of parts at several strengths, by kind and strength, the row of every system; those that have the measure."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, table in parts.items():
        match = STRENGTH.fullmatch(name)
        if match and any(row[measure] for row in table.values()):
            found.setdefault(match["kind"], {})[int(match["strength"])] = table
    return {kind: dict(sorted(tables.items())) for kind, tables in found.items()}


def strength_rows(report: Mapping[str, Any], judge: str) -> list[tuple[str, str, str, str]]:
    """For every kind and system: attack success and over-refusal in percent, from the weakest to the strongest."""
    parts = report["parts"][judge]
    columns = [strengths(parts, measure) for measure in ("asr", "over_refusal")]
    rows = []
    for kind in dict.fromkeys(kind for column in columns for kind in column):
        for system in report["systems"]:
            cells = [
                " / ".join(
                    f"{100 * table[system][measure]['value']:.0f}" if table[system][measure] else "–"
                    for table in column.get(kind, {}).values()
                )
                for measure, column in zip(("asr", "over_refusal"), columns, strict=True)
            ]
            rows.append((kind, system, *cells))
    return rows


def worst_strengths(report: Mapping[str, Any], judge: str) -> dict[str, tuple[str, int, float]]:
    """For every system the kind and strength at which most attacks succeed, and their share."""
    found: dict[str, tuple[str, int, float]] = {}
    for kind, tables in strengths(report["parts"][judge], "asr").items():
        for strength, table in tables.items():
            for system, row in table.items():
                value = row["asr"] and row["asr"]["value"]
                if value is not None and value > found.get(system, ("", 0, -1.0))[2]:
                    found[system] = (kind, strength, value)
    return found


def shown_measures(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The measures of the main table that any system has a value for."""
    return [name for name in MEASURES if MEASURES[name].main and any(row[name] for row in table.values())]


def against_base(report: Mapping[str, Any], judge: str | None) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """The comparisons with the bare base, by group, measure and system; those of time have no judge."""
    return {
        (row["group"], row["measure"], row["system"]): row
        for row in report["comparisons"]
        if row["judge"] == judge and row["against"] == BASE
    }


def column_title(measure: str) -> str:
    """What a column with the measure is called."""
    return MEASURES[measure].title + (", %" if MEASURES[measure].share else "")


def group_title(report: Mapping[str, Any], group: str) -> str:
    """What a report calls a group of cases."""
    if group != ALL:
        return group
    parts = report["suite"]["parts"]
    apart = sum(bool(STRENGTH.fullmatch(part)) for part in parts)
    return "all cases, corrupted pictures apart" if 0 < apart < len(parts) else "all cases"
