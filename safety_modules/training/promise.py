"""Thresholds with a promised false-alarm rate, from scores alone: the maths of calibration, without a model."""

import math

import numpy as np
from scipy.stats import binom

from safety_modules.errors import DataError

MINIMUM = 0.05
"""No threshold lies below it; a head that separates the data well would otherwise fire at next to nothing."""


def promised_limits(
    scores: np.ndarray,
    max_false_alarm: float,
    confidence: float = 0.95,
    per_type: bool = False,
    minimum: float = MINIMUM,
) -> np.ndarray:
    """Thresholds that few benign images reach.

    With probability `confidence` over the draw of the images, at most `max_false_alarm` of *all* images of their kind
    have a score that reaches its type's threshold; no assumption on the scores. It is the exact binomial
    (Clopper-Pearson) bound on an order statistic, that is, training-conditional split conformal prediction (Vovk
    2012): the threshold lies above the (k+1)-th largest score, k the largest number with
    Binomial(n, max_false_alarm).cdf(k) <= 1 - confidence. With `per_type`, rate and doubt are divided by the number of
    types (Bonferroni).

    Args:
        scores: of benign images (n, types), which must be independent draws.
        max_false_alarm: promised rate over all types together, in (0, 1).
        confidence: in (0, 1).
        per_type: a threshold for each type; else one for all of them, on the largest score of each image.
        minimum: no threshold lies below; any value keeps the promise.

    Returns:
        One threshold per type.

    Raises:
        DataError: too few images for the promise (the message says how many are needed), numbers out of range, or an
            image with score 1, above which no threshold can lie.
    """
    for name, value in (("max_false_alarm", max_false_alarm), ("confidence", confidence)):
        if not 0 < value < 1:
            raise DataError(f"not calibrated: expected {name} between 0 and 1, got {value}. Choose another.")
    types = scores.shape[1]
    parts = types if per_type else 1
    needed = images_needed(max_false_alarm, confidence, parts)
    if len(scores) < needed:
        raise DataError(
            f"not calibrated: expected at least {needed} benign images for this promise, got {len(scores)}. "
            "Add images, or allow more false alarms."
        )
    allowed = _allowed(len(scores), max_false_alarm / parts, (1 - confidence) / parts)
    columns = scores.T if per_type else [scores.max(1)] * types
    return np.array([max(_above(column, allowed), minimum) for column in columns])


def any_flagged(scores: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which images any rule flags: scores (n, types) and a threshold per type -> (n,) bool."""
    return np.any(scores >= limits, axis=1)


def images_needed(max_false_alarm: float, confidence: float = 0.95, parts: int = 1) -> int:
    """Fewest benign images for the promise: (1 - rate)^n <= doubt.

    Args:
        max_false_alarm: promised rate.
        confidence: of the promise.
        parts: thresholds that rate and doubt are shared out over.
    """
    return math.ceil(math.log((1 - confidence) / parts) / math.log1p(-max_false_alarm / parts))


def _allowed(images: int, rate: float, doubt: float) -> int:
    """How many of the calibration images may lie above the threshold (k)."""
    allowed = int(binom.ppf(doubt, images, rate))
    # ppf gives the least k whose cdf reaches doubt; it counts only where the cdf is no more than doubt.
    return allowed if binom.cdf(allowed, images, rate) <= doubt else max(allowed - 1, 0)


def _above(scores: np.ndarray, allowed: int) -> float:
    """The least number above all but the `allowed` largest scores."""
    edge = np.sort(scores)[len(scores) - 1 - allowed]
    limit = float(np.nextafter(edge, 2))
    if limit > 1:
        raise DataError(
            "not calibrated: expected benign images with a risk below 1, got more at 1 than the promise allows. "
            "Train the head longer or with more benign images like these."
        )
    return limit
