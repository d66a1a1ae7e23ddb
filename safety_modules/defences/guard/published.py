"""The published design, mistakes included where they are the design, so that the two can be compared. Pure torch."""

import torch
from torch import nn

from safety_modules.defences.guard.concept import masked_mean
from safety_modules.errors import ConfigError
from safety_modules.policy.scores import HeadOutput


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


class FirstTokenHead(nn.Module):
    """The published safety head (arXiv 2405.13581, section 3.2): text attends to [s1 ; h_s], two linear
    classifiers.

    Known weaknesses of the design, kept because they are the design:
    the one query is the prompt's first embedding, a constant start
    token, so the question cannot influence the verdict and the attention acts as one fixed query;
    it cannot judge an image without text.
    Not kept: the published projector width of `vision width + number of tokens`, and typed-in sizes.

    Args:
        width: D_s; the text features get a linear map only where it is not the text width (the paper has D_s
            = D).
        text_width: width of the text embeddings (D).
        num_types: risk types, without clean.
        num_levels: levels.
        attention_heads: heads of the cross-attention.
    """

    needs_question = True
    reads = "first token"
    takes_tiles = False

    def __init__(self, width: int, text_width: int, num_types: int, num_levels: int, attention_heads: int) -> None:
        super().__init__()
        self.num_types = num_types
        self.text = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.attention = nn.MultiheadAttention(width, attention_heads, batch_first=True)
        self.types = nn.Linear(width, num_types + 1)
        self.level = nn.Linear(width, num_levels)

    def forward(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Judge a batch; arguments as in `ConceptHead.forward`.

        The one query is every type's attention map, so the map is repeated to (B, types, P).

        Raises:
            ConfigError: a row has no text; this head cannot judge an image alone.
        """
        if question is None:
            raise ConfigError(
                "the published head has no question: expected text features, got None. "
                'Pass questions, or use SafetyConfig(query="reading").'
            )
        mask = (
            question.new_ones(question.shape[:2], dtype=torch.bool) if question_mask is None else question_mask.bool()
        )
        if not mask.is_meta and not bool(mask.any(1).all()):
            raise ConfigError(
                "the published head has no question: expected at least one text position per row, "
                'got a row with none. Pass a question for every image, or use SafetyConfig(query="reading").'
            )
        query = self.query(question, mask)
        keys = torch.cat([tokens.expand(features.shape[0], -1, -1), features], 1)  # (B, K+P, D_s)
        attended, weights = self.attention(self.text(query).unsqueeze(1), keys, keys)  # (B, 1, D_s)
        attended = attended.squeeze(1)
        patches = weights[:, :, tokens.shape[0] :]  # (B, 1, P)
        return HeadOutput(self.types(attended), self.level(attended), patches.expand(-1, self.num_types, -1))

    def query(self, question: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, D): the first true position of the mask (padding on the left must not become the query).

        With the prompt's attention mask that is the start token, as published.
        """
        return question[torch.arange(len(question), device=question.device), mask.int().argmax(1)]


class PooledQuestionHead(FirstTokenHead):
    """The same with the mean of the question as query.

    It can steer *where* the head looks, but the classifiers never see it beside what was found.
    """

    reads = "parts"
    takes_tiles = False

    def query(self, question: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return masked_mean(question, mask)[0]
