"""Questions as the head sees them, each tokenized once."""

from collections.abc import Sequence

import torch

from safety_modules.backbones import Backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import embed_questions, question_readings

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
        self._kept: dict[str | None, list[torch.Tensor]] = {}

    def __call__(self, questions: Sequence[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole questions, as a head is trained on them: embeddings (B, T, D), mask (B, T), nowhere true for None."""
        return embed_questions(self.backbone, [self.readings(text)[0] for text in questions])

    def readings(self, question: str | None) -> list[torch.Tensor]:
        """What a question is judged by, ids (T,) each: see `question_readings`."""
        if question not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            prompt = None if question is None else self.backbone.prompt_ids(question)
            self._kept[question] = question_readings(self.backbone, self.config, prompt)
        return self._kept[question]
