"""Moves, recolours and spoils a batch of pictures together with what is known of their pixels."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def vary(pixels: Tensor, classes: Tensor, background: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Many pictures turned, shrunk, moved or mirrored, and many darkened, greyed, blurred or noisy.

    Args:
        pixels: (B, 3, H, W), from 0 to 1.
        classes: (B, H, W), class of every pixel.
        background: the class of what lies outside of the picture.

    Returns:
        The same shapes.
    """
    rows = torch.from_numpy(rng.random(len(pixels)) < 0.7)  # the rest stays as it is
    moved = rows & torch.from_numpy(rng.random(len(pixels)) < 0.7)
    if moved.any():
        pixels[moved], classes[moved] = _moved(pixels[moved], classes[moved], background, rng)
    if rows.any():
        pixels[rows] = _spoilt(pixels[rows], rng)
    return pixels, classes


def _moved(pixels: Tensor, classes: Tensor, background: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An affine map of each picture: what it does not reach is plain, or goes on as the edge does."""
    count = len(pixels)
    scale = 1 / np.where(rng.random(count) < 0.5, rng.uniform(0.45, 1.0, count), rng.uniform(0.9, 1.25, count))
    quarter = np.where(rng.random(count) < 0.2, rng.integers(1, 4, count), 0) * np.pi / 2
    angle = quarter + np.where(rng.random(count) < 0.5, rng.uniform(-np.pi / 4, np.pi / 4, count), 0)
    room = np.maximum(scale - 1, 0.12)  # so that what is shrunk may stand anywhere
    shift = rng.uniform(-1, 1, (count, 2)) * room[:, None]
    mirrored = np.where(rng.random(count) < 0.06, -1, 1)
    maps = np.empty((count, 2, 3), np.float32)
    maps[:, 0] = np.stack([mirrored * scale * np.cos(angle), -scale * np.sin(angle), shift[:, 0]], 1)
    maps[:, 1] = np.stack([mirrored * scale * np.sin(angle), scale * np.cos(angle), shift[:, 1]], 1)
    grid = F.affine_grid(torch.from_numpy(maps), list(pixels.shape), align_corners=False)
    outside = (grid.abs() > 1).any(-1)  # (B, H, W)
    warped = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    plain = torch.from_numpy(rng.random(count) < 0.6)
    colours = torch.from_numpy(rng.random((count, 3, 1, 1)).astype(np.float32))
    warped = torch.where(outside[:, None] & plain.view(-1, 1, 1, 1), colours, warped)
    found = F.grid_sample(classes[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    found = found[:, 0].to(classes.dtype)
    return warped, found.masked_fill(outside, background)


def _spoilt(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Each of the changes on a share of the pictures, at a strength of its own."""
    count = len(pixels)

    def chosen(share: float) -> Tensor:
        return torch.from_numpy(rng.random(count) < share)

    def strength(low: float, high: float, rows: Tensor) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (int(rows.sum()), 1, 1, 1)).astype(np.float32))

    rows = chosen(0.12)
    pixels[rows] = pixels[rows].mean(1, keepdim=True)
    rows = chosen(0.06)
    pixels[rows] = 1 - pixels[rows]
    rows = chosen(0.2)
    middle = pixels[rows].mean((1, 2, 3), keepdim=True)
    pixels[rows] = middle + (pixels[rows] - middle) * strength(0.15, 1.5, rows)
    rows = chosen(0.2)
    pixels[rows] = pixels[rows] * strength(0.15, 1.6, rows)
    rows = chosen(0.15)
    small = F.interpolate(pixels[rows], size=int(rng.integers(30, 72)), mode="bilinear", antialias=True)
    pixels[rows] = F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")
    rows = chosen(0.25)
    pixels[rows] = pixels[rows] + strength(0.01, 0.2, rows) * torch.randn_like(pixels[rows])
    return pixels.clamp(0, 1)
