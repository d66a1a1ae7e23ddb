"""The report of an evaluation as one HTML page without any outside file, and its plots as files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.charts import draw_charts
from safety_modules.evaluation.harness.judgements import Judgements
from safety_modules.evaluation.harness.readout import (
    against_base,
    column_title,
    group_title,
    shown_measures,
    strength_rows,
    worst_strengths,
)
from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.evaluation.outcomes import (
    BASE,
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


def write_page(
    path: Path,
    report: Mapping[str, Any],
    cases: Sequence[Case],
    transcripts: Sequence[Transcript],
    judgements: Judgements,
) -> Path:
    """Write the page, and its plots as PNG files into the same folder; answers are marked by the first judge."""
    charts = draw_charts(report)
    for name, data in charts.items():
        path.with_name(f"{name}.png").write_bytes(data)
    main = next(iter(report["judges"]))
    sessions = report["settings"]["sessions"]
    text = (
        environment("safety_modules.evaluation")
        .get_template("evaluation.html.j2")
        .render(
            report=report,
            main=main,
            measures=MEASURES,
            shown_measures=shown_measures,
            column_title=column_title,
            group_title=group_title,
            against_base=against_base,
            attack_lines=attack_lines,
            risks=RISKS,
            reactions=REACTIONS,
            risk_note=RISK_NOTE,
            success=SUCCESS,
            strengths=strength_rows(report, main),
            worst={name: found for name, found in worst_strengths(report, main).items() if name != BASE},
            dominance=_dominance(report, main),
            charts=[(name, CHARTS[name], data_uri(data, "PNG")) for name, data in charts.items()],
            comparisons=[row for row in report["comparisons"] if row["judge"] in (None, main)],
            cards=_cards(cases, transcripts, judgements),
            shown_errors=SHOWN_ERRORS,
            versions=sessions[-1]["versions"],
            mixed=len({str(session) for session in sessions}) > 1,
        )
    )
    path.write_text(text, encoding="utf-8")
    return path


def _dominance(report: Mapping[str, Any], judge: str) -> dict[str, dict[str, Any]]:
    """By group of cases, the pairs of measures that were measured on it."""
    tables = {
        group_title(report, group): {pair: found for pair, found in pairs.items() if found is not None}
        for group, pairs in report["dominance"][judge].items()
    }
    return {title: pairs for title, pairs in tables.items() if pairs}


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
