"""Temperature scaling (arXiv 1706.04599, section 4.2): one number that makes a head as sure as it is right."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from safety_modules.metrics import expected_calibration_error

RANGE = (0.1, 10.0)


class Scaling(NamedTuple):
    """A temperature and what it is worth.

    Attributes:
        temperature: fitted on all samples.
        ece_before: expected calibration error of the unscaled probabilities.
        ece_after: of the scaled ones, each half of the samples by the temperature of the other half, so that no sample
            is measured with a temperature it helped to choose.
    """

    temperature: float
    ece_before: float
    ece_after: float


def fit_scaling(logits: np.ndarray, labels: np.ndarray, halves: np.ndarray) -> Scaling:
    """The temperature that fits logits (N, K) and class indices (N,); halves (N,): 0 or 1, one picture's alike."""
    crossed = np.empty(logits.shape, float)
    for half in (0, 1):
        here, other = halves == half, halves != half
        crossed[here] = softmax(logits[here] / temperature_of(logits[other], labels[other]), -1)
    before = expected_calibration_error(softmax(logits, -1), labels)
    return Scaling(temperature_of(logits, labels), before, expected_calibration_error(crossed, labels))


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood of logits (N, K) and class indices (N,).

    1 where the head makes no mistake on the samples: the likelihood then grows without end as the temperature falls,
    and says nothing.
    """
    if bool((logits.argmax(1) == labels).all()):
        return 1.0
    rows = np.arange(len(labels))
    scores = logits.astype(float)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(scores / np.exp(log_temperature), -1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))
