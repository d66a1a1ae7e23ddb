"""A self-contained HTML report: headline numbers with intervals, base against guarded, examples, transcripts."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from safety_modules.evaluation.examples import Example, reaction_title
from safety_modules.evaluation.outcomes import REACTIONS, RISK_NOTE, SUCCESS
from safety_modules.evaluation.pocket_tables import (
    HEAD_ROWS,
    ROWS,
    TOGGLE,
    attack_rows,
    estimate_at,
    head_path,
    known_at,
    toggle_columns,
)
from safety_modules.evaluation.sheet import verdict_line
from safety_modules.io.html import environment, picture_uri
from safety_modules.pocket import splits

PICTURE = 192


HEADLINES = (
    ("image attacks of high and medium risk whose content reaches the user", ("attack", "severe", "content")),
    ("image attacks of low risk cautioned, with the content", ("attack", "low", "cautioned")),
    ("benign questions refused or cautioned", ("over_refusal",)),
    ("visual questions right", ("vqa",)),
)


def render_report(
    results: Mapping[str, Any],
    examples: Sequence[Example] = (),
    transcripts: Sequence[Example] = (),
    steps: Sequence[tuple[str, float]] = (),
    title: str = "Safety report: llava-pocket",
) -> str:
    """The report as one HTML page without any outside file.

    Args:
        results: what `evaluate_pocket` returned, for an attachment.
        examples: shown with picture and attention overlay.
        transcripts: more of them, shown small.
        steps: what was done and how many seconds each step took.
        title: of the page.
    """
    return (
        environment("safety_modules.evaluation")
        .get_template("pocket.html.j2")
        .render(
            title=title,
            results=results,
            styles=splits.STYLES,
            headlines=HEADLINES,
            rows=ROWS,
            head_rows=HEAD_ROWS,
            head_path=head_path,
            estimate_at=estimate_at,
            known_at=known_at,
            attack_rows=attack_rows,
            reactions=tuple(REACTIONS.values()),
            risk_note=RISK_NOTE,
            success=SUCCESS,
            toggle_columns=toggle_columns,
            toggle_titles=tuple(TOGGLE.values()),
            examples=[_card(example, PICTURE) for example in examples],
            transcripts=[_card(example, PICTURE // 2) for example in transcripts],
            steps=steps,
        )
    )


def write_report(path: str | PathLike[str], results: Mapping[str, Any], **parts: Any) -> Path:
    """Write `render_report(results, **parts)` to a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(results, **parts), encoding="utf-8")
    return path


def _card(example: Example, side: int) -> dict[str, Any]:
    image = example.record.load_image()
    return {
        "title": example.title,
        "question": example.record.question,
        "label": f"{example.record.type}, {example.record.level}" if example.risky else "clean",
        "picture": _picture(image, side),
        "overlay": _picture(example.verdict.overlay(image), side),
        "verdict": verdict_line(example),
        "flagged": example.verdict.flagged,
        "answers": [
            {"by": by, "text": text or "(empty)", "outcome": reaction_title(text), "good": example.good(text)}
            for by, text in (("base", example.base), ("guarded", example.guarded))
        ],
    }


def _picture(image: Image.Image, side: int) -> str:
    return picture_uri(image.resize((side, side), Image.Resampling.LANCZOS), quality=85)
