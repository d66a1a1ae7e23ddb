"""The scores of risk types that thresholds are set for: by calibration, and by a policy's rules."""

import numpy as np


def rule_scores(risks: np.ndarray) -> np.ndarray:
    """What rules compare with their thresholds: p of the type, and of all risk types less probable than it.

    For the most probable type this is p(risk) = 1 - p(clean), so an image that is surely risky fires even where its
    type is doubtful. More probable types are left out, so that a type that is switched off takes its images with it.

    Args:
        risks: probabilities of the risk types (..., types), without clean.

    Returns:
        The same shape, float64, so that a calibrated threshold meets the very numbers it was set on.
    """
    order = np.argsort(-risks, axis=-1, kind="stable")
    falling = np.take_along_axis(risks.astype(np.float64), order, -1)
    scores = np.empty_like(falling)
    np.put_along_axis(scores, order, falling[..., ::-1].cumsum(-1)[..., ::-1], -1)
    return scores.clip(max=1.0)
