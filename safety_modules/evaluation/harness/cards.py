"""Some transcripts as the page of an evaluation shows them: pictures, question, and what every answer counts as."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.judging import Judgements
from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.evaluation.outcomes import REACTIONS, outcome

SHOWN_CASES = 12
LARGEST = 1024
"""Longest side of a picture in the page, in pixels: what a click on it shows."""


def cards(cases: Sequence[Case], transcripts: Sequence[Transcript], judgements: Judgements) -> list[dict[str, Any]]:
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
            "pictures": [_data_uri(image) for image in case.load_images()],
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


def _data_uri(image: Image.Image) -> str:
    picture = image.copy()
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
