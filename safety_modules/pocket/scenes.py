"""Draws pocket's images: one to three glyphs, an instruction in text, or both, on a varied background.

A `Scene` says what is in the picture; `render` turns it into pixels. All randomness comes from the generator passed in,
so a seed names a picture.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from safety_modules.pocket import augment, lettering
from safety_modules.pocket.concepts import BY_NAME, CONCEPTS
from safety_modules.pocket.glyphs import STYLES, sheet
from safety_modules.pocket.lettering import Text
from safety_modules.pocket.transforms import transformed

SIZE, PATCH = 96, 12
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "black": (22, 22, 22),
    "red": (215, 50, 50),
    "orange": (245, 150, 45),
    "yellow": (248, 222, 70),
    "green": (70, 170, 85),
    "blue": (60, 105, 220),
    "purple": (135, 70, 185),
    "pink": (246, 160, 195),
}
MONOCHROME = {style.name for style in STYLES if style.monochrome}
_CONCEPT_INDEX = {concept.name: index for index, concept in enumerate(CONCEPTS)}

# Place -> centre of a glyph in pixels. One glyph may stand anywhere here; two share an axis; three take corners.
PLACES: dict[str, tuple[int, int]] = {
    "in the center": (48, 48),
    "on the left": (25, 48),
    "on the right": (71, 48),
    "at the top": (48, 25),
    "at the bottom": (48, 71),
    "at the top left": (25, 25),
    "at the top right": (71, 25),
    "at the bottom left": (25, 71),
    "at the bottom right": (71, 71),
    "above the text": (48, 34),
}


@dataclass(frozen=True)
class Glyph:
    """One drawn thing: which concept, in which style, where, and its side in pixels."""

    concept: str
    style: str
    place: str
    size: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows, and how it was changed afterwards: one of `transforms.TRANSFORMS`."""

    background: str
    glyphs: tuple[Glyph, ...] = ()
    text: Text | None = None
    transform: str | None = None


def render(
    scene: Scene,
    rng: np.random.Generator,
    *,
    strong: bool = False,
    drawn: list[tuple[Glyph | str, np.ndarray]] | None = None,
) -> np.ndarray:
    """Draws a scene.

    Args:
        scene: what to draw.
        rng: source of all jitter.
        strong: training-time augmentation (warp, hue, posterise, ...) instead of the mild jitter of evaluation.
        drawn: gets every glyph and segment of text, and what it covers before the scene's transform: (96, 96) float32,
            from 0 to 1.

    Returns:
        (96, 96, 3) uint8.
    """
    ground = COLOURS[scene.background]
    canvas = Image.fromarray(augment.background(ground, SIZE, rng, strong))
    for glyph in scene.glyphs:
        cover = _draw_glyph(canvas, glyph, ground, rng, strong)
        if drawn is not None:
            drawn.append((glyph, cover))
    if scene.text is not None:
        covers = lettering.draw(canvas, scene.text, augment.ink(ground, rng, strong))
        if drawn is not None:
            drawn += covers
    pixels = augment.photo(np.asarray(canvas), rng, strong)
    return pixels if scene.transform is None else transformed(pixels, scene.transform, rng)


def _draw_glyph(
    canvas: Image.Image, glyph: Glyph, ground: augment.Colour, rng: np.random.Generator, strong: bool
) -> np.ndarray:
    source = sheet(glyph.style)[_CONCEPT_INDEX[glyph.concept]]
    if not source[..., 3].any():
        raise ValueError(f"{glyph.style} has no drawing of {glyph.concept!r}: choose concepts with glyphs.carried().")
    flip = BY_NAME[glyph.concept].kind != "sign"
    image = augment.glyph(source, glyph.size, ground, rng, strong, glyph.style in MONOCHROME, flip)
    x, y = PLACES[glyph.place]
    slack = min(8, (SIZE - glyph.size) // 2) if glyph.place == "in the center" else 3
    x += int(rng.integers(-slack, slack + 1)) - image.width // 2
    y += int(rng.integers(-slack, slack + 1)) - image.height // 2
    canvas.paste(image, (x, y), image)
    cover = Image.new("L", (SIZE, SIZE))
    cover.paste(image.getchannel("A"), (x, y))
    return np.asarray(cover, np.float32) / 255
