"""The default head: as `concept.ConceptHead`, but each type's query reads the text word by word. Pure torch.

The mean of a text loses a harmful sentence in sixty harmless words; attention over its positions does not.
"""

from collections.abc import Sequence

import torch
from torch import nn

from safety_modules.policy.scores import HeadOutput

REACH = 3
"""Tokens to either side that a block of the text encoder sees."""
BLOCKS = 3
"""Of the text encoder: a position then knows of `BLOCKS * REACH` tokens to either side."""
SMALL = 2048
"""Positions of a batch up to which its texts are read together, whatever their lengths."""


class NeighbourBlock(nn.Module):
    """Each position mixed with its neighbours: a depthwise convolution, a GELU and a linear, added to what was there.

    Knows order but no absolute place, so a sentence is read alike wherever it stands in a text of any length.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # Of two dimensions, one of them 1: the layout (B, T, W) is then channels last, many times as fast on a CPU.
        self.near = nn.Conv2d(width, width, (2 * REACH + 1, 1), padding=(REACH, 0), groups=width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (B, T, W), mask (B, T, 1); positions that are masked out are seen as zeros."""
        seen = torch.where(mask, self.norm(x), 0.0)  # (B, T, W)
        near = self.near(seen.unsqueeze(2).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).squeeze(2)
        return x + self.out(nn.functional.gelu(near))


