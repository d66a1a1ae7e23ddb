"""Pictures to pixel values by the base's own image processor, one by one: a bad picture costs itself, not its batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from safety_modules.pictures import check_resized, unreadable


def processed(image_processor: Any, picture: Image.Image, name: object = "", **options: Any) -> np.ndarray:
    """The pixel values (C, H, W) of a picture in RGB.

    It goes in as an array whose channels are said to be last: transformers 4.57 takes a picture one or three pixels
    high, whose shape fits both, for one with its channels first.

    Raises:
        DataError: the resize would make more than RESIZED_PIXELS of it, or the processor fails on it.
    """
    with named_faults(name):
        check_size(picture.size, image_processor)
        options = {"return_tensors": "np", "input_data_format": "channels_last", **options}
        return np.asarray(image_processor(images=[np.asarray(picture)], **options)["pixel_values"])[0]


def pixel_range(image_processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and highest pixel value of each channel that a picture can have: black and white, each (C,)."""
    values = torch.tensor([[0.0], [255.0]]).repeat(1, 3)  # RGB
    if getattr(image_processor, "do_rescale", True):
        values = values * image_processor.rescale_factor
    if getattr(image_processor, "do_normalize", True):
        values = (values - torch.tensor(image_processor.image_mean)) / torch.tensor(image_processor.image_std)
    return values[0], values[1]


@contextmanager
def named_faults(name: object) -> Iterator[None]:
    """Whatever is raised inside is the fault of the picture with this name. Raises DataError."""
    try:
        yield
    except Exception as error:  # of any processor, for any reason; MemoryError is one
        raise unreadable(name, error) from error


def check_size(size: tuple[int, int], image_processor: Any, pads: bool = False) -> None:
    """Raises ValueError for a picture (width, height) that the processor would blow up beyond memory, before it does.

    `pads`: it is padded to a square first, whatever the processor's own settings say.
    """
    if pads or (getattr(image_processor, "do_pad", False) and not getattr(image_processor, "pad_size", None)):
        size = (max(size), max(size))
        check_resized(size, size[0] * size[1], "padded to a square")
    if getattr(image_processor, "do_resize", True):
        width, height = resized(size, getattr(image_processor, "size", None) or {})
        check_resized(size, width * height, f"resized to {width} x {height}")


def resized(size: tuple[int, int], to: Any) -> tuple[int, int]:
    """Width and height after a resize by the processor's `size`: by shortest edge, longest edge, both, or two sides.

    Or more: transformers 4.57 knows no longest beside a shortest edge.
    """
    width, height, shortest, longest, widest, highest = (
        _side(to, name) for name in ("width", "height", "shortest_edge", "longest_edge", "max_width", "max_height")
    )
    if width and height:
        return width, height
    if shortest:
        scale = shortest / min(size)
    else:
        limits = ((longest, max(size)), (widest, size[0]), (highest, size[1]))
        scale = min((limit / side for limit, side in limits if limit), default=1.0)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _side(to: Any, name: str) -> int:
    if isinstance(to, int):  # as in old configs
        return to if name == "shortest_edge" else 0
    return int((to.get(name) if isinstance(to, Mapping) else getattr(to, name, None)) or 0)
