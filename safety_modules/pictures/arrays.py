"""Numbers to 8 bits: what is unambiguous is converted, everything else is refused."""

import sys
from typing import Any

import numpy as np
from PIL import Image

CHANNELS = (1, 3, 4)
ROUNDING = 1e-3
"""How far float pictures may leave 0..1."""


def as_array(source: Any) -> tuple[np.ndarray, bool] | None:
    """The numbers of an array or a tensor, and whether channels come first by its library's custom; None for others."""
    if isinstance(source, np.ndarray):
        return source, False
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(), True
    return None


def array_picture(values: np.ndarray, channels_first: bool = False) -> Image.Image:
    """The picture in an array: L, RGB or RGBA.

    Args:
        values: (H, W), (H, W, C) or (C, H, W), C one of 1, 3, 4; bool, integers of 0..255 or 0..65535, or floats of
            0..1 or 0..255.
        channels_first: which of the two it is where the shape fits both, such as (3, 80, 3).

    Raises:
        ValueError: another shape, or other numbers.
    """
    shape = values.shape
    if values.ndim == 3:
        first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
        if first and (channels_first or not last):
            values = np.moveaxis(values, 0, -1)
        if values.shape[2] == 1:
            values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in CHANNELS):
        raise ValueError(f"numbers of shape {shape}, not (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels")
    if not values.size:
        raise ValueError(f"no pixels (shape {shape})")
    return Image.fromarray(np.ascontiguousarray(eight_bits(values)))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """The same picture in uint8. The range is the smallest of 0..1 (floats), 0..255, 0..65535 (integers) that fits.

    Raises:
        ValueError: the numbers fit no range, or are none.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    if kind not in "iuf":
        raise ValueError(f"values of type {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if kind == "f":
        if not np.isfinite([low, high]).all():
            raise ValueError("NaN or infinity")
        wide = values.astype(np.float32)
        if low >= -ROUNDING and high <= 1 + ROUNDING:
            return (wide.clip(0, 1) * 255).round().astype(np.uint8)
        if low >= 0 and 2 <= high <= 255:  # up to 2 it may as well be 0..1 that a resize has overshot
            return wide.round().astype(np.uint8)
        raise ValueError(f"values of {low:g} to {high:g}, not of 0 to 1 or 0 to 255 (normalised? pass pixel_values)")
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if low >= 0 and high <= 65535:
        return (values.astype(np.float32) / 257).round().astype(np.uint8)
    raise ValueError(f"values of {low:g} to {high:g}, not of 0 to 255 or 0 to 65535")
