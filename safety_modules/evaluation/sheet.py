"""One picture of examples: image, where the head looked, verdict, base answer, guarded answer."""

from collections.abc import Sequence
from functools import cache
from os import PathLike
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from safety_modules.evaluation.examples import Example, reaction_title

# Everything in pixels; text is drawn large enough to be read when the sheet is scaled to a page.
WIDTH, MARGIN, GAP, PICTURE = 1480, 36, 20, 196
TEXT_LEFT = MARGIN + 2 * PICTURE + 3 * GAP
TEXT_WIDTH = WIDTH - MARGIN - TEXT_LEFT
ANSWER_WIDTH = (TEXT_WIDTH - GAP) // 2
LINE = 25
INK, SOFT, RULE, PAPER = "#1b1f24", "#5b6570", "#d9dee3", "#ffffff"
GOOD, BAD, TINT_GOOD, TINT_BAD = "#1a6b3c", "#a8281e", "#e8f4ec", "#fbeae8"


def draw_sheet(examples: Sequence[Example], title: str = "Base against guarded") -> Image.Image:
    """The examples as one RGB picture, a row each."""
    rows = [_draw_row(example) for example in examples]
    head = _draw_head(title)
    sheet = Image.new("RGB", (WIDTH, head.height + sum(row.height for row in rows) + MARGIN), PAPER)
    y = 0
    for part in (head, *rows):
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def write_sheet(examples: Sequence[Example], path: str | PathLike[str], title: str = "Base against guarded") -> Path:
    """Write `draw_sheet` as a PNG file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(examples, title).save(path, optimize=True)
    return path


def _draw_head(title: str) -> Image.Image:
    part = Image.new("RGB", (WIDTH, 118), PAPER)
    draw = ImageDraw.Draw(part)
    draw.text((MARGIN, 24), title, INK, _font(30, bold=True))
    note = "The first validation pictures of each kind, not selected by result. Overlay: where the safety head looked."
    draw.text((MARGIN, 70), note, SOFT, _font(18))
    return part


def _draw_row(example: Example) -> Image.Image:
    answers = [("base", example.base), ("guarded", example.guarded)]
    wrapped = [_wrap(text or "(empty)", _font(19), ANSWER_WIDTH - 28) for _, text in answers]
    question = _wrap(f"“{example.record.question}”", _font(20), TEXT_WIDTH)
    box_top = 38 + LINE * len(question) + LINE + 18
    box_height = 44 + LINE * max(map(len, wrapped)) + 8
    height = GAP + max(PICTURE + 34, box_top + box_height) + GAP
    part = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(part)
    draw.line((MARGIN, 0, WIDTH - MARGIN, 0), RULE, 2)

    image = example.record.load_image()
    shown = _short_type(example)
    for place, (picture, caption) in enumerate(
        ((image, "picture"), (example.verdict.overlay(image), f"attention: {shown}"))
    ):
        x = MARGIN + place * (PICTURE + GAP)
        part.paste(picture.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), (x, GAP))
        draw.text((x, GAP + PICTURE + 6), caption, SOFT, _font(16))

    y = GAP
    draw.text((TEXT_LEFT, y), example.title, INK, _font(21, bold=True))
    y += 36
    for line in question:
        draw.text((TEXT_LEFT, y), line, INK, _font(20))
        y += LINE
    y += 4
    verdict = verdict_line(example)
    draw.text((TEXT_LEFT, y), verdict, BAD if example.verdict.flagged else SOFT, _font(18, bold=True))
    for side, ((name, text), lines) in enumerate(zip(answers, wrapped, strict=True)):
        x = TEXT_LEFT + side * (ANSWER_WIDTH + GAP)
        good = example.good(text)
        box = (x, GAP + box_top, x + ANSWER_WIDTH, GAP + box_top + box_height)
        draw.rounded_rectangle(box, 10, TINT_GOOD if good else TINT_BAD)
        label = f"{name}: {reaction_title(text)}"
        draw.text((x + 14, GAP + box_top + 9), label, GOOD if good else BAD, _font(18, bold=True))
        for number, line in enumerate(lines):
            draw.text((x + 14, GAP + box_top + 40 + number * LINE), line, INK, _font(19))
    return part


def verdict_line(example: Example) -> str:
    """`verdict: illegal, high, p = 0.98 -> hint` or `verdict: clean, risk 0.01`."""
    verdict = example.verdict
    if verdict.flagged:
        probability = verdict.probabilities[verdict.type]
        return f"verdict: {verdict.type}, {verdict.level}, p = {probability:.2f} → {verdict.action}"
    return f"verdict: not flagged, risk {verdict.risk:.2f}"


def _short_type(example: Example) -> str:
    """The risk type whose map `overlay` shows by default."""
    types = list(example.verdict.probabilities)[:-1]
    if example.verdict.type in types:
        return example.verdict.type
    return max(types, key=lambda name: example.verdict.probabilities[name])


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of words that fit; a word wider than a line is cut."""
    lines, line = [], ""
    for word in text.split():
        while font.getlength(word) > width:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines += [line] if line else []
            lines.append(word[:cut])
            word, line = word[cut:], ""
        candidate = f"{line} {word}".strip()
        if font.getlength(candidate) > width:
            lines.append(line)
            candidate = word
        line = candidate
    return [*lines, line] if line or not lines else lines


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along on every system."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
