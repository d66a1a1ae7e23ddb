"""Parts that are one thing at several strengths, such as corrupted pictures: their tables, and where they are worst."""

import re
from collections.abc import Mapping
from typing import Any

STRENGTH = re.compile(r"(?P<kind>.+)-(?P<strength>\d+)(?:/(?P<source>.+))?")
"""Parts that are one thing at several strengths, such as `corrupted-jpeg-3/attack`."""


def strengths(parts: Mapping[str, Any], measure: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Of parts at several strengths, by kind and strength, the row of every system; those that have the measure.

    Args:
        parts: of one judge, as in `report.json`.
        measure: of `MEASURES`.
    """
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
