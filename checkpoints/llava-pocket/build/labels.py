"""Which thing or word lies under each patch of a picture: what the vision tower is trained on."""

import numpy as np
import torch
from torch import Tensor

from safety_modules.pocket.concepts import CONCEPTS
from safety_modules.pocket.scenes import PATCH, SIZE, Glyph, Scene, render
from safety_modules.pocket.words import FIXED_LINES, NUMBERED, WORDS

GRID = SIZE // PATCH
BACKGROUND, NUMBERS = "background", "numbers"
CLASSES: tuple[str, ...] = (
    *(concept.name for concept in CONCEPTS),
    *(f"text: {word.name}" for word in WORDS),
    *(f"text: {line}" for line in FIXED_LINES),
    NUMBERS,
    BACKGROUND,
)
COVERED = 0.22
"""A patch belongs to a thing that covers more than this share of it."""
CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}


def render_labelled(scene: Scene, rng: np.random.Generator, strong: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A scene's pixels, (96, 96, 3) uint8, and the class of every pixel, (96, 96) uint8 indices into `CLASSES`."""
    drawn: list[tuple[Glyph | str, np.ndarray]] = []
    pixels = render(scene, rng, strong=strong, drawn=drawn)
    classes = np.full((SIZE, SIZE), CLASS_INDEX[BACKGROUND], np.uint8)
    for thing, cover in drawn:
        name = thing.concept if isinstance(thing, Glyph) else NUMBERS if thing in NUMBERED else f"text: {thing}"
        classes[cover > 0.5] = CLASS_INDEX[name]
    return pixels, classes


def under_patches(classes: Tensor) -> Tensor:
    """The class under each patch, background where no thing covers much: (B, 96, 96) of every pixel -> (B, 64)."""
    batch = len(classes)
    parts = classes.long().view(batch, GRID, PATCH, GRID, PATCH).transpose(2, 3).reshape(batch * GRID * GRID, -1)
    shares = torch.zeros(len(parts), len(CLASSES)).scatter_add_(1, parts, torch.ones(parts.shape)) / PATCH**2
    shares[:, CLASS_INDEX[BACKGROUND]] = COVERED
    return shares.argmax(1).view(batch, -1)
