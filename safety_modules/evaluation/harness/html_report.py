"""The report of an evaluation as one HTML page without any outside file, and its plots as files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.charts import draw_charts
from safety_modules.evaluation.harness.judgements import Judgements
from safety_modules.evaluation.harness.strengths import strength_rows, worst_strengths
from safety_modules.evaluation.harness.summary import BASE, TIME, group_title
from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.evaluation.outcomes import (
    CONTENT,
    MEASURES,
    REACTIONS,
    RISK_NOTE,
    RISKS,
    SUCCESS,
    attack_lines,
    outcome,
)
from safety_modules.io.html import data_uri, environment, picture_uri

SHOWN_ERRORS, SHOWN_CASES = 50, 12
LARGEST = 1024
"""Longest side of a picture in the page, in pixels: what a click on it shows."""
CHARTS = {
    "tradeoff": "Attack success against over-refusal, with 95 % intervals. Bottom left is best.",
    "attacks": "What attacks got, by their risk. A caution comes with the content, and stops nothing.",
    "parts": "Every part of the suite, with 95 % intervals.",
    "strengths": "Corrupted pictures: success of attacks and over-refusal by strength of the corruption.",
    "cost": "Median time of a batch over the base's time of the same batch (with quartiles), prompt tokens, disk.",
    "reliability": "Said risk against the share of cases that were risky, in bins of ten cases or more. "
    "On the diagonal, a risk is what it says.",
}


class Cell(NamedTuple):
    """A number as a table shows it.

    Attributes:
        text: the value.
        interval: `1.2 to 3.4`.
        bar: place of low, width and value in percent, for shares; None for others.
        finding: against the base; empty where there is none to show.
        change: against the base, for the measure of utility.
    """

    text: str
    interval: str
    bar: tuple[float, float, float] | None
    finding: str
    change: str


def write_page(
    path: Path,
    report: Mapping[str, Any],
    cases: Sequence[Case],
    transcripts: Sequence[Transcript],
    judgements: Judgements,
) -> Path:
    """Write the page, and its plots as PNG files into the same folder.

    Args:
        path: of the page.
        report: what `report.json` holds.
        cases: of the run, for the pictures of some transcripts.
        transcripts: of every system and case.
        judgements: of the first judge.
    """
    charts = draw_charts(report)
    for name, data in charts.items():
        path.with_name(f"{name}.png").write_bytes(data)
    main, *others = report["judges"]
    text = (
        environment("safety_modules.evaluation")
        .get_template("evaluation.html.j2")
        .render(
            report=report,
            measures=MEASURES,
            main=main,
            results=_results(report, main),
            other_judges=[(judge, _results(report, judge)) for judge in others],
            reactions=(*REACTIONS.values(), "content reached the user"),
            risk_note=RISK_NOTE,
            success=SUCCESS,
            strengths=strength_rows(report, main),
            worst={name: found for name, found in worst_strengths(report, main).items() if name != BASE},
            dominance=_dominance(report, main),
            charts=[(name, CHARTS[name], data_uri(data, "PNG")) for name, data in charts.items()],
            categories=_categories(report["categories"][main], list(report["systems"])),
            verdicts=_verdicts(report["verdicts"]),
            cost=_cost(report),
            comparisons=[row for row in report["comparisons"] if row["judge"] in (None, main)],
            cards=_cards(cases, transcripts, judgements),
            errors=report["judge_errors"][:SHOWN_ERRORS],
            versions=report["settings"]["sessions"][-1]["versions"],
            mixed=len({str(session) for session in report["settings"]["sessions"]}) > 1,
        )
    )
    path.write_text(text, encoding="utf-8")
    return path


def _results(report: Mapping[str, Any], judge: str) -> list[dict[str, Any]]:
    """A table for each group of cases: its columns, and a row of cells for each system."""
    compared = {
        (row["group"], row["measure"], row["system"]): row
        for row in report["comparisons"]
        if row["judge"] == judge and row["against"] == BASE
    }
    tables = []
    for group, table in report["results"][judge].items():
        columns = [name for name in MEASURES if MEASURES[name].main and any(row[name] for row in table.values())]
        rows = [
            (system, [_cell(name, row[name], compared.get((group, name, system))) for name in columns])
            for system, row in table.items()
        ]
        tables.append(
            {
                "title": group_title(report, group).capitalize(),
                "columns": [MEASURES[name] for name in columns],
                "rows": rows,
                "attacks": [
                    (system, RISKS[risk][0], [_share(shares.get(name)) for name in (*REACTIONS, CONTENT)])
                    for system, risk, shares in attack_lines(report["attacks"][judge][group])
                ],
            }
        )
    return tables


def _share(estimate: Mapping[str, Any] | None) -> Cell | None:
    return None if estimate is None else _cell(CONTENT, estimate, None)


def _cell(measure: str, estimate: Mapping[str, Any] | None, compared: Mapping[str, Any] | None) -> Cell | None:
    if estimate is None:
        return None
    share = MEASURES[measure].share
    value, low, high = _scaled(estimate, share)
    change = ""
    if compared is not None and measure == "accuracy":
        change = "change {:+.1f} ({:+.1f} to {:+.1f})".format(*_scaled(compared["difference"], share))
    return Cell(
        text=f"{value:.1f}",
        interval=f"{low:.1f} to {high:.1f}, n {estimate['n']}",
        bar=(low, high - low, value) if share else None,
        finding="" if compared is None else compared["finding"],
        change=change,
    )


def _scaled(estimate: Mapping[str, Any], share: bool) -> tuple[float, float, float]:
    value, low, high = ((100 if share else 1) * estimate[key] for key in ("value", "low", "high"))
    return value, low, high


def _dominance(report: Mapping[str, Any], judge: str) -> list[dict[str, Any]]:
    tables = []
    for group, pairs in report["dominance"][judge].items():
        measured = {pair: found for pair, found in pairs.items() if found is not None}
        rows = [(system, [found[system] for found in measured.values()]) for system in report["systems"]]
        titles = [pair.replace("_", "-").replace("asr", "attack success") for pair in measured]
        if measured:
            tables.append({"title": group_title(report, group).capitalize(), "pairs": titles, "rows": rows})
    return tables


def _categories(categories: Mapping[str, Any], systems: Sequence[str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Rows of a category and measure: for every system the value and its interval, in whole percent."""
    rows = []
    for category, table in categories.items():
        for name in ("asr", "over_refusal", "accuracy"):
            found = [table[system][name] for system in systems]
            if any(found):
                cells = [
                    (f"{100 * e['value']:.1f}", f"{100 * e['low']:.0f} to {100 * e['high']:.0f}") if e else ("–", "")
                    for e in found
                ]
                most = max(estimate["n"] for estimate in found if estimate)
                rows.append((category, f"{MEASURES[name].title}, n {most}", cells))
    return rows


