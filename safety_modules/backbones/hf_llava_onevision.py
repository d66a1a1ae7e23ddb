"""LLaVA-OneVision as transformers has it: `LlavaOnevisionForConditionalGeneration`; see `hf_tiled`.

Of a prompt with several images each is one tile, padded to a square; a single one is cut into tiles. Features of more
than so many tiles are made smaller, behind the projector; what is judged is made smaller before it, in the same way.

Does not cover: videos, which a guarded call refuses.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionModel

from safety_modules.backbones.hf_llava import guarded, planned
from safety_modules.backbones.hf_tiled import TiledLlava, TiledModules
from safety_modules.backbones.tiles import Tiles
from safety_modules.errors import GuardError

SLACK = 1.1**2
"""So much more than the most tiles may be kept: transformers shrinks a side only where it is 1.1 times too long."""


class OnevisionModules(TiledModules):
    """See `TiledModules`."""

    select_strategy = "full"
    """SigLIP has no class token."""

    @property
    def most_kept(self) -> float:
        return SLACK * int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_"))

    def pack(self, features: Sequence[torch.Tensor], sizes: Any, newline: torch.Tensor) -> list[torch.Tensor]:
        ratio = self.model.config.vision_aspect_ratio
        packed, _ = self.model.model.pack_image_features(features, sizes, newline, ratio)
        return list(packed)


class HFLlavaOnevision(OnevisionModules, TiledLlava):
    """Backbone for transformers' LLaVA-OneVision; arguments and errors as `TiledLlava`."""

    architecture = "LlavaOnevisionForConditionalGeneration"
    guarded_classes = (guarded(LlavaOnevisionForConditionalGeneration), planned(LlavaOnevisionModel))
    image_arguments = ("pixel_values", "image_sizes", "batch_num_images")

    def _with_cuts(self, images: Tiles, arguments: Mapping[str, Any]) -> Tiles:
        counts = arguments.get("batch_num_images")
        if counts is None:
            return images
        cut = [int(count) == 1 for count in counts for _ in range(int(count))]
        if len(cut) != len(images):
            raise GuardError(
                f"call not guarded: expected batch_num_images that sum to {len(images)}, got {len(cut)}. Pass all "
                "that the processor gave."
            )
        return Tiles(images.pixels, images.sizes, torch.tensor(cut, dtype=torch.bool))

    def images_taken(self, pixel_values: Any) -> dict[str, Any]:
        counts: list[int] = []
        for cut, run in groupby(pixel_values.cut.tolist()):
            length = len(list(run))
            counts += [1] * length if cut else [length]
            if not cut and length == 1:
                raise GuardError(
                    "call not guarded: expected batch_num_images by rows, got one that names images of several rows "
                    "together. Pass the images of each prompt as a list of their own to the processor."
                )
        return {**super().images_taken(pixel_values), "batch_num_images": torch.tensor(counts)}
