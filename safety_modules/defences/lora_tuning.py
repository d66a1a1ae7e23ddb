"""`lora`: plain LoRA on the language model, tuned on safety data and always on (VLGuard's form, arXiv 2402.02207)."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from safety_modules.backbones import Backbone
from safety_modules.config import LoraSettings
from safety_modules.defences.base import SEED, Defence, Settings
from safety_modules.defences.call import Call
from safety_modules.mount.lora import Lora


class LoraTuningSettings(Settings):
    """Attributes: lora: rank, scale and targets."""

    kind: Literal["lora"] = "lora"
    lora: LoraSettings = LoraSettings()

    @property
    def lora_settings(self) -> LoraSettings:
        return self.lora


class LoraTuning(Defence):
    """No verdict, no hint, no tokens; on for questions without a picture too."""

    kind = "lora"
    settings_type = LoraTuningSettings
    images_only = False
    needs_training = True
    source = "VLGuard, arXiv 2402.02207; code: ys-zong/VLGuard"
    leaves_out = "its data: trained on the same records as all others; the projector stays frozen"
    lora: Lora

    def __init__(self, backbone: Backbone, settings: LoraTuningSettings | None = None, seed: int = SEED) -> None:
        super().__init__(backbone, settings)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.lora = Lora(backbone.language_model, self.settings.lora, backbone.lock)
        self.fingerprint, self.trained = backbone.fingerprint(), False

    def prepared(self, call: Call) -> Call:
        return call.mounting(self._mounted)

    def _mounted(self, rows: list[bool]) -> AbstractContextManager[Any]:
        return self.lora.mounted(any(rows), rows)
