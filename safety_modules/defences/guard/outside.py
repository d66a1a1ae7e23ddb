"""How unlike the training's a picture is: a distance in pooled features, as a conformal p-value. Pure torch.

On the picture alone, from features that the tower has computed anyway. "Outside" says that the head's verdict is a
guess there, which is no risk by itself.
"""

import torch
from torch import nn

from safety_modules.config import OutsideSettings

SHRINKAGE = 0.01
"""Of the covariance towards a sphere of the mean variance: what keeps it invertible with few pictures."""


class Outside(nn.Module):
    """Distance of a picture's mean feature from the training's, and its place among theirs.

    The squared Mahalanobis distance of Mahalanobis++ (arXiv 2505.18032: features of length 1, one covariance; here one
    Gaussian for all types), plus how far the picture lies on the side of made-up ones that are like nothing trained on
    (outlier exposure, arXiv 1812.04606; `training.strangers`), each in standard deviations over the training's.

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

    def __init__(self, settings: OutsideSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))
        self.register_buffer("direction", torch.zeros(width))  # to the made-up ones, in whitened features
        self.register_buffer("trained", torch.zeros(settings.trained))  # distances, rising
        self.register_buffer("calibrated", torch.zeros(settings.calibrated))  # p-values, rising

    @classmethod
    def fit(cls, pictures: torch.Tensor, kept: torch.Tensor, strange: torch.Tensor) -> "Outside":
        """Fit to pooled features.

        Args:
            pictures: of the training (m, Dv).
            kept: of others of the training (n, Dv), whose distances are kept.
            strange: of made-up ones (s, Dv).
        """
        from sklearn.linear_model import LogisticRegression  # a second to import

        pictures, mean = pictures.double(), pictures.double().mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((pictures - mean).T))
        whiten = (axes * (variances.clamp(min=0) + SHRINKAGE * variances.mean() + 1e-12).rsqrt()).T
        at, away = ((part.double() - mean) @ whiten.T for part in (pictures, strange))  # (m, Dv), (s, Dv)
        at = at[: 10 * len(away)]  # enough of them
        labels = torch.cat([torch.zeros(len(at)), torch.ones(len(away))])
        told = LogisticRegression(C=0.06, max_iter=300).fit(torch.cat([at, away]).numpy(), labels.numpy())
        direction = torch.from_numpy(told.coef_[0])
        scale = at.square().sum(1).std().rsqrt()
        found = cls(OutsideSettings(trained=len(kept)), pictures.shape[1])
        # In the precision that adapters are saved in, so that saving changes no distance but for rounding it.
        found.mean.copy_(mean.half())
        found.whiten.copy_((scale * whiten).half())
        found.direction.copy_((direction / scale / (at @ direction).std()).half())
        found.trained.copy_(found.distance(kept).sort().values)
        return found

    def with_calibration(self, p_values: torch.Tensor) -> "Outside":
        """The same, with these p-values of calibration pictures (m,) in the place of its own."""
        settings = self.settings.model_copy(update={"calibrated": len(p_values)})
        other = Outside(settings, len(self.mean)).to(self.mean.device, self.mean.dtype)
        other.load_state_dict({**self.state_dict(), "calibrated": p_values.sort().values})
        return other

    def distance(self, pooled: torch.Tensor) -> torch.Tensor:
        """Of pooled features (B, Dv): (B,), in standard deviations of the training's pictures."""
        at = (pooled.to(self.mean.device).float() - self.mean.float()) @ self.whiten.float().T  # (B, Dv)
        return at.square().sum(-1) + at @ self.direction.float()

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """p-values (B,) of pictures by their patches (B, P, Dv); places without one are zero."""
        kept = self.trained.float()
        nearer = torch.searchsorted(kept, self.distance(pool(patches)))
        return (1 + len(kept) - nearer).float() / (len(kept) + 1)


def pool(patches: torch.Tensor) -> torch.Tensor:
    """The mean of each picture's patches (B, P, Dv), of length 1: (B, Dv). Places without a patch add nothing."""
    return nn.functional.normalize(patches.float().sum(1), dim=-1)