class TextReader(nn.Module):
    """What each type's query finds in a text.

    Embeddings -> LayerNorm -> Linear -> `BLOCKS` neighbour blocks -> attention of one learned query per type and
    attention head, and beside what it finds the most of each key over all positions, the same for all types: what is
    said at all. Scores grow with the logarithm of the text's length (scalable softmax, arXiv 2501.19399), without which
    a query's look at one word would fade in a long text.

    Args:
        text_width: width of the token embeddings (D).
        width: D_s.
        num_types: queries (Q).
        attention_heads: they share the width.
    """

    def __init__(self, text_width: int, width: int, num_types: int, attention_heads: int) -> None:
        super().__init__()
        self.heads = attention_heads
        self.norm = nn.LayerNorm(text_width)
        self.down = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(NeighbourBlock(width) for _ in range(BLOCKS))
        self.text_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.empty(num_types, width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(num_types, width))
        nn.init.normal_(self.queries)

    def forward(self, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, D) and (B, T) -> (B, Q, D_s); a row with no true position gets a learned vector per type."""
        if mask.numel() <= SMALL or mask.is_meta:  # of a plan nothing is computed
            return self._read(text, mask)
        ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).tolist()
        groups = of_like_length(ends)
        parts = [self._read(text[rows, :width], mask[rows, :width]) for rows, width in groups]
        order = torch.tensor([row for rows, _ in groups for row in rows], device=text.device).argsort()
        return torch.cat(parts)[order]

    def _read(self, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        real = mask.unsqueeze(-1)  # (B, T, 1)
        # torch.where, not a product: a padding position may hold inf or NaN, and 0 x NaN is NaN.
        x = self.down(self.norm(torch.where(real, text, 0.0)))  # (B, T, D_s)
        for block in self.blocks:
            x = block(x, real)
        x = self.text_norm(x)
        queries = self.queries.unflatten(-1, (self.heads, -1))  # (Q, H, W)
        keys, values = (linear(x).unflatten(-1, (self.heads, -1)) for linear in (self.key, self.value))  # (B, T, H, W)
        count = mask.sum(1)[:, None, None, None]  # (B, 1, 1, 1)
        scores = torch.einsum("qhw,bthw->bhqt", queries, keys) * queries.shape[-1] ** -0.5
        scores = scores * torch.log1p(count).to(scores)
        weights = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)  # (B, H, Q, T)
        found = torch.einsum("bhqt,bthw->bqhw", weights, values).flatten(-2)  # (B, Q, D_s)
        most = keys.flatten(-2).masked_fill(~real, torch.finfo(x.dtype).min).amax(1, keepdim=True)  # (B, 1, D_s)
        return torch.where(count[..., 0] > 0, found + most, self.nothing)


def of_like_length(ends: Sequence[int]) -> list[tuple[list[int], int]]:
    """Rows whose texts end at these positions, in groups with the width of each: one long text among many short ones
    would cost as much as if all were long.
    """
    groups: list[tuple[list[int], int]] = []
    for row in sorted(range(len(ends)), key=lambda row: -ends[row]):
        if groups and ends[row] > groups[-1][1] // 2:
            groups[-1][0].append(row)
        else:
            groups.append(([row], max(16, ends[row])))
    return groups


class ReadingHead(nn.Module):
    """One learned query per risk type, which reads the text, then looks at the patches.

    For concept t: u_t = what it finds in the text (`TextReader`),
    q_t = LN(c_t + u_t),  a_t = Attention(q_t, LN([s1 ; h_s])),
    x_t = c_t + a_t,  z_t = LN(x_t + FFN([LN(x_t) ; u_t])),  type logit t = w_t . z_t + b_t;
    the clean logit and the level logits are linear in all z_t together. The FFN sees what was found in the image *and*
    in the text, so the head can express AND (this knife, and that intention).

    Args:
        width: D_s.
        text_width: width of the text's token embeddings (D).
        num_types: risk types, without clean; the number of queries (Q).
        num_levels: levels.
        attention_heads: heads of both attentions.

    Does not cover: meaning that lies in words farther apart than a position sees, nor in sentences that are each
    harmless.
    """

    needs_question = False
    reads = "turns"
    takes_tiles = True

    def __init__(self, width: int, text_width: int, num_types: int, num_levels: int, attention_heads: int) -> None:
        super().__init__()
        self.concepts = nn.Parameter(torch.empty(num_types, width))
        self.reader = TextReader(text_width, width, num_types, attention_heads)
        self.query_norm = nn.LayerNorm(width)
        self.feature_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, attention_heads, batch_first=True)
        self.mix_norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.concept_norm = nn.LayerNorm(width)
        self.type_weight = nn.Parameter(torch.empty(num_types, width))
        self.type_bias = nn.Parameter(torch.zeros(num_types))
        self.clean = nn.Linear(num_types * width, 1)
        self.level = nn.Linear(num_types * width, num_levels)
        nn.init.normal_(self.concepts, std=width**-0.5)
        nn.init.normal_(self.type_weight, std=width**-0.5)

    def forward(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        absent: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Judge a batch: see `modules.Head`."""
        batch = features.shape[0]
        read = self._read(batch, question, question_mask)  # (B, Q, D_s)
        concepts = self.concepts.expand(batch, -1, -1)  # (B, Q, D_s)
        keys = self.feature_norm(torch.cat([tokens.expand(batch, -1, -1), features], 1))  # (B, K+P, D_s)
        if absent is not None:
            absent = nn.functional.pad(absent, (tokens.shape[0], 0))  # (B, K+P): the tokens are always there
        attended, weights = self.attention(self.query_norm(concepts + read), keys, keys, absent)
        x = concepts + attended  # (B, Q, D_s)
        z = self.concept_norm(x + self.mix(torch.cat([self.mix_norm(x), read], -1)))  # (B, Q, D_s)
        joint = z.flatten(1)  # (B, Q * D_s)
        types = (z * self.type_weight).sum(-1) + self.type_bias  # (B, Q)
        return HeadOutput(
            type_logits=torch.cat([types, self.clean(joint)], -1),
            level_logits=self.level(joint),
            attention=weights[:, :, tokens.shape[0] :],
        )

    def _read(self, batch: int, question: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        if question is None:
            return self.reader.nothing.expand(batch, -1, -1)
        if mask is None:
            mask = question.new_ones(question.shape[:2], dtype=torch.bool)
        return self.reader(question, mask.bool())
