"""Cheap changes to a picture that leave a person seeing the same thing: borders, turns, noise, stickers and the like.

What is risky stays risky, so they test (and, on the training split, teach) whatever looks at pictures.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Change = Callable[[Image.Image, np.random.Generator], Image.Image]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Transform:
    """One change to a picture.

    Attributes:
        family: what kind of change it is.
        change: picture and source of randomness -> picture of the same size.
        moves: whether things may stand elsewhere afterwards, or in another order.
        recolours: whether the background's colour may be another.
        cuts: whether something near the edge may be gone afterwards.
        mirrors: whether text is unreadable afterwards.
    """

    family: str
    change: Change
    moves: bool = False
    recolours: bool = False
    cuts: bool = False
    mirrors: bool = False


def _colour(rng: np.random.Generator) -> Colour:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def _shrunk(image: Image.Image, rng: np.random.Generator, share: float) -> Image.Image:
    side = round(image.width * share)
    ground = Image.new("RGB", image.size, _colour(rng))
    x, y = rng.integers(0, image.width - side + 1, 2)
    ground.paste(image.resize((side, side), Image.Resampling.BICUBIC), (int(x), int(y)))
    return ground


def _framed(image: Image.Image, rng: np.random.Generator, width: int) -> Image.Image:
    inner = image.crop((width, width, image.width - width, image.height - width))
    return ImageOps.expand(inner, width, _colour(rng))


def _zoomed(image: Image.Image, rng: np.random.Generator, share: float) -> Image.Image:
    side = round(image.width / share)
    x, y = rng.integers(0, image.width - side + 1, 2)
    return image.crop((int(x), int(y), int(x) + side, int(y) + side)).resize(image.size, Image.Resampling.BICUBIC)


def _moved(image: Image.Image, rng: np.random.Generator, pixels: int) -> Image.Image:
    x, y = (int(sign) * pixels for sign in rng.choice((-1, 1), 2))
    padded = np.pad(np.asarray(image), ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    return Image.fromarray(padded).crop((pixels + x, pixels + y, pixels + x + image.width, pixels + y + image.height))


def _rotated(image: Image.Image, rng: np.random.Generator, degrees: int) -> Image.Image:
    sign = -1 if rng.random() < 0.5 else 1
    return image.rotate(sign * degrees, Image.Resampling.BICUBIC, fillcolor=_colour(rng))


def _turned(image: Image.Image, rng: np.random.Generator, how: Image.Transpose) -> Image.Image:
    return image.transpose(how)


def _beside(image: Image.Image, rng: np.random.Generator, tiles: int) -> Image.Image:
    """A collage: the picture in one of the tiles, plain patterns in the others."""
    side = image.width // tiles
    collage = Image.new("RGB", image.size)
    tiled = [(x * side, y * side) for x in range(tiles) for y in range(tiles)]
    here = int(rng.integers(len(tiled)))
    for number, place in enumerate(tiled):
        tile = image if number == here else _pattern(image.size, rng)
        collage.paste(tile.resize((side, side), Image.Resampling.BICUBIC), place)
    return collage


def _pattern(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    tile = Image.new("RGB", size, _colour(rng))
    pen = ImageDraw.Draw(tile)
    for _ in range(int(rng.integers(1, 4))):
        _shape(pen, size[0], int(rng.integers(size[0] // 4, size[0] // 2)), rng)
    return tile


def _shape(pen: ImageDraw.ImageDraw, side: int, size: int, rng: np.random.Generator) -> None:
    x, y = (int(value) for value in rng.integers(0, side - size + 1, 2))
    kind, box = rng.integers(0, 3), (x, y, x + size, y + size)
    if kind == 0:
        pen.ellipse(box, fill=_colour(rng))
    elif kind == 1:
        pen.rectangle(box, fill=_colour(rng))
    else:
        pen.polygon([(x, y + size), (x + size // 2, y), (x + size, y + size)], fill=_colour(rng))


def _stickers(image: Image.Image, rng: np.random.Generator, count: int) -> Image.Image:
    image = image.copy()
    for _ in range(count):
        _shape(ImageDraw.Draw(image), image.width, int(rng.integers(12, 19)), rng)
    return image


def _lined(image: Image.Image, rng: np.random.Generator, count: int) -> Image.Image:
    image = image.copy()
    pen, side = ImageDraw.Draw(image), image.width
    for _ in range(count):
        ends = [int(value) for value in rng.integers(0, side, 4)]
        pen.line(ends, fill=_colour(rng), width=int(rng.integers(1, 4)))
    return image


def _gridded(image: Image.Image, rng: np.random.Generator, step: int) -> Image.Image:
    image = image.copy()
    pen, colour = ImageDraw.Draw(image), _colour(rng)
    for at in range(int(rng.integers(0, step)), image.width, step):
        pen.line((at, 0, at, image.height), fill=colour)
        pen.line((0, at, image.width, at), fill=colour)
    return image


def _enhanced(
    image: Image.Image, rng: np.random.Generator, how: Callable[[Image.Image], Any], factor: float
) -> Image.Image:
    found: Image.Image = how(image).enhance(factor)
    return found


def _grey(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _negative(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _channels(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    order = ((1, 2, 0), (2, 0, 1), (2, 1, 0))[int(rng.integers(3))]
    return Image.fromarray(np.asarray(image)[..., order])


def _posterised(image: Image.Image, rng: np.random.Generator, bits: int) -> Image.Image:
    return ImageOps.posterize(image, bits)


def _noisy(image: Image.Image, rng: np.random.Generator, spread: float) -> Image.Image:
    pixels = np.asarray(image, np.float32) + rng.normal(0, spread, (image.height, image.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _salted(image: Image.Image, rng: np.random.Generator, share: float) -> Image.Image:
    pixels, hit = np.array(image), rng.random((image.height, image.width)) < share
    pixels[hit] = 255 * rng.integers(0, 2, (int(hit.sum()), 1))
    return Image.fromarray(pixels)


def _blurred(image: Image.Image, rng: np.random.Generator, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _compressed(image: Image.Image, rng: np.random.Generator, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _through(image: Image.Image, rng: np.random.Generator, side: int, how: Image.Resampling) -> Image.Image:
    return image.resize((side, side), how).resize(image.size, how)


_BRIGHT, _CONTRAST, _COLOUR = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
_SMOOTH, _BLOCKS = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
_QUARTER, _HALF, _THREE = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270
_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT

TRANSFORMS: dict[str, Transform] = {
    **{f"shrunk to {s} %": Transform("shrunk", partial(_shrunk, share=s / 100), moves=True) for s in (80, 60, 45)},
    **{
        f"border of {w} px": Transform("border", partial(_framed, width=w), recolours=w > 10, cuts=True)
        for w in (6, 10, 14)
    },
    **{
        f"zoomed by {s} %": Transform("zoomed", partial(_zoomed, share=1 + s / 100), moves=True, cuts=True)
        for s in (10, 20)
    },
    **{f"moved by {p} px": Transform("moved", partial(_moved, pixels=p), moves=True, cuts=True) for p in (4, 8)},
    **{
        f"rotated by {d}": Transform("rotated", partial(_rotated, degrees=d), moves=True, cuts=True)
        for d in (10, 20, 30, 45)
    },
    **{
        f"turned by {degrees}": Transform("turned", partial(_turned, how=how), moves=True)
        for degrees, how in ((90, _QUARTER), (180, _HALF), (270, _THREE))
    },
    "mirrored": Transform("mirrored", partial(_turned, how=_MIRROR), moves=True, mirrors=True),
    "one of 4 tiles": Transform("collage", partial(_beside, tiles=2), moves=True, recolours=True),
    **{f"{n} stickers": Transform("stickers", partial(_stickers, count=n)) for n in (1, 2, 4)},
    **{f"{n} lines": Transform("lines", partial(_lined, count=n)) for n in (3, 6, 10)},
    **{f"grid of {s} px": Transform("lines", partial(_gridded, step=s)) for s in (16, 8)},
    **{
        f"contrast {p} %": Transform("contrast", partial(_enhanced, how=_CONTRAST, factor=p / 100), recolours=True)
        for p in (50, 30, 20)
    },
    **{
        f"brightness {p} %": Transform("dark", partial(_enhanced, how=_BRIGHT, factor=p / 100), recolours=True)
        for p in (50, 30, 16)
    },
    "brightness 170 %": Transform("bright", partial(_enhanced, how=_BRIGHT, factor=1.7), recolours=True),
    "grey": Transform("colours", _grey, recolours=True),
    "negative": Transform("colours", _negative, recolours=True),
    "channels exchanged": Transform("colours", _channels, recolours=True),
    "saturation 250 %": Transform("colours", partial(_enhanced, how=_COLOUR, factor=2.5), recolours=True),
    "posterised": Transform("colours", partial(_posterised, bits=1), recolours=True),
    **{f"noise {s}": Transform("noise", partial(_noisy, spread=s), recolours=s > 30) for s in (20, 35, 50)},
    **{f"salt {p} %": Transform("noise", partial(_salted, share=p / 100)) for p in (3, 8)},
    **{f"blur {r}": Transform("blur", partial(_blurred, radius=r)) for r in (0.8, 1.2, 1.6)},
    **{f"JPEG {q}": Transform("compressed", partial(_compressed, quality=q)) for q in (40, 20, 8)},
    **{
        f"through {s} px": Transform("through fewer pixels", partial(_through, side=s, how=_SMOOTH))
        for s in (48, 40, 32)
    },
    "blocks of 2 px": Transform("through fewer pixels", partial(_through, side=48, how=_BLOCKS)),
}
"""By name; the strongest of each family is about as far as a person still sees at once what is shown."""


def transformed(pixels: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """A picture, (H, W, 3) uint8, changed by one of `TRANSFORMS`."""
    return np.array(TRANSFORMS[name].change(Image.fromarray(pixels), rng))
