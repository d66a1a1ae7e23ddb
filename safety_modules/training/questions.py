"""Questions as the head sees them, each tokenized once."""

from collections.abc import Sequence

import torch

from safety_modules.backbones import Backbone
from safety_modules.config import SafetyConfig
from safety_modules.guard import embed_questions, question_ids

MAX_KEPT = 65_536
"""Questions whose ids are remembered, half a kilobyte each: an audit has a bounded memory, too."""


class QuestionEmbeddings:
    """Question embeddings and masks in batches, as guarding computes them from a prompt.

    Args:
        backbone: the base.
        config: the modules' design.
    """

    def __init__(self, backbone: Backbone, config: SafetyConfig) -> None:
        self.backbone, self.config = backbone, config
        self._kept: dict[str, torch.Tensor] = {}

    def __call__(self, questions: Sequence[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, T, D) and mask (B, T); a row for None has no true position."""
        none = torch.zeros(0, dtype=torch.long)
        return embed_questions(self.backbone, [none if text is None else self._ids(text) for text in questions])

    def _ids(self, question: str) -> torch.Tensor:
        if question not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            prompt = self.backbone.prompt_ids(question)
            self._kept[question] = question_ids(self.backbone, self.config, prompt)
        return self._kept[question]
