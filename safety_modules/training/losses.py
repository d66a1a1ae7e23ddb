"""The losses of both stages, as pure functions of logits and labels (arXiv 2405.13581, section 3.3)."""

from typing import NamedTuple

import torch
from torch.nn import functional

from safety_modules.defences.guard import IGNORED


class HeadLoss(NamedTuple):
    """Losses of the safety head, each a scalar; `type` and `level` are not yet weighted."""

    total: torch.Tensor
    type: torch.Tensor
    level: torch.Tensor


def head_loss(
    type_logits: torch.Tensor,
    level_logits: torch.Tensor,
    type_labels: torch.Tensor,
    level_labels: torch.Tensor,
    type_weight: float = 1.0,
    level_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> HeadLoss:
    """CE(type) + CE(level), each the mean over the samples that have a label.

    Clean samples count in both: their level is safe.

    Args:
        type_logits: (B, types + 1).
        level_logits: (B, levels).
        type_labels: (B,) class indices; IGNORED = not labelled.
        level_labels: (B,) class indices; IGNORED = not labelled.
        type_weight: of CE(type).
        level_weight: of CE(level).
        label_smoothing: share of the target spread over all classes.

    Returns:
        The losses; one without any labelled sample is zero.
    """
    type_loss = _cross_entropy(type_logits, type_labels, label_smoothing)
    level_loss = _cross_entropy(level_logits, level_labels, label_smoothing)
    return HeadLoss(type_weight * type_loss + level_weight * level_loss, type_loss, level_loss)


def language_model_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Next-token cross-entropy, the mean over the labelled tokens of the batch.

    Args:
        logits: (B, T, V); position t predicts token t + 1.
        labels: (B, T) token ids at their own positions; IGNORED = not learned (prompt, padding).

    Returns:
        A scalar, zero without any labelled token.
    """
    return _cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    # float32: bfloat16 has three digits, and a loss that small classes share needs more.
    total = functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)
