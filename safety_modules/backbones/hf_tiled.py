"""What transformers' LLaVAs that cut pictures into tiles share: LLaVA-NeXT (1.6) and LLaVA-OneVision.

A picture takes as many image tokens as it needs. Its features, as the guard judges them, are those that become these
tokens, in their order and cut to the picture by the model's own `pack_image_features`, before the base's projector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from safety_modules.backbones.base import ImageFeatures
from safety_modules.backbones.chat import ChatFormat
from safety_modules.backbones.chat_turns import turn_format
from safety_modules.backbones.hf_llava import HFLlava, HFModules, check_image_tokens
from safety_modules.backbones.tiles import Tiles, batch_of, cut, joined, lengths
from safety_modules.config import BaseSizes
from safety_modules.errors import AttachError, GuardError
from safety_modules.pictures import open_picture

DETAIL = 2
"""Cells of a heat map to a patch of the first tile, which is the whole picture made small; each way."""


class TiledModules(HFModules):
    """The parts by the field's names; enough where there is no processor. See `HFModules`."""

    def read_sizes(self) -> BaseSizes:
        """Sizes from the model's config and its first block.

        Raises:
            AttachError: the language model does not see plain patch features.
        """
        sizes = super().read_sizes()
        side, _ = sizes.grid
        tiles = min(self.most_in_a_picture - 1, self.most_kept)
        newlines = side * max(rows for rows, _ in self._cuts)
        return replace(
            sizes,
            num_patches=int((1 + tiles) * side * side) + newlines,
            grid=(DETAIL * side, DETAIL * side),
            tile=sizes.grid,
        )

    @property
    def _cuts(self) -> list[tuple[int, int]]:
        """Rows and columns of tiles that pictures are cut into."""
        config = self.model.config
        side = config.vision_config.image_size
        return [(height // side, width // side) for height, width in config.image_grid_pinpoints]

    @property
    def most_in_a_picture(self) -> int:
        return 1 + max(rows * columns for rows, columns in self._cuts)

    @property
    def most_kept(self) -> float:
        """So many tiles' features are kept at most, beside the first's: what is more, the model makes smaller."""
        return float("inf")

    def pack(self, features: Sequence[torch.Tensor], sizes: Any, newline: torch.Tensor) -> list[torch.Tensor]:
        """Features (n_i, D) of pictures from those of their tiles (tiles, P, D), by the model's own code.

        Args:
            features: of each picture.
            sizes: height and width of each.
            newline: (D,), put behind each row.
        """
        raise NotImplementedError


class TiledLlava(TiledModules, HFLlava):
    """Backbone for transformers' LLaVAs with tiles; each family is a subclass.

    Args:
        model: not a subclass of the family's class; any dtype, quantised or not.
        processor: its processor.

    Raises:
        AttachError: safety is attached already, or the model's or processor's settings are not supported.
    """

    image_arguments: tuple[str, ...] = ("pixel_values", "image_sizes")

    def _check_image_tokens(self, processor: Any, token: str, image_token_id: int, sizes: BaseSizes) -> None:
        both = (self.model.config, processor.image_processor)
        cuts = [[list(size) for size in getattr(one, "image_grid_pinpoints", ())] for one in both]
        if cuts[0] != cuts[1]:
            raise AttachError(
                f"processor does not fit the model: expected image_grid_pinpoints {cuts[0]}, got {cuts[1]}. Load both "
                "from the same checkpoint."
            )
        check_image_tokens(processor, token, image_token_id, self._counts([[64, 64]], [True])[0])

    def _chat_format(self, processor: Any, image_token_id: int) -> ChatFormat:
        return turn_format(processor, image_token_id)

    def images_given(self, arguments: Mapping[str, Any]) -> Tiles | None:
        pixels, sizes = arguments.get("pixel_values"), arguments.get("image_sizes")
        if pixels is None or isinstance(pixels, Tiles):
            return pixels
        if pixels.ndim != 5 or sizes is None or len(sizes) != len(pixels):
            raise GuardError(
                "call not guarded: expected pixel_values (N, tiles, C, H, W) with N image_sizes, got pixel_values "
                f"{tuple(pixels.shape)} and {'no' if sizes is None else len(sizes)} image_sizes. Pass all that the "
                "processor gave."
            )
        sizes = torch.as_tensor(sizes).cpu()
        found = Tiles(pixels, sizes, torch.ones(len(pixels), dtype=torch.bool))
        return self._check_tiles(self._with_cuts(found, arguments))

    def _with_cuts(self, images: Tiles, arguments: Mapping[str, Any]) -> Tiles:
        """With what the arguments of a call say about which of them are cut."""
        return images

    def _check_tiles(self, images: Tiles) -> Tiles:
        most = max(self._tiles_of(images), default=0)
        if most > images.pixels.shape[1]:
            raise GuardError(
                f"call not guarded: expected {most} tiles for image_sizes {images.sizes.tolist()}, got "
                f"{images.pixels.shape[1]}. Pass pixel_values and image_sizes of one processor call."
            )
        return images

    def images_taken(self, pixel_values: Any) -> dict[str, Any]:
        return {"pixel_values": pixel_values.pixels, "image_sizes": pixel_values.sizes}

    def are_images(self, pixel_values: Any) -> bool:
        return isinstance(pixel_values, Tiles)

    def joined(self, parts: Sequence[Any]) -> Tiles:
        return joined(parts)

    def pixel_values(self, images: Sequence[Any]) -> Any:
        return joined([cut(self.processor.image_processor, open_picture(image)) for image in images]).to(self.device)

    def patch_counts(self, pixel_values: Any) -> list[int]:
        return self._counts(pixel_values.sizes.tolist(), pixel_values.cut.tolist())

    def _counts(self, sizes: Sequence[Any], cut: Sequence[bool]) -> list[int]:
        """Image tokens of pictures of these sizes."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        tiles = [self._tiles_in(size, whole) for size, whole in zip(sizes, cut, strict=True)]
        shapes = [torch.empty(count, patches, 1, device="meta") for count in tiles]
        return [len(one) for one in self.pack(shapes, sizes, torch.empty(1, device="meta"))] if shapes else []

    def _tiles_in(self, size: Any, cut: bool) -> int:
        config = self.model.config
        return (
            image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size) if cut else 1
        )

    def _tiles_of(self, images: Tiles) -> list[int]:
        return [self._tiles_in(*one) for one in zip(images.sizes.tolist(), images.cut.tolist(), strict=True)]

    def encode_images(self, pixel_values: Any, layer: int | None = None) -> ImageFeatures:
        taken = self.images_taken(pixel_values.to(self.device))
        vision, projected = self._run_tower(taken.pop("pixel_values"), layer, **taken)
        features = vision.split(self._tiles_of(pixel_values))
        packed = self.pack(features, pixel_values.sizes.tolist(), vision.new_zeros(vision.shape[-1]))
        return ImageFeatures(batch_of(packed), projected)

    def project(self, vision: torch.Tensor) -> list[torch.Tensor]:
        projected, there = self.projector(vision.to(self.device, self.model.dtype)), vision.any(-1, keepdim=True)
        newline = self.model.model.image_newline.to(projected)
        features = torch.where(there.to(self.device), projected, newline)
        return [one[:length] for one, length in zip(features, lengths(vision), strict=True)]

    def pixel_settings(self) -> dict[str, Any]:
        cuts = [[int(length) for length in size] for size in self.processor.image_processor.image_grid_pinpoints]
        return super().pixel_settings() | {"image_grid_pinpoints": cuts}

    @property
    def _beside_projector(self) -> Sequence[nn.Module]:
        return [nn.ParameterList([self.model.model.image_newline])]
