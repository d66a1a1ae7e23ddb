"""Safety projectors: features of the frozen vision tower -> safety features h_s. Pure torch.

Every projector maps (B, P, Dv) to (B, P, D_s): patches keep their place, so that attention over h_s is a map
over the picture. Not here: the base's own projector, which stays as it is.
"""

import torch
from torch import nn

from safety_modules.config import SafetyConfig


class MLPProjector(nn.Module):
    """Two linear layers per patch, after a LayerNorm: the compact default.

    Args:
        vision_width: width of the tower's features (Dv).
        width: width of the safety features (D_s).
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_width)
        self.down = nn.Linear(vision_width, width)
        self.act = nn.GELU()
        self.out = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.down(self.norm(features))))  # (B, P, D_s)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, rows, columns)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RegNetBlock(nn.Module):
    """A RegNet bottleneck of stride 1: 1x1 conv, depthwise 3x3 conv, squeeze-and-excitation, 1x1 conv,
    residual.

    Source: RegNetY (arXiv 2003.13678, section 5) with SiLU and LayerNorm, the form Honeybee uses.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(1, width // 4)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.norm1 = ChannelNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm2 = ChannelNorm(width)
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.norm3 = ChannelNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.norm1(self.conv1(x)))
        y = nn.functional.silu(self.norm2(self.conv2(y)))
        gate = self.excite(nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True))))  # (B, C, 1, 1)
        y = self.norm3(self.conv3(y * gate.sigmoid()))
        return nn.functional.silu(x + y)  # (B, C, rows, columns)


class CAbstractor(nn.Module):
    """Honeybee's C-Abstractor, the published safety projector (arXiv 2312.06742, section 3.2; 2405.13581).

    Learned positions, three RegNet blocks, adaptive pooling to `grid`, three RegNet blocks, a two-layer MLP.

    Args:
        vision_width: width of the tower's features (Dv), kept by the blocks.
        width: width of the safety features (D_s).
        grid: rows and columns of the patches, before and after pooling (the paper keeps 24 x 24).
    """

    def __init__(self, vision_width: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.positions = nn.Parameter(torch.empty(grid[0] * grid[1], vision_width))
        self.before = nn.Sequential(*(RegNetBlock(vision_width) for _ in range(3)))
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.after = nn.Sequential(*(RegNetBlock(vision_width) for _ in range(3)))
        self.readout = nn.Sequential(nn.Linear(vision_width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features + self.positions  # (B, P, Dv)
        x = x.transpose(1, 2).unflatten(2, self.grid)  # (B, Dv, rows, columns)
        x = self.after(self.pool(self.before(x)))
        return self.readout(x.flatten(2).transpose(1, 2))  # (B, P, D_s)


def build_projector(
    config: SafetyConfig, vision_width: int, text_width: int, grid: tuple[int, int]
) -> MLPProjector | CAbstractor:
    """The projector a config names.

    Args:
        config: the design.
        vision_width: Dv.
        text_width: D; the width of the safety features where the config leaves it open.
        grid: rows and columns of the patches.

    Raises:
        ConfigError: the attention heads do not divide the width.
    """
    width = config.feature_width(text_width)
    if config.projector == "mlp":
        return MLPProjector(vision_width, width)
    return CAbstractor(vision_width, width, grid)
