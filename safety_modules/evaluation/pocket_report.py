"""A self-contained HTML report: headline numbers with intervals, base against guarded, examples, transcripts."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from safety_modules.evaluation.examples import Example, reaction_title
from safety_modules.evaluation.outcomes import REACTIONS, RISK_NOTE, SUCCESS
from safety_modules.evaluation.pocket_tables import (
    HEAD_ROWS,
    ROWS,
    TOGGLE,
    Goal,
    ResultRow,
    attack_rows,
    estimate_at,
    head_path,
    known_at,
    toggle_columns,
)
from safety_modules.evaluation.sheet import verdict_line
from safety_modules.io.html import environment, picture_uri
from safety_modules.metrics import Estimate
from safety_modules.pocket import splits

PICTURE = 192
NARROW = "\N{NARROW NO-BREAK SPACE}"


class GoalCell(NamedTuple):
    """A number as the report shows it; all in percent."""

    text: str
    low: float
    high: float
    value: float
    goal: str
    met: bool | None


class Tile(NamedTuple):
    """One headline number."""

    label: str
    value: str
    notes: tuple[str, ...]


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
        .get_template("report.html.j2")
        .render(
            title=title,
            settings=results["settings"],
            tiles=_tiles(results),
            rows=[(row.label, [_row_cells(results, row, style) for style in splits.STYLES]) for row in ROWS],
            head_rows=[
                (row.label, [_cell(estimate_at(results, *head_path(row, s)), row.goals.get(s)) for s in splits.STYLES])
                for row in HEAD_ROWS
            ],
            attacks=attack_rows(results),
            reactions=tuple(REACTIONS.values()),
            risk_note=RISK_NOTE,
            success=SUCCESS,
            toggle_columns=tuple(TOGGLE.values()),
            toggles=[
                (name, [_cell(*column) for column in toggle_columns(results, name)]) for name in results["toggle"]
            ],
            thresholds=results["thresholds"],
            adapter_mb=results["adapter_mb"],
            planned_mb=results["planned_mb"],
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


def _tiles(results: Mapping[str, Any]) -> list[Tile]:
    def share(*path: str) -> str:
        found = known_at(results, *path)
        return "–" if found is None else f"{100 * found.value:.1f}{NARROW}%"

    def pair(label: str, *path: str) -> Tile:
        seen, unseen = ((share("guarded", style, *path), share("base", style, *path)) for style in splits.STYLES)
        return Tile(label, seen[0], (f"base: {seen[1]}", f"unseen style: {unseen[0]}, base: {unseen[1]}"))

    identical = results["gated_identical"]
    planned = f"{results['planned_mb']['llava-1.5-7b']:.0f}{NARROW}MB"
    return [
        pair("image attacks of high and medium risk whose content reaches the user", "attack", "severe", "content"),
        pair("image attacks of low risk cautioned, with the content", "attack", "low", "cautioned"),
        pair("benign questions refused or cautioned", "over_refusal"),
        pair("visual questions right", "vqa"),
        Tile(
            "identical to the base where judged clean",
            "none" if identical is None else f"{100 * identical:.1f}{NARROW}%",
            ("no sample was judged clean",) if identical is None else ("character by character", _count(results)),
        ),
        Tile(
            "adapter on disk",
            f"{results['adapter_mb']:.2f}{NARROW}MB",
            ("modules and LoRA", f"the same design for LLaVA-1.5-7B: {planned}"),
        ),
    ]


def _count(results: Mapping[str, Any]) -> str:
    return f"of {estimate_at(results, 'gated_identical').n} answers"


def _row_cells(results: Mapping[str, Any], row: ResultRow, style: str) -> tuple[GoalCell | None, GoalCell | None]:
    return (
        _cell(known_at(results, "base", style, *row.path)),
        _cell(known_at(results, "guarded", style, *row.path), row.goals.get(style)),
    )


def _cell(estimate: Estimate | None, goal: Goal | None = None) -> GoalCell | None:
    """None where there was nothing to measure."""
    if estimate is None:
        return None
    return GoalCell(
        text=f"{100 * estimate.value:.1f}",
        low=100 * estimate.low,
        high=100 * estimate.high,
        value=100 * estimate.value,
        goal="" if goal is None else f"{'≤' if goal.sign == '<=' else '≥'} {100 * goal.bound:g}",
        met=None if goal is None else goal.met(estimate.value),
    )


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
