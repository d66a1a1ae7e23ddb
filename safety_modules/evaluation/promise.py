"""Is the promise of calibration kept? Thresholds from many random draws of benign pictures, measured on fresh ones."""

from typing import TYPE_CHECKING, Any

import numpy as np

from safety_modules.errors import DataError
from safety_modules.evaluation.results import settings
from safety_modules.metrics import rate
from safety_modules.pocket import mix
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements
from safety_modules.training.thresholds import any_flagged, promised_limits

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment

DRAWS, IMAGES, FRESH = 20, 470, 20_000
"""470 pictures: the most for which a promise of 1 % allows no flagged one, so that it is kept in 99 of 100 draws."""


def evaluate_promise(
    attachment: "SafetyAttachment",
    draws: int = DRAWS,
    images: int = IMAGES,
    fresh: int = FRESH,
    *,
    pool: int | None = None,
    max_false_alarm: float = 0.01,
    confidence: float = 0.95,
    per_type: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Calibrate again and again, and count how often fresh pictures keep the promised rate.

    All pictures are benign ones of pocket's validation split, half of them in its unseen style. The attachment's own
    thresholds stay as they are.

    Args:
        attachment: safety on a pocket model.
        draws: calibrations.
        images: pictures of each.
        fresh: pictures that every calibration is measured on, and none is made with.
        pool: pictures that the draws are taken from; None = draws x images, so that no two share one.
        max_false_alarm: as for `calibrate`.
        confidence: as for `calibrate`.
        per_type: as for `calibrate`.
        seed: of pictures and draws.
        progress: show bars.

    Returns:
        Plain JSON types: `kept` of `draws`, and of each draw its thresholds and the realised rate with its interval.

    Raises:
        DataError: too few images for the promise, or a pool smaller than a draw.

    Does not cover: pictures of another kind than the calibration's.
    """
    size = draws * images if pool is None else pool
    if size < images or min(draws, fresh) < 1:
        raise DataError(
            f"promise not measured: expected draws, fresh pictures and a pool of at least {images}, got {draws}, "
            f"{fresh} and {size}. Raise them."
        )
    types = attachment.config.taxonomy.types
    groups = [[place] for place in range(len(types))] if per_type else None
    promised_limits(np.zeros((images, len(types))), max_false_alarm, confidence, groups)  # too few: refused before work
    scores = _scores(attachment, size, 2 * seed, progress)
    unseen = _scores(attachment, fresh, 2 * seed + 1, progress)
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    rows: list[dict[str, Any]] = []
    for number in range(draws):
        chosen = order[number * images : (number + 1) * images] if size >= draws * images else None
        drawn = scores[rng.choice(size, images, replace=False) if chosen is None else chosen]
        limits = promised_limits(drawn, max_false_alarm, confidence, groups)
        found = rate(any_flagged(unseen, limits).tolist())
        rows.append(
            {
                "thresholds": dict(zip(types, limits.tolist(), strict=True)),
                "calibration_flagged": int(any_flagged(drawn, limits).sum()),
                "false_alarms": found.value,
                "low": found.low,
                "high": found.high,
                "kept": found.value <= max_false_alarm,
            }
        )
    return {
        "suite": "promise",
        "settings": settings(images, seed) | {"split": "validation", "fresh": fresh, "pool": size},
        "max_false_alarm": max_false_alarm,
        "confidence": confidence,
        "per_type": per_type,
        "draws": draws,
        "kept": sum(row["kept"] for row in rows),
        "worst": max(row["false_alarms"] for row in rows),
        "rows": rows,
    }


def _scores(attachment: "SafetyAttachment", count: int, seed: int, progress: bool) -> np.ndarray:
    """Rule scores (count, types) of benign pictures."""
    corpus = Corpus.make(attachment.backbone, mix.calibration_records(count, seed=seed), progress=progress)
    return corpus_judgements(attachment, corpus).scores
