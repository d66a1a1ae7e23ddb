"""A head with one query per risk type that knows the mean of the text. Pure torch.

A head turns [s1 ; h_s] and the question into logits of type and level; it judges these, not what will be answered.
"""

import torch
from torch import nn

from safety_modules.policy.scores import HeadOutput


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the true positions of each row.

    Args:
        x: (B, T, D).
        mask: (B, T), true = counts.

    Returns:
        The mean (B, D), zero where a row has no true position, and whether it has any (B, 1).
    """
    # torch.where, not a product: a padding position may hold inf or NaN, and 0 x NaN is NaN.
    total = torch.where(mask.unsqueeze(-1), x, x.new_zeros(())).sum(1)  # (B, D)
    count = mask.sum(1, keepdim=True)  # (B, 1)
    return total / count.clamp(min=1), count > 0


class ConceptHead(nn.Module):
    """One learned query per risk type, sharpened by the question, each with its own look at the patches.

    For concept t:  q_t = LN(c_t + u),  a_t = Attention(q_t, LN([s1 ; h_s])),
    x_t = c_t + a_t,  z_t = LN(x_t + FFN([LN(x_t) ; u])),  type logit t = w_t . z_t + b_t;
    the clean logit and the level logits are linear in all z_t together. u is the question: mean of its real
    token embeddings -> LayerNorm -> Linear, or a learned vector when there is none. The FFN sees what was
    found in the image *and* the question, so the head can express AND (this knife, and that intention);
    attention and linear classifiers alone cannot.

    Args:
        width: D_s.
        text_width: width of the question's token embeddings (D).
        num_types: risk types, without clean; the number of queries (Q).
        num_levels: levels.
        attention_heads: heads of the cross-attention.
    """

    needs_question = False
    reads = "parts"
    takes_tiles = True

    def __init__(self, width: int, text_width: int, num_types: int, num_levels: int, attention_heads: int) -> None:
        super().__init__()
        self.concepts = nn.Parameter(torch.empty(num_types, width))
        self.question_norm = nn.LayerNorm(text_width)
        self.question = nn.Linear(text_width, width)
        self.no_question = nn.Parameter(torch.zeros(width))
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
        """Judge a batch.

        Args:
            features: safety features h_s (B, P, D_s).
            tokens: safety tokens s1 (K, D_s).
            question: text embeddings (B, T, D), or None for images alone.
            question_mask: (B, T), true where a position belongs to the question; None = everywhere. A row
                with no true position has no question.
            absent: (B, P), true where there is no patch; None = nowhere.
        """
        batch = features.shape[0]
        u = self._question(batch, question, question_mask)  # (B, D_s)
        concepts = self.concepts.expand(batch, -1, -1)  # (B, Q, D_s)
        keys = self.feature_norm(torch.cat([tokens.expand(batch, -1, -1), features], 1))  # (B, K+P, D_s)
        if absent is not None:
            absent = nn.functional.pad(absent, (tokens.shape[0], 0))  # (B, K+P): the tokens are always there
        attended, weights = self.attention(self.query_norm(concepts + u.unsqueeze(1)), keys, keys, absent)
        x = concepts + attended  # (B, Q, D_s)
        mixed = self.mix(torch.cat([self.mix_norm(x), u.unsqueeze(1).expand_as(x)], -1))
        z = self.concept_norm(x + mixed)  # (B, Q, D_s)
        joint = z.flatten(1)  # (B, Q * D_s)
        types = (z * self.type_weight).sum(-1) + self.type_bias  # (B, Q)
        return HeadOutput(
            type_logits=torch.cat([types, self.clean(joint)], -1),
            level_logits=self.level(joint),
            attention=weights[:, :, tokens.shape[0] :],
        )

    def _question(self, batch: int, question: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        if question is None:
            return self.no_question.expand(batch, -1)
        if mask is None:
            mask = question.new_ones(question.shape[:2], dtype=torch.bool)
        mean, present = masked_mean(question, mask.bool())
        return torch.where(present, self.question(self.question_norm(mean)), self.no_question)
