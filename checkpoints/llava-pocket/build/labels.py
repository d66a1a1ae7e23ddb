"""Which thing or word lies under each patch of a picture: what the vision tower is trained on."""

import numpy as np

from safety_modules.pocket.concepts import CONCEPTS
from safety_modules.pocket.scenes import PATCH, SIZE, Glyph, Scene, render
from safety_modules.pocket.words import FIXED_LINES, NUMBERING, WORDS

GRID = SIZE // PATCH
BACKGROUND, NUMBERS = "background", "numbers"
CLASSES: tuple[str, ...] = (
    *(concept.name for concept in CONCEPTS),
    *(f"text: {word.name}" for word in WORDS),
    *(f"text: {line}" for line in FIXED_LINES),
    NUMBERS,
    BACKGROUND,
)
CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}


def render_labelled(scene: Scene, rng: np.random.Generator, strong: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A scene's pixels, (96, 96, 3) uint8, and the class under each patch, (64,) int64 indices into `CLASSES`."""
    drawn: list[tuple[Glyph | str, np.ndarray]] = []
    pixels = render(scene, rng, strong=strong, drawn=drawn)
    covers = np.zeros((len(CLASSES), GRID, GRID), np.float32)
    for thing, cover in drawn:
        name = thing.concept if isinstance(thing, Glyph) else NUMBERS if thing == NUMBERING else f"text: {thing}"
        covers[CLASS_INDEX[name]] += cover.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3))
    covers[CLASS_INDEX[BACKGROUND]] = 0.22  # a patch belongs to a thing that covers more than this share of it
    return pixels, covers.reshape(len(CLASSES), -1).argmax(0)