def _verdicts(groups: Mapping[str, Any]) -> list[tuple[str, str, int, list[tuple[str, str]]]]:
    rows = []
    for group, table in groups.items():
        for system, found in table.items():
            areas = [found["auroc"], found["auprc"]]
            cells = [(f"{area['value']:.3f}", f"{area['low']:.3f} to {area['high']:.3f}") for area in areas]
            rows.append((group, system, areas[0]["n"], [*cells, (f"{found['ece']:.3f}", "")]))
    return rows


def _cost(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For every system its cells: number, spread and finding."""
    findings = {
        row["system"]: row["finding"]
        for row in report["comparisons"]
        if row["measure"] == TIME and row["against"] == BASE
    }
    rows = []
    for name, cost in report["cost"].items():
        tokens, system, finding = cost["extra_prompt_tokens"], report["systems"][name], findings.get(name, "")
        numbers = (
            f"{cost['seconds']:.3g}",
            f"{cost['new_tokens']:.1f}",
            f"{cost['tower_runs']:.2f}",
            f"{cost['lm_passes']:.2f}",
            f"{system['extra_mb']:.2f}",
            f"{system['extra_parameters']:,}",
        )
        cells = [
            (*_ratio(cost["time_ratio"]), "" if cost["time_ratio_benign"] else finding),
            (*_ratio(cost["time_ratio_benign"]), finding if cost["time_ratio_benign"] else ""),
            (f"{tokens['value']:.1f}", f"{tokens['low']:.1f} to {tokens['high']:.1f}", ""),
            *((number, "", "") for number in numbers),
        ]
        rows.append((name, cells))
    return rows


def _ratio(spread: Mapping[str, Any] | None) -> tuple[str, str]:
    if spread is None:
        return "–", ""
    return f"{spread['median']:.2f}", f"{spread['low']:.2f} to {spread['high']:.2f}, {spread['n']} batches"


def _cards(cases: Sequence[Case], transcripts: Sequence[Transcript], judgements: Judgements) -> list[dict[str, Any]]:
    """The first cases of every part in turn, not selected by how they turn out."""
    by_part: dict[str, list[Case]] = {}
    for case in cases:
        by_part.setdefault(case.part, []).append(case)
    rounds = range(max(map(len, by_part.values())))
    shown = [of_part[turn] for turn in rounds for of_part in by_part.values() if turn < len(of_part)][:SHOWN_CASES]
    said: dict[str, list[Transcript]] = {}
    for line in transcripts:
        said.setdefault(line.case, []).append(line)
    return [
        {
            "case": case,
            "pictures": [_picture(image) for image in case.load_images()],
            "answers": [
                (line.system, line.reply, *_label(case, line, judgements.get((line.system, case.id))))
                for line in said[case.id]
            ],
        }
        for case in shown
    ]


def _label(case: Case, line: Transcript, judgement: Any) -> tuple[str, str]:
    """What the judge made of an answer, and `good`, `bad` or neither."""
    if judgement is not None and judgement.error is not None:
        return "judge failed", ""
    values = outcome(case, line.reply, judgement)
    got = next((title for name, title in REACTIONS.items() if values.get(name)), "")
    for name, good, bad in (
        ("asr", got or "no harm", got or "harmful"),
        ("over_refusal", "answered", "refused or cautioned"),
        ("accuracy", "exact", "not exact"),
    ):
        if name in values:
            right = values[name] == (name == "accuracy")
            return (good, "good") if right else (bad, "bad")
    return (f"score {values['score']:g}", "") if "score" in values else ("", "")


def _picture(image: Image.Image) -> str:
    shown = image.copy()
    shown.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return picture_uri(shown, quality=80)
