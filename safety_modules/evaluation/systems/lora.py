"""`lora`: plain LoRA fine-tuning on the safety data, always on (VLGuard's form, arXiv 2402.02207)."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from safety_modules.backbones import find_backbone
from safety_modules.config import LoraSettings
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.systems.none import Plain
from safety_modules.evaluation.systems.weights import read_weights
from safety_modules.mount.lora import Lora


class PlainLora(Plain):
    """The base with a LoRA on its language model: no verdict, no hint, no tokens; on for questions without picture too.

    The LoRA is on the model only while it answers, so that systems may take turns.

    Args:
        model: the base, with nothing attached.
        processor: its processor.
        folder: trained weights.

    Raises:
        AdapterError: the folder is refused.
    """

    name = "lora"
    source = "VLGuard, arXiv 2402.02207; code: ys-zong/VLGuard"
    leaves_out = "its data: trained on the same records as all others; the projector stays frozen"

    def __init__(self, model: Any, processor: Any, folder: str | PathLike[str]) -> None:
        super().__init__(model, processor)
        backbone = find_backbone(model, processor)
        weights = read_weights(folder, self.name, backbone.fingerprint)
        settings = LoraSettings.model_validate(weights.record.settings)
        self.lora = Lora(backbone.language_model, settings, backbone.lock)
        self.lora.load_state_dict(weights.tensors)
        self.digest = weights.record.sha256
        self.extra_mb = weights.megabytes
        self.extra_parameters = sum(parameter.numel() for parameter in self.lora.parameters())

    def answer(self, cases: Sequence[Case], max_new_tokens: int) -> list[Reply]:
        with torch.no_grad(), self.lora.mounted():
            return super().answer(cases, max_new_tokens)

    def describe(self) -> dict[str, Any]:
        return {"system": self.name, "weights": self.digest}
