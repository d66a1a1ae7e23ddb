"""Pictures cut into tiles: the pixels of a batch, and the features of a picture as the language model sees them.

A picture's features are those of its first tile, which is the whole picture made small, then the rows of the other
tiles put together and cut to the picture, each with a zero vector behind it: the place of the base's `image_newline`.
A batch of them ends in zeros. No tower gives a zero vector, so the zeros say what the layout is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from safety_modules.backbones.pixels import named_faults


@dataclass(frozen=True, eq=False)
class Tiles:
    """Pixels of N pictures, with what their processor says beside them.

    Attributes:
        pixels: (N, tiles, C, H, W); those with fewer tiles end in zeros.
        sizes: height and width of each picture (N, 2).
        cut: of each picture whether it is cut into tiles (N,); one that is not has its first tile alone.
    """

    pixels: torch.Tensor
    sizes: torch.Tensor
    cut: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, pictures: Any) -> "Tiles":
        """Some of the pictures, in this order: a slice, places or flags."""
        return Tiles(*(part[pictures] for part in (self.pixels, self.sizes, self.cut)))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The first tile of each picture (C, H, W)."""
        return iter(self.pixels[:, 0])

    def isfinite(self) -> torch.Tensor:
        """Of every pixel value."""
        return self.pixels.isfinite()

    def to(self, target: Any) -> "Tiles":
        """The pixels on a device, or of a dtype."""
        return Tiles(self.pixels.to(target), self.sizes, self.cut)


def cut(image_processor: Any, picture: Image.Image, name: object = "") -> Tiles:
    """A picture in RGB, as an image processor of tiles cuts it.

    Raises:
        DataError: the processor fails on it.
    """
    with named_faults(name):
        # As an array whose channels are said to be last: see `pixels.processed`.
        options = {"return_tensors": "np", "input_data_format": "channels_last"}
        found = image_processor(images=[np.asarray(picture)], **options)
        pixels = torch.from_numpy(np.asarray(found["pixel_values"]))
    return Tiles(pixels, torch.tensor([[picture.height, picture.width]]), torch.ones(1, dtype=torch.bool))


def joined(parts: Sequence[Tiles]) -> Tiles:
    """One batch of several."""
    most = max(part.pixels.shape[1] for part in parts)
    pixels = torch.cat([_longer(part.pixels, most) for part in parts])
    return Tiles(pixels, torch.cat([part.sizes for part in parts]), torch.cat([part.cut for part in parts]))


def _longer(values: torch.Tensor, count: int) -> torch.Tensor:
    """(N, count, ...) from fewer, with zeros behind."""
    missing = values.new_zeros(len(values), count - values.shape[1], *values.shape[2:])
    return torch.cat([values, missing], 1) if missing.numel() else values


def batch_of(features: Sequence[torch.Tensor], most: int | None = None) -> torch.Tensor:
    """Features (n_i, D) of each picture as one batch (N, n, D), with zeros behind; n: default the longest's."""
    found = pad_sequence([*features], batch_first=True)
    return found if most is None else _longer(found, most)


def lengths(features: torch.Tensor) -> list[int]:
    """How many features each picture of a batch (N, n, D) has: up to its last row's newline."""
    there = features.any(-1)  # (N, n)
    places = torch.arange(1, there.shape[1] + 1, device=there.device)
    return [last + 1 for last in (there * places).amax(1).tolist()]
