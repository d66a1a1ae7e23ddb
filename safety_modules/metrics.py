"""Metrics as pure functions: numbers in, an estimate with its 95 % interval out. No model, no files."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, rankdata
from sklearn.metrics import roc_auc_score

from safety_modules.errors import DataError

CONFIDENCE = 0.95
RESAMPLES = 1000
PART = 50  # resamples at a time, to bound memory


class Estimate(NamedTuple):
    """A measured value with its 95 % interval.

    Attributes:
        value: the point estimate.
        low: lower end of the interval.
        high: upper end.
        n: how many samples it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def percent(self, digits: int = 1) -> str:
        """`98.2 % (97.1 to 98.9)`, for a share."""
        value, low, high = (round(100 * x, digits) + 0.0 for x in self[:3])  # + 0.0: never "-0.0"
        return f"{value:.{digits}f} % ({low:.{digits}f} to {high:.{digits}f})"


def rate(hits: Sequence[bool]) -> Estimate:
    """Share of true values with Wilson's score interval, which stays honest at 0 and 1.

    Does not cover: samples that depend on each other, such as many pictures of one drawing; the true
    uncertainty is then larger.

    Raises:
        DataError: there are no samples.
    """
    hits = _some([bool(hit) for hit in hits])
    count, n = sum(hits), len(hits)
    interval = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(count / n, float(interval.low), float(interval.high), n)


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Estimate:
    """Share of answers equal to their reference, white space at the ends aside."""
    return rate([a.strip() == r.strip() for a, r in _pairs(answers, references)])


def type_accuracy(predicted: Sequence[str], actual: Sequence[str], clean: str = "clean") -> Estimate:
    """Share of risky samples whose risk type is right; clean ones do not count.

    Args:
        predicted: most probable *risk type* of each sample (never `clean`: detection is AUROC's business).
        actual: label of each sample.
        clean: name of the harmless label.
    """
    return rate([p == a for p, a in _pairs(predicted, actual) if a != clean])


def auroc(risky: Sequence[bool], scores: Sequence[float], seed: int = 0) -> Estimate:
    """Area under the ROC curve, with a percentile bootstrap over risky and clean samples separately.

    Does not cover: the uncertainty of a perfect score; at 1.0 every resample is 1.0 too.

    Raises:
        DataError: a class is missing, so that there is nothing to tell apart.
    """
    pairs = _pairs(risky, scores)
    positive = np.array([s for r, s in pairs if r], float)
    negative = np.array([s for r, s in pairs if not r], float)
    if not len(positive) or not len(negative):
        raise DataError(
            f"no AUROC: expected risky and clean samples, got {len(positive)} and {len(negative)}. Add the others."
        )
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    value = float(roc_auc_score(labels, np.concatenate([positive, negative])))
    rng = np.random.default_rng(seed)
    resampled = [
        _areas(rng.choice(positive, (PART, len(positive))), rng.choice(negative, (PART, len(negative))))
        for _ in range(RESAMPLES // PART)
    ]
    return _with_interval(value, np.concatenate(resampled), len(pairs))


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """Arithmetic mean with a percentile bootstrap.

    Does not cover: few samples, for which a bootstrap is too narrow; one value alone has no width at all.

    Raises:
        DataError: there are no values.
    """
    # Resampling n values is drawing how often each distinct one comes: the same distribution, but few numbers.
    distinct, counts = np.unique(_some([float(value) for value in values]), return_counts=True)
    n, rng = len(values), np.random.default_rng(seed)
    resampled = [rng.multinomial(n, counts / n, PART) @ distinct / n for _ in range(RESAMPLES // PART)]
    return _with_interval(float(counts @ distinct / n), np.concatenate(resampled), n)


def paired_difference(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Mean of `after - before` over the same samples, with a paired percentile bootstrap."""
    return mean([float(a) - float(b) for a, b in _pairs(after, before)])


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """How far confidence is from accuracy, on average (ECE; arXiv 1706.04599, section 2).

    Samples are put into bins of equal width by the probability of their most probable class; the result is the mean
    over the samples of |accuracy of the bin - mean confidence of the bin|.

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: (N,) class indices.
        bins: of equal width over (0, 1]; 15 as published.

    Does not cover: the classes that are not the most probable one; few samples, which bias it upwards.

    Raises:
        DataError: there are no samples, or not one label each.
    """
    _pairs(list(probabilities), list(labels))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.ceil(confidence * bins).astype(int)
    excess = right.astype(float) - confidence
    gaps = np.bincount(places, excess, minlength=bins + 1)  # accuracy - confidence, times size
    return float(np.abs(gaps).sum() / len(labels))


def reliability(risk: np.ndarray, risky: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per bin of p(risk) that holds any: its mean, the share that is risky, and the count.

    Args:
        risk: probabilities (N,).
        risky: labels (N,), bool.
        bins: of equal width.
    """
    place = np.minimum((risk * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    said = np.bincount(place, risk, bins)[held] / count[held]
    seen = np.bincount(place, risky.astype(float), bins)[held] / count[held]
    return said, seen, count[held]


def _areas(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """AUROC of every row at once, from ranks (Mann and Whitney, 1947): what roc_auc_score gives, much faster."""
    p, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.concatenate([positive, negative], 1), axis=1)[:, :p]
    return (ranks.sum(1) - p * (p + 1) / 2) / (p * n)


def _with_interval(value: float, resampled: np.ndarray, n: int) -> Estimate:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), n)


def _pairs(first: Sequence, second: Sequence) -> list[tuple]:
    if len(first) != len(second):
        raise DataError(
            f"no metric: expected as many values on both sides, got {len(first)} and {len(second)}. "
            "Pass one per sample."
        )
    return _some(list(zip(first, second, strict=True)))


def _some(values: list) -> list:
    if not values:
        raise DataError("no metric: expected at least one sample, got none. Raise the number of samples.")
    return values
