"""How well a probability of risk tells risky from clean cases: average precision, calibration, reliability."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from safety_modules.errors import DataError
from safety_modules.metrics import CONFIDENCE, RESAMPLES, Estimate, auroc, reliability

BINS = 15
"""Of the expected calibration error, as published (arXiv 1706.04599)."""


def auprc(risky: Sequence[bool], risks: Sequence[float], seed: int = 0) -> Estimate:
    """Area under the precision-recall curve as average precision, with a percentile bootstrap over all samples.

    Args:
        risky: labels (N,).
        risks: probability of risk (N,); any score that grows with risk would do.
        seed: of the bootstrap.

    Does not cover: another share of risky samples than here; average precision falls with it.

    Raises:
        DataError: a class is missing.
    """
    labels, scores = _checked(risky, risks)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # last place of each run of ties
    n = len(labels)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # (RESAMPLES, N)
    hits = (weights * labels[order]).cumsum(1)[:, ends]
    precision = hits / np.maximum(weights.cumsum(1)[:, ends], 1)
    recalled = np.diff(hits, axis=1, prepend=0) / np.maximum(hits[:, -1:], 1)
    low, high = np.quantile((precision * recalled).sum(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(average_precision_score(labels, scores)), float(low), float(high), n)


def risk_calibration_error(risky: Sequence[bool], risks: Sequence[float]) -> float:
    """Expected calibration error of p(risk): mean over the samples of |share risky - mean p| of their bin.

    It has no interval: few samples bias it upwards, and a bootstrap does so once more.

    Args:
        risky: labels (N,).
        risks: probability of risk (N,), 0 to 1.

    Raises:
        DataError: a class is missing, or a risk is no probability.
    """
    labels, scores = _checked(risky, risks)
    if scores.min() < 0 or scores.max() > 1:
        raise DataError(
            f"no calibration error: expected risks from 0 to 1, got {scores.min():g} to {scores.max():g}. "
            "Give probabilities, or None where a system has none."
        )
    said, seen, count = reliability(scores, labels, BINS)
    return float(np.abs(seen - said) @ count / len(labels))


def detection(risky: Sequence[bool], risks: Sequence[float]) -> dict[str, Any]:
    """AUROC, AUPRC, calibration error and the points of a reliability curve.

    Returns:
        `auroc`, `auprc`: estimates; `ece`, `share_risky`: numbers; `reliability`: `said`, `seen`, `count` for each bin.
    """
    said, seen, count = reliability(np.array(risks, float), np.array(risky, bool))
    return {
        "auroc": auroc(risky, risks),
        "auprc": auprc(risky, risks),
        "ece": risk_calibration_error(risky, risks),
        "share_risky": float(np.mean(risky)),
        "reliability": {"said": said.tolist(), "seen": seen.tolist(), "count": count.tolist()},
    }


def _checked(risky: Sequence[bool], risks: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.array(risky, bool).astype(int), np.array(risks, float)
    if len(labels) != len(scores):
        raise DataError(f"no metric: expected one risk per label, got {len(scores)} for {len(labels)}. Pass both.")
    if labels.all() or not labels.any():
        raise DataError(
            f"no metric: expected risky and clean samples, got {labels.sum()} and {(1 - labels).sum()}. Add the others."
        )
    return labels, scores
