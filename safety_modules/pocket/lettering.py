"""Text in pocket's pictures: which words stand on which line, how they are written, how large, and where.

Nothing about a text is fixed but its words: a reader that knew one layout only would be no reader.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from safety_modules.pocket.glyphs import font
from safety_modules.pocket.words import NUMBERED, WORD_BY_NAME

SMALLEST, LARGEST = 9, 26
"""Font sizes in pixels."""
CASES = ("lower", "upper", "title")
FORMS = ("plain", "hyphenated", "quoted", "leet", "spaced")
"""How a noun can be written."""
_LEET = str.maketrans("aeiost", "431057")
MARGIN = 2


@dataclass(frozen=True)
class Text:
    """A block of text.

    Attributes:
        lines: from top to bottom, segments of each: a noun, a fixed phrase of `words`, or a number of an empty list.
        font: name.
        size: of the font, in pixels.
        case: one of `CASES`.
        form: how the noun is written, one of `FORMS`.
        spacing: height of a line, in font sizes.
        align: of the lines in the block, 0 = left, 1 = right.
        at: where the block stands in the room it has, from (0, 0) top left to (1, 1) bottom right.
        room: first and last row of pixels that it may take.
    """

    lines: tuple[tuple[str, ...], ...]
    font: str
    size: int = 16
    case: str = "lower"
    form: str = "plain"
    spacing: float = 1.25
    align: float = 0.5
    at: tuple[float, float] = (0.5, 0.5)
    room: tuple[int, int] = (MARGIN, 96 - MARGIN)

    @property
    def segments(self) -> tuple[str, ...]:
        """All of them in reading order."""
        return tuple(segment for line in self.lines for segment in line)

    @property
    def words(self) -> str:
        """What it says, without the numbers of an empty list and however it is written."""
        return " ".join(segment for segment in self.segments if segment not in NUMBERED)

    @property
    def noun(self) -> str | None:
        """Its first noun, if it has any."""
        return next((segment for segment in self.segments if segment in WORD_BY_NAME), None)


def written(segment: str, case: str, form: str) -> str:
    """A segment as it is drawn; only nouns are hyphenated, quoted, in leet or spaced."""
    if segment in WORD_BY_NAME:
        if form == "hyphenated":
            middle = (len(segment) + 1) // 2
            segment = f"{segment[:middle]}-{segment[middle:]}"
        elif form == "leet":
            segment = segment.translate(_LEET)
        elif form == "spaced":
            segment = " ".join(segment)
        elif form == "quoted":
            segment = f'"{segment}"'
    return {"lower": str.lower, "upper": str.upper, "title": str.title}[case](segment)


def extent(text: Text, size: int) -> tuple[float, float]:
    """Width and height of the block in pixels at a font size."""
    face = font(text.font, size)
    widths = [face.getlength(" ".join(written(s, text.case, text.form) for s in line)) for line in text.lines]
    return max(widths), size * text.spacing * (len(text.lines) - 1) + size


def largest(text: Text, width: int) -> int:
    """The largest font size at which the block fits a picture of this width, 0 if even the smallest does not."""
    for size in range(LARGEST, SMALLEST - 1, -1):
        wide, high = extent(text, size)
        if wide <= width - 2 * MARGIN and high <= text.room[1] - text.room[0]:
            return size
    return 0


def draw(canvas: Image.Image, text: Text, ink: tuple[int, int, int]) -> list[tuple[str, np.ndarray]]:
    """Draws the block; returns every segment and what it covers, (H, W) float32 of 0 and 1."""
    pen, face, covers = ImageDraw.Draw(canvas), font(text.font, text.size), []
    wide, high = extent(text, text.size)
    left = MARGIN + text.at[0] * (canvas.width - 2 * MARGIN - wide)
    top = text.room[0] + text.at[1] * (text.room[1] - text.room[0] - high)
    space = face.getlength(" ")
    for row, line in enumerate(text.lines):
        shown = [written(segment, text.case, text.form) for segment in line]
        x = left + text.align * (wide - face.getlength(" ".join(shown)))
        y = top + row * text.size * text.spacing
        for segment, letters in zip(line, shown, strict=True):
            width = face.getlength(letters)
            pen.text((x, y + 0.8 * text.size), letters, font=face, fill=ink, anchor="ls")
            cover = np.zeros((canvas.height, canvas.width), np.float32)
            cover[max(0, round(y)) : round(y + text.size), max(0, round(x)) : round(x + width)] = 1
            covers.append((segment, cover))
            x += width + space
    return covers
