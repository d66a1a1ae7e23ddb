"""LLaVA-NeXT (LLaVA-1.6) as transformers has it: `LlavaNextForConditionalGeneration`; see `hf_tiled`."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextModel

from safety_modules.backbones.base import named_as_base, no_copies, planned_features
from safety_modules.backbones.hf_llava import planned_output
from safety_modules.backbones.hf_tiled import TiledLlava, TiledModules, routed


@named_as_base
class PlannedLlavaNextModel(LlavaNextModel):
    """LlavaNextModel whose image features can be planned; without planned ones it is LlavaNextModel."""

    __reduce_ex__ = no_copies

    @functools.wraps(LlavaNextModel.get_image_features)
    def get_image_features(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = planned_features(self)
        if rows is None:
            return super().get_image_features(pixel_values, *args, **kwargs)
        return planned_output(rows, pixel_values)


@named_as_base
class GuardedLlavaNext(LlavaNextForConditionalGeneration):
    """LlavaNextForConditionalGeneration whose `generate` is guarded; see `hf_llava.GuardedLlava`."""

    __reduce_ex__ = no_copies

    @functools.wraps(LlavaNextForConditionalGeneration.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if planned_features(self.model) is not None:  # generate calling generate inside a guarded call
            return super().generate(*args, **kwargs)
        return routed(self, args, kwargs)


class NextModules(TiledModules):
    """See `TiledModules`."""

    def pack(self, features: Sequence[torch.Tensor], sizes: Any, newline: torch.Tensor) -> list[torch.Tensor]:
        strategy = self.model.config.vision_feature_select_strategy
        packed, _ = self.model.model.pack_image_features(features, sizes, strategy, newline)
        return list(packed)


class HFLlavaNext(NextModules, TiledLlava):
    """Backbone for transformers' LLaVA-NeXT; arguments and errors as `TiledLlava`."""

    architecture = "LlavaNextForConditionalGeneration"
    guarded_classes = (GuardedLlavaNext, PlannedLlavaNextModel)
