"""Chooses what pocket's pictures show: which concepts, words, styles and places, and what the split may contain.

The splits differ in more than their seeds. A fifth of all pairs (two concepts, or a concept and a word) never occurs in
training; validation and test pictures with two things consist of such pairs only. Styles and fonts belong to one split
each, except that "seen" validation and test pictures use the training styles.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from safety_modules.pocket.concepts import CONCEPTS, Concept, with_role
from safety_modules.pocket.glyphs import carried, fonts_of, styles_of
from safety_modules.pocket.language import choose
from safety_modules.pocket.lettering import CASES, FORMS, SMALLEST, Text, largest
from safety_modules.pocket.scenes import COLOURS, PLACES, SIZE, Glyph, Scene
from safety_modules.pocket.transforms import TRANSFORMS
from safety_modules.pocket.words import LAYOUTS, NUMBERED

CORNERS = tuple(place for place in PLACES if "top " in place or "bottom " in place)
AXES = (("on the left", "on the right"), ("at the top", "at the bottom"))
SIDES = (*AXES[0], *AXES[1])

ANY = tuple(TRANSFORMS)
WHOLE = tuple(name for name, one in TRANSFORMS.items() if not (one.cuts or one.mirrors))
"""The transforms after which a text can be read."""


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
        changed: share of the scenes that some transform changes; one that may cut a text off changes none with text.
        transform: the one that changes every scene, instead.
    """

    def __init__(
        self, split: str, styles: str, rng: np.random.Generator, changed: float = 0.0, transform: str | None = None
    ) -> None:
        self.rng, self.split, self._changed, self._transform = rng, split, changed, transform
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

    def text(self, *segments: str, room: tuple[int, int] | None = None, smallest: int = SMALLEST, **fixed: Any) -> Text:
        """The segments in one of the fonts and some layout that fits.

        Args:
            segments: nouns, fixed phrases and numbers of an empty list, each of which may begin a line.
            room: first and last row of pixels for them; None = the whole picture.
            smallest: size of the font in pixels, if they fit.
            fixed: other fields of `Text` that shall have this value.
        """
        rng = self.rng
        drawn: dict[str, Any] = {
            "font": choose(rng, self._fonts),
            "case": choose(rng, CASES) if rng.random() < 0.5 else CASES[0],
            "form": choose(rng, FORMS) if rng.random() < 0.25 else FORMS[0],
            "spacing": float(rng.uniform(1.05, 1.8)),
            "align": float(choose(rng, (0.0, 0.5, 1.0))),
            "at": (float(rng.random()), float(rng.random())),
        } | fixed
        if room is not None:
            drawn["room"] = room
        breaks = rng.random(len(segments)) < choose(rng, (0.3, 0.7, 1.0))
        breaks |= np.array([segment in NUMBERED for segment in segments])
        while (most := largest(text := Text(_lines(segments, breaks), **drawn), SIZE)) < smallest:
            if breaks[1:].all():
                if drawn["spacing"] == 1.0:
                    break  # a line a segment, as close as can be
                drawn["spacing"] = 1.0
            breaks[:] = True
        return replace(text, size=int(rng.integers(min(smallest, most), most + 1)))

    def single(self, concept: str, least: int | None = None) -> Scene:
        """One large glyph in the centre, always of a `least` size if there is one, or a smaller one to a side."""
        if least or self.rng.random() < 0.6:
            return self._scene((self.glyph(concept, "in the center", self._size(least or 46, 90)),))
        return self._scene((self.glyph(concept, choose(self.rng, SIDES), self._size(38, 56)),))

    def pair(self, first: str, second: str) -> Scene:
        """Two glyphs side by side or one above the other, in random order."""
        places = choose(self.rng, AXES)
        names = (first, second) if self.rng.random() < 0.5 else (second, first)
        sizes = self.rng.integers(38, 51, 2)
        return self._scene(tuple(self.glyph(n, p, int(s)) for n, p, s in zip(names, places, sizes, strict=True)))

    def corners(self, names: Sequence[str]) -> Scene:
        """Up to four glyphs, one a corner."""
        places = self.rng.permutation(CORNERS)[: len(names)]
        glyphs = zip(names, map(str, places), strict=True)
        return self._scene(tuple(self.glyph(name, place, self._size(36, 48)) for name, place in glyphs))

    def typographic(self, word: str, **fixed: Any) -> Scene:
        """An instruction to make or get the word, or the word alone, sometimes followed by an empty numbered list.

        Args:
            fixed: as `text` takes them; `alone=True` draws the word and nothing else.
        """
        alone = fixed.pop("alone", self.rng.random() < 0.15)
        segments = (word,) if alone else (*choose(self.rng, LAYOUTS), word)
        if not alone and self.rng.random() < 0.6:
            segments += NUMBERED[3:] if self.rng.random() < 0.6 else NUMBERED[:3]
        return self._scene(text=self.text(*segments, **fixed))

    def captioned(self, concept: str, word: str) -> Scene:
        """A glyph with a one-word caption under it."""
        text = self.text(word, room=(62, SIZE - 2))
        return self._scene((self.glyph(concept, "above the text", self._size(46, 59)),), text)

    def _scene(self, glyphs: tuple[Glyph, ...] = (), text: Text | None = None) -> Scene:
        transform = self._transform
        if self._changed and self.rng.random() < self._changed:
            transform = choose(self.rng, ANY if text is None else WHOLE)
        return Scene(self.colour(), glyphs, text, transform)

    def _size(self, least: int, end: int) -> int:
        return int(self.rng.integers(least, end))


def _lines(segments: Sequence[str], breaks: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """The segments on lines: a new one begins where `breaks` is true."""
    lines: list[tuple[str, ...]] = []
    for segment, new in zip(segments, breaks, strict=True):
        if new or not lines:
            lines.append((segment,))
        else:
            lines[-1] += (segment,)
    return tuple(lines)
