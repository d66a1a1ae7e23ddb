"""What a head says, as arrays: probabilities, and the scores that thresholds are set for.

A score is a log-odds: log(p / (1 - p)), the natural logarithm. 0 is as likely as not, 2.2 is 90 %, 4.6 is 99 %, 6.9 is
99.9 %: the numbers that thresholds are set to stay apart where probabilities all look like 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

LIMIT = 30.0
"""Scores lie between -LIMIT and LIMIT (a probability of 1 - 1e-13), and so do thresholds."""


class HeadOutput(NamedTuple):
    """What a head says about a batch of images.

    Attributes:
        type_logits: (B, types + 1), the last column is clean.
        level_logits: (B, levels).
        attention: (B, Q, P), mean over the attention heads, over the patches only. The rest of each row's
            unit mass lies on the safety tokens s1, so a row sums to at most 1.
        added_levels: levels' logits by the branch of each added type (B, added, levels); None = no such type.
        outside: of each picture how like those of the training it is (B,): see `Judgements`; None = not known.
    """

    type_logits: torch.Tensor
    level_logits: torch.Tensor
    attention: torch.Tensor
    added_levels: torch.Tensor | None = None
    outside: torch.Tensor | None = None


class Judgements(NamedTuple):
    """A batch of N judgements, before any policy.

    Attributes:
        types: probabilities (N, types + 1), clean last; float64. The types of the first training and clean sum to 1;
            a type that was added later has a probability of its own, against everything else.
        levels: probabilities (N, levels); float64.
        added_levels: the same by the branch of each added type (N, added, levels).
        attention: (N, types, P), float32.
        outside: conformal p-values (N,): the share of the training's pictures that are as unlike the rest of them as
            this one is, or more; NaN where it is not known, None where it is for none.
    """

    types: np.ndarray
    levels: np.ndarray
    added_levels: np.ndarray
    attention: np.ndarray
    outside: np.ndarray | None = None

    @property
    def scores(self) -> np.ndarray:
        """Of each type (N, types): see `rule_scores`."""
        return rule_scores(self.types, self.added_levels.shape[1])

    @property
    def risks(self) -> np.ndarray:
        """Probability of any risk of the first training's types (N,)."""
        return 1 - self.types[:, -1]


def judgements(output: HeadOutput, temperature: float = 1.0) -> Judgements:
    """A head's output as probabilities; the one way from logits to what policies and calibration see.

    Args:
        output: of `SafetyModules`, on any device.
        temperature: the first types' and clean's logits are divided by it (arXiv 1706.04599, section 4.2).
    """
    logits, levels, attention = (part.cpu() for part in output[:3])
    logits, levels = logits.double(), levels.double()
    added = output.added_levels
    count = 0 if added is None else added.shape[1]
    first = logits.shape[1] - 1 - count
    own = (torch.cat([logits[:, :first], logits[:, -1:]], 1) / temperature).softmax(-1)
    beside = logits[:, first:-1].sigmoid()
    return Judgements(
        torch.cat([own[:, :-1], beside, own[:, -1:]], 1).numpy(),
        levels.softmax(-1).numpy(),
        levels.new_zeros(len(levels), 0, levels.shape[1]).numpy()
        if added is None
        else added.cpu().double().softmax(-1).numpy(),
        attention.float().numpy(),
        None if output.outside is None else output.outside.cpu().double().numpy(),
    )


def rule_scores(types: np.ndarray, added: int = 0) -> np.ndarray:
    """What rules compare with their thresholds, as log-odds.

    For a type of the first training: of the type together with all those less probable than it. For the most probable
    one this is the log-odds of any risk, so an image that is surely risky fires even where its type is doubtful. More
    probable types are left out, so that a type that is switched off takes its images with it. An added type has its
    own log-odds, and none of the others' depends on it.

    Args:
        types: probabilities (..., types + 1), clean last.
        added: how many of the types, the last ones, were added after the first training.

    Returns:
        (..., types), float64.
    """
    types = np.asarray(types, np.float64)
    if types.ndim != 2:
        return rule_scores(types.reshape(-1, types.shape[-1]), added).reshape(*types.shape[:-1], -1)
    first, rows = types.shape[1] - 1 - added, np.arange(len(types))[:, None]
    order = np.argsort(-types[:, :first], axis=1, kind="stable")
    falling = types[rows, order]
    chosen = falling[:, ::-1].cumsum(1)[:, ::-1]
    # What is left is summed, not subtracted from 1: near 1 a difference has no digits.
    rest = np.zeros_like(falling)
    rest[:, 1:] = falling[:, :-1].cumsum(1)
    scores = np.empty((len(types), types.shape[1] - 1))
    scores[rows, order] = log_ratio(chosen, types[:, -1:] + rest)
    if added:
        scores[:, first:] = log_ratio(types[:, first:-1])
    return scores


def most_severe(
    severity: Sequence[int] | np.ndarray, risk: Sequence[float] | np.ndarray, counts: Sequence[int]
) -> list[int]:
    """Of verdicts on several frames or readings of one picture, or on several pictures, the one that decides.

    The most severe, of these the riskiest, of these the first. The level, which is part of the severity, comes before
    the risk: else a picture that surely is of a low level would soften the words for one beside it that probably is of
    a high one. A risk that is not finite comes before all where no rule fired: it is not known to be harmless.

    Args:
        severity: of each verdict (N,): `Verdict.severity`.
        risk: of each verdict (N,).
        counts: how many belong together, in order; they sum to N, and none is 0.

    Returns:
        For each of the counts the place, in N, of its verdict.
    """
    if len(severity) == len(counts):
        return [*range(len(counts))]
    severity, risk = np.asarray(severity), np.asarray(risk, np.float64)
    finite = np.isfinite(risk)
    group = np.repeat(np.arange(len(counts)), counts)
    # Sorted by group, and in it the one that decides first; `lexsort` is stable and takes its first key last.
    order = np.lexsort((-np.where(finite, risk, 0), -severity, finite, severity == 0, group))
    firsts = np.cumsum([0, *counts[:-1]]) if len(counts) else np.zeros(0, int)
    return [int(place) for place in order[firsts]]


def log_ratio(part: np.ndarray, rest: np.ndarray | None = None) -> np.ndarray:
    """log(part / rest), the score of probabilities; rest: default 1 - part."""
    # In order: NumPy takes the logarithm of some views otherwise, and a row alone would differ in its last digit.
    part = np.asarray(part, order="C")
    with np.errstate(divide="ignore"):
        return (np.log(part) - np.log(1 - part if rest is None else rest)).clip(-LIMIT, LIMIT)


def log_odds(probability: float) -> float:
    """The score of a probability; between -LIMIT and LIMIT."""
    if not 0 < probability < 1:
        return -LIMIT if probability <= 0 else LIMIT
    return min(LIMIT, max(-LIMIT, math.log(probability) - math.log1p(-probability)))


def probability(score: float) -> float:
    """The probability of a score."""
    return 1 / (1 + math.exp(-score))
