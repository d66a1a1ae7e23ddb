"""How unlike the training's a picture is, and what is kept of a calibration to compare those of later days with."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from safety_modules.config import OutsideSettings
from safety_modules.policy.outside import Calibrated


class Outside(nn.Module):
    """Distance of a picture's mean feature from the training's, and its place among theirs. On the picture alone.

    The squared Mahalanobis distance of Mahalanobis++ (arXiv 2505.18032: features of length 1, one covariance; here one
    Gaussian for all types), plus how far the picture lies on the side of made-up ones that are like nothing trained on
    (outlier exposure, arXiv 1812.04606); `training.outside.fitted` weighs the two.

    The p-value is (1 + #{kept distances >= d}) / (n + 1), where the n pictures kept took no part in the fit: of
    pictures drawn as the training's were, at most a share a gets a p-value of a or less (split conformal prediction).

    Args:
        settings: how many pictures are kept.
        width: of the tower's features (Dv).

    Does not cover: risks; pictures unlike the training's in what a mean over the patches does not show.
    """

    mean: torch.Tensor
    whiten: torch.Tensor
    direction: torch.Tensor
    trained: torch.Tensor
    calibrated: torch.Tensor
    risks: torch.Tensor

    def __init__(self, settings: OutsideSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))
        self.register_buffer("direction", torch.zeros(width))  # to the made-up ones, in whitened features
        self.register_buffer("trained", torch.zeros(settings.trained))  # distances, rising
        self.register_buffer("calibrated", torch.zeros(settings.calibrated))  # p-values, rising
        risks = torch.zeros(settings.scored or 0)  # of the same pictures, log-odds, rising
        self.register_buffer("risks", risks, persistent=bool(len(risks)))

    def with_calibration(self, p_values: torch.Tensor, risks: torch.Tensor) -> "Outside":
        """The same, with these p-values and risks (log-odds) of calibration pictures, (m,), in the place of its own."""
        settings = self.settings.model_copy(update={"calibrated": len(p_values), "scored": len(risks) or None})
        other = Outside(settings, len(self.mean)).to(self.mean.device, self.mean.dtype)
        kept = {**self.state_dict(), "calibrated": p_values.sort().values, "risks": risks.sort().values}
        other.load_state_dict({name: kept[name] for name in other.state_dict()})
        return other

    def calibration(self, thresholds: Mapping[str, float]) -> Calibrated:
        """What is kept of the calibration that set these thresholds."""
        p_values, risks = (tensor.double().cpu().numpy() for tensor in (self.calibrated, self.risks))
        return Calibrated(p_values, risks, min(thresholds.values(), default=math.inf))

    def distance(self, pooled: torch.Tensor) -> torch.Tensor:
        """Of pooled features (B, Dv): (B,)."""
        at = (pooled.to(self.mean.device).float() - self.mean.float()) @ self.whiten.float().T  # (B, Dv)
        return at.square().sum(-1) + (at @ self.direction.float()).clamp(min=0)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """p-values (B,) of pictures by their patches (B, P, Dv); places without one are zero."""
        kept = self.trained.float()
        nearer = torch.searchsorted(kept, self.distance(pool(patches)))
        return (1 + len(kept) - nearer).float() / (len(kept) + 1)


def pool(patches: torch.Tensor) -> torch.Tensor:
    """The mean of each picture's patches (B, P, Dv), of length 1: (B, Dv). Places without a patch add nothing."""
    return nn.functional.normalize(patches.float().sum(1), dim=-1)
