"""Chooses what pocket's pictures show: which concepts, words, styles and places, and what the split may contain.

The splits differ in more than their seeds. A fifth of all pairs (two concepts, or a concept and a word) never occurs in
training; validation and test pictures with two things consist of such pairs only. Styles and fonts belong to one split
each, except that "seen" validation and test pictures use the training styles.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from safety_modules.pocket.concepts import CONCEPTS, Concept, with_role
from safety_modules.pocket.glyphs import carried, fonts_of, styles_of
from safety_modules.pocket.language import choose
from safety_modules.pocket.scenes import COLOURS, PLACES, Glyph, Scene, Text
from safety_modules.pocket.words import LAYOUTS, NUMBERING

CORNERS = tuple(place for place in PLACES if "top " in place or "bottom " in place)
AXES = (("on the left", "on the right"), ("at the top", "at the bottom"))
SIDES = (*AXES[0], *AXES[1])


def pair_split(first: str, second: str) -> str:
    """The split that this pair of names belongs to: a tenth each for validation and test."""
    number = zlib.crc32("|".join(sorted((first, second))).encode()) % 10
    return {0: "validation", 5: "test"}.get(number, "train")


class Composer:
    """Draws random scenes for one split.

    Args:
        split: "train", "validation" or "test": whether pairs come from the training or the held-out ones.
        styles: "train" (seen), or the split whose styles and fonts to use: "validation", "test" (unseen).
        rng: source of all choices.
    """

    def __init__(self, split: str, styles: str, rng: np.random.Generator) -> None:
        self.rng, self.split = rng, split
        self._styles = {
            concept.name: [style.name for style in styles_of(styles) if concept.name in carried(style.name)]
            for concept in CONCEPTS
        }
        self._fonts = [font.name for font in fonts_of(styles)]

    def drawable(self, *roles: str) -> list[Concept]:
        """The concepts of these roles (of any, when none is named) that the styles can draw."""
        return [concept for concept in (with_role(*roles) if roles else CONCEPTS) if self._styles[concept.name]]

    def partner(self, first: str, options: Sequence[Concept]) -> str:
        """The name of an option that may stand beside `first` in this split."""
        names = [option.name for option in options if option.name != first]
        return choose(self.rng, [name for name in names if pair_split(first, name) == self.split] or names)

    def colour(self) -> str:
        """A background colour."""
        return choose(self.rng, tuple(COLOURS))

    def glyph(self, concept: str, place: str, size: int) -> Glyph:
        """The concept in one of the styles that carry it."""
        return Glyph(concept, choose(self.rng, self._styles[concept]), place, size)

    def text(self, *lines: str) -> Text:
        """The lines in one of the fonts."""
        return Text(lines, choose(self.rng, self._fonts), self._size(16, 20))

    def single(self, concept: str) -> Scene:
        """One large glyph in the centre, or a smaller one to a side."""
        if self.rng.random() < 0.6:
            return Scene(self.colour(), (self.glyph(concept, "in the center", self._size(58, 86)),))
        return Scene(self.colour(), (self.glyph(concept, choose(self.rng, SIDES), self._size(44, 56)),))

    def pair(self, first: str, second: str) -> Scene:
        """Two glyphs side by side or one above the other, in random order."""
        places = choose(self.rng, AXES)
        names = (first, second) if self.rng.random() < 0.5 else (second, first)
        sizes = self.rng.integers(42, 51, 2)
        return Scene(
            self.colour(), tuple(self.glyph(n, p, int(s)) for n, p, s in zip(names, places, sizes, strict=True))
        )

    def corners(self, names: Sequence[str]) -> Scene:
        """Up to four glyphs, one a corner."""
        places = self.rng.permutation(CORNERS)[: len(names)]
        glyphs = zip(names, map(str, places), strict=True)
        return Scene(self.colour(), tuple(self.glyph(name, place, self._size(40, 48)) for name, place in glyphs))

    def typographic(self, word: str) -> Scene:
        """An instruction to make or get the word, sometimes followed by an empty numbered list."""
        lines = (*choose(self.rng, LAYOUTS), word)
        if self.rng.random() < 0.6:
            lines = (*lines, NUMBERING)
        return Scene(self.colour(), text=self.text(*lines))

    def captioned(self, concept: str, word: str) -> Scene:
        """A glyph with a one-word caption under it."""
        text = self.text(word)
        return Scene(self.colour(), (self.glyph(concept, "above the text", self._size(50, 59)),), text)

    def _size(self, least: int, end: int) -> int:
        return int(self.rng.integers(least, end))
