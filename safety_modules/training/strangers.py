"""Pictures like nothing that is trained on: made up, so that a training can show what "anything else" looks like.

Clouds of noise whose spectrum falls as that of photographs does, heaps of discs and squares that hide one another (dead
leaves, which have the statistics of natural pictures), pages of text, and windows of a program.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 128
"""Of a picture, in pixels: what it shows is still there when a base makes it small."""
Random = np.random.Generator


def strangers(each: int, seed: int = 0) -> list[Image.Image]:
    """So many pictures of each of the four kinds; the same seed, the same pictures."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Callable[[Random], Image.Image], ...] = (clouds, leaves, page, windows)
    return [draw(rng) for draw in kinds for _ in range(each)]


def clouds(rng: Random) -> Image.Image:
    """Noise with power 1/f^2b, b from 0.6 to 1.8, in related colours."""
    places = np.fft.fftfreq(SIDE)
    radius = np.hypot(places[:, None], places[None])
    radius[0, 0] = 1 / SIDE
    spectra = np.fft.fft2(rng.normal(size=(3, SIDE, SIDE))) / radius ** rng.uniform(0.6, 1.8)
    channels = np.fft.ifft2(spectra).real  # (3, rows, columns)
    mixed = np.tensordot(1 + 0.5 * rng.normal(size=(3, 3)), channels / channels.std((1, 2), keepdims=True), 1)
    pixels = (mixed - mixed.mean()) / mixed.std() * rng.uniform(25, 70) + rng.uniform(60, 190)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def leaves(rng: Random) -> Image.Image:
    """Discs and squares, small ones more often than large ones, one over the other."""
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(80, 400)):
        size, (x, y) = min(SIDE / 2, 2 + 2 * rng.pareto(1.2)), rng.uniform(0, SIDE, 2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - size, y - size, x + size, y + size), fill=_grey(rng, rng.integers(0, 256), 30))
    return image


def page(rng: Random) -> Image.Image:
    """Lines of dark letters or strokes on a light ground, with paragraphs."""
    image = Image.new("RGB", (SIDE, SIDE), _grey(rng, rng.integers(225, 256)))
    draw, height, y = ImageDraw.Draw(image), int(rng.integers(2, 6)), int(rng.integers(4, 12))
    font, ragged = ImageFont.load_default(size=height + 3), rng.random() < 0.3
    while y < SIDE - 6:
        x, end = int(rng.integers(6, 14)), SIDE - int(rng.integers(6, 50 if ragged else 14))
        while x < end:
            width, ink = int(rng.integers(2, 12)), _grey(rng, rng.integers(0, 120))
            if height < 4:
                draw.rectangle((x, y, x + width, y + height - 1), fill=ink)
            else:
                letters = rng.choice([*"abcdefghilmnoprstu"], max(1, width // 3))
                draw.text((x, y), "".join(letters), fill=ink, font=font)
            x += width + 3
        y += height + int(rng.integers(2, 5)) + 8 * int(rng.random() < 0.1)
    return image


def windows(rng: Random) -> Image.Image:
    """Boxes in boxes, the innermost with strokes in them."""
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)

    def box(left: float, top: float, right: float, bottom: float, depth: int) -> None:
        if right - left < 6 or bottom - top < 6:
            return
        shade = int(rng.integers(150, 256))
        draw.rectangle((left, top, right, bottom), fill=_grey(rng, shade, 8), outline=_grey(rng, 0.6 * shade))
        if depth and rng.random() < 0.85:
            share = rng.uniform(0.2, 0.8)
            if rng.random() < 0.5:
                middle = left + (right - left) * share
                box(left + 2, top + 2, middle, bottom - 2, depth - 1)
                box(middle + 1, top + 2, right - 2, bottom - 2, depth - 1)
            else:
                middle = top + (bottom - top) * share
                box(left + 2, top + 2, right - 2, middle, depth - 1)
                box(left + 2, middle + 1, right - 2, bottom - 2, depth - 1)
            return
        for y in range(int(top) + 3, int(bottom) - 4, 7):
            if rng.random() < 0.7:
                end = left + 3 + rng.uniform(0.1, 0.8) * (right - left - 6)
                draw.rectangle((left + 3, y, end, y + 2), fill=_grey(rng, rng.integers(0, 130)))

    box(0, 0, SIDE, SIDE, 5)
    return image


def _grey(rng: Random, shade: float | np.integer, spread: float = 0) -> tuple[int, ...]:
    """A colour near a grey."""
    return tuple(np.clip(shade + spread * rng.normal(size=3), 0, 255).astype(int).tolist())
