"""The trainable set: projector, two token sets and head, sized for one base (arXiv 2405.13581)."""

import torch
from torch import nn

from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.errors import ConfigError
from safety_modules.modules.head import ConceptHead, HeadOutput, PaperHead
from safety_modules.modules.projector import build_projector
from safety_modules.modules.tokens import SafetyTokens


class SafetyModules(nn.Module):
    """Projector, head tokens (s1), language-model tokens (s2) and head.

    Lives beside the base model, never inside it. Parameters are float32 unless moved; inputs are cast to the
    modules' own dtype and device at the border, so the base may run in any.

    Args:
        config: the design.
        sizes: the base to fit.
        lm_token_std: standard deviation of s2 at the start; take that of the projected image features.

    Raises:
        ConfigError: the attention heads do not divide the width on this base.
    """

    def __init__(self, config: SafetyConfig, sizes: BaseSizes, lm_token_std: float = 0.02) -> None:
        super().__init__()
        self.config = config
        self.sizes = sizes
        width = config.feature_width(sizes.text_width)
        num_types, num_levels = len(config.taxonomy.types), len(config.taxonomy.levels)
        self.projector = build_projector(config, sizes.vision_width, sizes.text_width, sizes.grid)
        self.head_tokens = SafetyTokens(config.num_head_tokens, width)
        self.lm_tokens = SafetyTokens(config.num_lm_tokens, sizes.text_width, std=lm_token_std)
        self.head: ConceptHead | PaperHead
        if config.query == "concept":
            self.head = ConceptHead(width, sizes.text_width, num_types, num_levels, config.attention_heads)
        else:
            self.head = PaperHead(width, sizes.text_width, num_types, num_levels, config.attention_heads, config.query)

    @property
    def dtype(self) -> torch.dtype:
        """dtype the modules compute in."""
        return self.head_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device the modules are on."""
        return self.head_tokens.weight.device

    def forward(
        self,
        vision_features: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Judge images, with or without the question asked about them.

        Args:
            vision_features: features of the frozen tower h_o (B, P, Dv), class token dropped; in training mode the
                mlp projector also takes fewer patches than P.
            question: input embeddings of the prompt (B, T, D), or None.
            question_mask: (B, T), true where a position belongs to the question; with `query="first_token"`
                the prompt's attention mask gives the published behaviour. None = every position.

        Returns:
            Logits and the attention map over the patches.

        Raises:
            ConfigError: a tensor does not have the base's sizes.
        """
        self._check(vision_features, question, question_mask)
        features = self.projector(vision_features.to(self.device, self.dtype))  # (B, P, D_s)
        if question is not None:
            question = question.to(self.device, self.dtype)
        if question_mask is not None:
            question_mask = question_mask.to(self.device)
        return self.head(features, self.head_tokens(), question, question_mask)

    def _check(self, vision: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None) -> None:
        patches, width = self.sizes.num_patches, self.sizes.vision_width
        if self.training and self.config.projector == "mlp" and vision.ndim == 3:
            patches = min(patches, vision.shape[1])
        if vision.ndim != 3 or tuple(vision.shape[1:]) != (patches, width):
            raise _misfit("vision features", f"(B, {patches}, {width})", vision)
        batch, text = vision.shape[0], self.sizes.text_width
        if question is None:
            if mask is not None:
                raise ConfigError("question mask without a question: expected None, got a mask. Pass both or neither.")
            return
        if question.ndim != 3 or question.shape[0] != batch or question.shape[2] != text:
            raise _misfit("question embeddings", f"({batch}, T, {text})", question)
        if mask is not None and mask.shape != question.shape[:2]:
            raise _misfit("question mask", str(tuple(question.shape[:2])), mask)


def _misfit(what: str, expected: str, got: torch.Tensor) -> ConfigError:
    return ConfigError(
        f"{what} of another shape: expected {expected}, got {tuple(got.shape)}. Use the base the modules were made for."
    )
