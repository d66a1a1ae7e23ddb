"""Thresholds whose rate of false alarms is bounded (split conformal prediction): maths, without a model."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import beta, binom

from safety_modules.errors import DataError
from safety_modules.policy.scores import LIMIT, log_odds

MINIMUM = log_odds(0.05)
"""No threshold lies below it; a head that separates the data well would otherwise fire at next to nothing."""


def promised_limits(
    scores: np.ndarray,
    max_false_alarm: float,
    confidence: float = 0.95,
    groups: Sequence[Sequence[int]] | None = None,
    minimum: float = MINIMUM,
    flagged: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Thresholds that few benign images reach.

    With probability `confidence` over the draw of the images, at most `max_false_alarm` of *all* images of their kind
    are flagged: by a score that reaches its threshold, or by what flagged them before. No assumption on the scores. It
    is the exact binomial (Clopper-Pearson) bound on an order statistic, that is, training-conditional split conformal
    prediction (Vovk 2012): the threshold lies above the (k+1)-th largest score, k the largest number with
    Binomial(n, max_false_alarm).cdf(k) <= 1 - confidence. An image that is flagged already counts as one that lies
    above every threshold. Several thresholds share rate and doubt in equal parts (Bonferroni).

    With weights the promise is about images of another kind, of which one like image i is w_i times as frequent: shares
    are weighted ones, and n is the effective size of the weights. It is then approximate, and no better than these are.

    Args:
        scores: of benign images (n, types), which must be independent draws.
        max_false_alarm: promised rate over all types together, in (0, 1).
        confidence: in (0, 1).
        groups: types that share a threshold; default: all of them.
        minimum: no threshold lies below; any value keeps the promise.
        flagged: images that rules with a fixed threshold flag (n,), bool.
        weights: of the images (n,), positive; None = all alike.

    Returns:
        One threshold per type; NaN for types in no group.

    Raises:
        DataError: too few images for the promise (the message says how many are needed), numbers out of range, or more
            images that no threshold lets pass than the promise allows.
    """
    for name, value in (("max_false_alarm", max_false_alarm), ("confidence", confidence)):
        if not 0 < value < 1:
            raise DataError(f"not calibrated: expected {name} between 0 and 1, got {value}. Choose another.")
    groups = [range(scores.shape[1])] if groups is None else groups
    weights = np.ones(len(scores)) if weights is None else weights
    parts, images = len(groups), int(effective_size(weights) + 1e-9)
    needed = images_needed(max_false_alarm, confidence, parts)
    if images < needed:
        of = "" if images == len(scores) else f" that are like the others' kind, of {len(scores)}"
        raise DataError(
            f"not calibrated: expected at least {needed} benign images for this promise, got {images}{of}. "
            "Add images, or allow more false alarms."
        )
    allowed = _allowed(images, max_false_alarm / parts, (1 - confidence) / parts)
    limits = np.full(scores.shape[1], np.nan)
    for number, group in enumerate(groups):
        column = scores[:, list(group)].max(1)
        if flagged is not None and number == 0:  # the union with one group is enough for that with all
            column = np.where(flagged, np.inf, column)
            count = math.ceil(weights[flagged].sum() / weights.sum() * images - 1e-9)
            if count > allowed:
                doubt = (1 - confidence) / parts
                least = parts * beta.ppf(1 - doubt, count + 1, images - count) if count < images else 1
                raise DataError(
                    f"not calibrated: expected at most {allowed} of {images} benign images flagged by the types that "
                    f"keep their thresholds, got {count}. Allow {min(1, math.ceil(1000 * least) / 1000)} for all types "
                    "together, add images, or set all thresholds anew."
                )
        limits[list(group)] = max(_above(column, allowed / images, weights), minimum)
    return limits


def any_flagged(scores: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which images any rule flags: scores (n, types) and a threshold per type -> (n,) bool."""
    return np.any(scores >= limits, axis=1)


def effective_size(weights: np.ndarray) -> float:
    """How many images of equal weight say as much: (sum w)^2 / sum w^2 (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def images_needed(max_false_alarm: float, confidence: float = 0.95, parts: int = 1) -> int:
    """Fewest benign images for the promise: (1 - rate)^n <= doubt, both shared out over `parts` thresholds."""
    return math.ceil(math.log((1 - confidence) / parts) / math.log1p(-max_false_alarm / parts))


def _allowed(images: int, rate: float, doubt: float) -> int:
    """How many of the calibration images may lie above the threshold (k)."""
    allowed = int(binom.ppf(doubt, images, rate))
    # ppf gives the least k whose cdf reaches doubt; it counts only where the cdf is no more than doubt.
    return allowed if binom.cdf(allowed, images, rate) <= doubt else max(allowed - 1, 0)


def _above(scores: np.ndarray, allowed: float, weights: np.ndarray) -> float:
    """The least number that a share of at most `allowed` of the scores reaches, each with its weight."""
    order = np.argsort(-scores, kind="stable")
    shares = np.cumsum(weights[order]) / weights.sum()
    edge = scores[order][np.searchsorted(shares, allowed + 1e-12, side="right")]
    limit = float(np.nextafter(edge, np.inf))
    if limit > LIMIT:
        raise DataError(
            f"not calibrated: expected benign images with a score below {LIMIT:.0f}, got more there than the promise "
            "allows. Train the head longer or with more benign images like these."
        )
    return limit
