"""LLaVA-NeXT (LLaVA-1.6) as transformers has it: `LlavaNextForConditionalGeneration`; see `hf_tiled`."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextModel

from safety_modules.backbones.hf_llava import guarded, planned
from safety_modules.backbones.hf_tiled import TiledLlava, TiledModules


class NextModules(TiledModules):
    """See `TiledModules`."""

    def pack(self, features: Sequence[torch.Tensor], sizes: Any, newline: torch.Tensor) -> list[torch.Tensor]:
        strategy = self.model.config.vision_feature_select_strategy
        packed, _ = self.model.model.pack_image_features(features, sizes, strategy, newline)
        return list(packed)


class HFLlavaNext(NextModules, TiledLlava):
    """Backbone for transformers' LLaVA-NeXT; arguments and errors as `TiledLlava`."""

    architecture = "LlavaNextForConditionalGeneration"
    guarded_classes = (guarded(LlavaNextForConditionalGeneration), planned(LlavaNextModel))
