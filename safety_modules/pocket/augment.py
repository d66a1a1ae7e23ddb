"""Pixel-level variation: mild jitter for evaluation, strong style augmentation for training.

The strong set exists because pocket has eight training styles and must cope with a ninth: each step makes the drawings
of one style look a little like another's (outline on flat fill, posterised, one colour, negative, other hue).
"""

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

Colour = tuple[int, int, int]


def background(colour: Colour, size: int, rng: np.random.Generator, strong: bool) -> np.ndarray:
    """(size, size, 3) uint8: the colour, jittered, plain or with a gradient, stripes, checks or noise."""
    base = np.clip(np.array(colour, np.float32) + rng.normal(0, 9, 3), 0, 255)
    field = np.zeros((size, size), np.float32)
    kind = rng.integers(0, 5)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        field = (np.cos(angle) * x + np.sin(angle) * y) / size * rng.uniform(15, 40)
    elif kind == 2:
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
        field = np.sign(wave) * rng.uniform(4, 12)
    elif kind == 3:
        side = int(rng.integers(6, 25))
        field = (((x // side) + (y // side)) % 2 - 0.5) * rng.uniform(6, 20)
    elif kind == 4:
        field = rng.normal(0, rng.uniform(3, 10 if strong else 7), (size, size)).astype(np.float32)
    return np.clip(base + field[..., None], 0, 255).astype(np.uint8)


def ink(ground: Colour, rng: np.random.Generator, strong: bool) -> Colour:
    """A text or glyph colour that stands out from the ground."""
    light = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2] < 120  # Rec. 601 luma
    tint = rng.uniform(0, 70 if strong else 45, 3)
    shade = 255 - tint if light else tint
    return int(shade[0]), int(shade[1]), int(shade[2])


def glyph(
    source: np.ndarray,
    size: int,
    ground: Colour,
    rng: np.random.Generator,
    strong: bool,
    monochrome: bool,
    flip: bool,
) -> Image.Image:
    """One glyph, varied, as an RGBA image of about `size` pixels.

    Args:
        source: (96, 96, 4) uint8 from the sheet.
        ground: the background it will stand on; monochrome glyphs are tinted away from it.
        flip: whether it may be mirrored.
    """
    aspect = rng.uniform(0.85, 1.18) if strong else rng.uniform(0.94, 1.06)
    width, height = max(8, round(size * aspect**0.5)), max(8, round(size / aspect**0.5))
    image = Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR)
    if flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _warp(image, rng, 22 if strong else 10, 0.13 if strong and rng.random() < 0.5 else 0.0)
    pixels = np.asarray(image).astype(np.float32)
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    if monochrome:
        rgb = np.broadcast_to(np.array(ink(ground, rng, strong), np.float32), rgb.shape)
    elif strong:
        rgb = _recolour(rgb, ground, rng)
    rgb = (rgb - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-14, 14)
    pixels = np.concatenate([np.clip(rgb, 0, 255), alpha], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if strong and not monochrome and rng.random() < 0.18:
        image = _outlined(image, ink(ground, rng, strong))
    return image


def _warp(image: Image.Image, rng: np.random.Generator, degrees: float, amount: float) -> Image.Image:
    """Rotation and, if `amount`, a random quadrilateral warp (share of the side), in one resampling."""
    width, height = image.size
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]], np.float32)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    corners = corners @ rotation.T * (1 + 0.5 * abs(np.sin(angle)))  # zoom out so that no corner is cut off
    corners = corners + rng.uniform(-2 * amount, 2 * amount, corners.shape)
    quad = (corners * 0.5 + 0.5) * np.array([width, height])
    return image.transform(image.size, Image.Transform.QUAD, tuple(quad.ravel()), Image.Resampling.BILINEAR)


def _recolour(rgb: Any, ground: Colour, rng: np.random.Generator) -> np.ndarray:
    """One random change of palette; about half of the time only saturation moves."""
    draw = rng.random()
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    if draw < 0.18:
        rgb = rgb @ _hue_rotation(rng.uniform(0, 2 * np.pi))
    elif draw < 0.28:
        steps = rng.integers(2, 5)
        rgb = np.round(rgb / 255 * steps) / steps * 255
    elif draw < 0.36:
        tint = np.array(ink(ground, rng, True), np.float32)
        share = np.clip((grey - grey.min()) / max(np.ptp(grey), 1), 0, 1)[..., None]
        rgb = tint + share * (np.array(ground, np.float32) - tint) * rng.uniform(0.5, 1.0)
    elif draw < 0.40:
        rgb = 255 - rgb
    elif draw < 0.50:
        rgb = np.repeat(grey[..., None], 3, -1)
    else:
        rgb = grey[..., None] + (rgb - grey[..., None]) * rng.uniform(0.5, 1.5)
    return rgb


def _hue_rotation(angle: float) -> np.ndarray:
    """Rotation about the grey axis of RGB, as a matrix to multiply from the right."""
    c, s, third = np.cos(angle), np.sin(angle), 1 / 3
    off = np.sqrt(third) * s
    diagonal = c + (1 - c) * third
    plus, minus = third * (1 - c) + off, third * (1 - c) - off
    return np.array([[diagonal, plus, minus], [minus, diagonal, plus], [plus, minus, diagonal]], np.float32)


def _outlined(image: Image.Image, colour: Colour) -> Image.Image:
    """The glyph with a stroke around its silhouette and, lightly, along its inner edges."""
    alpha = image.getchannel("A")
    stroke = Image.new("RGBA", image.size, (*colour, 255))
    stroke.putalpha(alpha.filter(ImageFilter.MaxFilter(3)))
    edges = image.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda value: 255 if value > 70 else 0)
    lines = Image.new("RGBA", image.size, (*colour, 255))
    lines.putalpha(Image.fromarray(np.minimum(np.asarray(edges), np.asarray(alpha))))
    return Image.alpha_composite(Image.alpha_composite(stroke, image), lines)


def photo(pixels: np.ndarray, rng: np.random.Generator, strong: bool) -> np.ndarray:
    """Whole-image brightness, contrast, noise and, when strong, an occasional blur."""
    image: Any = pixels.astype(np.float32)
    spread = 0.2 if strong else 0.06
    image = (image - 128) * rng.uniform(1 - spread, 1 + spread) + 128 + rng.uniform(-60, 60) * spread
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(1, 9 if strong else 4), image.shape)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if strong and rng.random() < 0.15:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0))))
    return image
