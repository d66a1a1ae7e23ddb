"""The drawing styles and fonts of pocket's world: which exist, which split may use them, and their pixels.

Styles and fonts of the split "build" are used to build the base, together with those of "train", and nowhere else. They
are not in the repository; `glyphs.py --build` draws them. Those of "held_out" are touched by the final evaluation only:
nothing is built, trained, chosen or compared with them.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from safety_modules.pocket.concepts import CONCEPTS

DATA = Path(__file__).parent / "data"
BUILD = DATA / "build"
CELL, COLUMNS = 96, 13


@dataclass(frozen=True)
class Style:
    """One icon set.

    Attributes:
        name: file stem of its sheet.
        package: npm package it was drawn from, or the name of a font file.
        licence: SPDX identifier; the attribution stands in data/LICENCES.md.
        split: "train" (tower, language model, head), "build" (tower and language model only), "validation" (choices
            and thresholds only), "test" (unseen) or "held_out" (touched by the final evaluation only).
        monochrome: drawn in black only; a scene tints it so that it stands out.
    """

    name: str
    package: str
    licence: str
    split: str
    monochrome: bool = False


@dataclass(frozen=True)
class Font:
    """One cut of a font family, with printable ASCII and nothing else.

    Attributes:
        name: file stem.
        package: npm package it was cut from.
        split: as in `Style`.
        cut: weight and slope, as the package names them.
        group: what kind of face a held-out font is: "plain", "technical" (slab, monospace, condensed) or "display"
            (display, handwriting); empty for the others.
    """

    name: str
    package: str
    split: str
    cut: str = "400-normal"
    group: str = ""


STYLES: tuple[Style, ...] = (
    Style("noto", "@iconify-json/noto", "Apache-2.0", "train"),
    Style("noto_blob", "@iconify-json/noto-v1", "Apache-2.0", "train"),
    Style("fluent", "@iconify-json/fluent-emoji", "MIT", "train"),
    Style("fluent_flat", "@iconify-json/fluent-emoji-flat", "MIT", "train"),
    Style("fluent_contrast", "@iconify-json/fluent-emoji-high-contrast", "MIT", "train", monochrome=True),
    Style("emojione", "@iconify-json/emojione", "CC-BY-4.0", "train"),
    Style("emojione_mono", "@iconify-json/emojione-monotone", "CC-BY-4.0", "train", monochrome=True),
    Style("streamline", "@iconify-json/streamline-emojis", "CC-BY-4.0", "train"),
    Style("firefox", "@iconify-json/fxemoji", "Apache-2.0", "validation"),
    Style("twemoji", "@iconify-json/twemoji", "CC-BY-4.0", "test"),
    Style("openmoji", "@iconify-json/openmoji", "CC-BY-SA-4.0", "build"),
    Style("emojione_v1", "@iconify-json/emojione-v1", "CC-BY-SA-4.0", "build"),
    Style("fluent_3d", "@lobehub/fluent-emoji-3d", "MIT", "build"),
    Style("noto_mono", "@fontsource/noto-emoji", "OFL-1.1", "build", monochrome=True),
    Style("symbola", "Symbola_hint.ttf", "LicenseRef-Symbola", "build", monochrome=True),
    Style("material", "@iconify-json/mdi", "Apache-2.0", "build", monochrome=True),
    Style("game_icons", "@iconify-json/game-icons", "CC-BY-3.0", "build", monochrome=True),
    Style("phosphor", "@iconify-json/ph", "MIT", "train", monochrome=True),
    Style("hosting_hub", "@iconify-json/whh", "OFL-1.1", "train", monochrome=True),
    Style("icofont", "@icon/icofont", "CC-BY-4.0", "train", monochrome=True),
    Style("icon_park", "@iconify-json/icon-park", "Apache-2.0", "train"),
    Style("font_awesome", "@iconify-json/fa7-solid", "CC-BY-4.0", "build", monochrome=True),
    Style("tabler", "@iconify-json/tabler", "MIT", "build", monochrome=True),
    Style("mingcute", "@iconify-json/mingcute", "Apache-2.0", "build", monochrome=True),
    Style("streamline_blue", "@iconify-json/streamline-color", "CC-BY-4.0", "build"),
    Style("openmoji_black", "openmoji", "CC-BY-SA-4.0", "build", monochrome=True),
    Style("unifont", "unifont.otf and unifont_upper.otf", "OFL-1.1", "held_out", monochrome=True),
    Style("hugeicons", "@iconify-json/hugeicons", "MIT", "held_out", monochrome=True),
    Style("openclipart", "openclipart-png", "LicenseRef-PublicDomain", "held_out"),
)
_FONTS = {
    "train": "roboto open-sans lato merriweather montserrat inter nunito roboto-slab roboto-mono comic-neue oswald "
    "pt-serif raleway",
    "validation": "playfair-display zilla-slab",
    "test": "fira-sans lora courier-prime quicksand",
    "build": "arvo bitter cabin crimson-text dosis exo-2 ibm-plex-mono josefin-sans karla libre-baskerville noto-sans "
    "patrick-hand rubik source-sans-3 space-mono special-elite ubuntu work-sans "
    "mulish dm-sans:700-normal poppins overpass:400-italic titillium-web:700-normal manrope:700-normal arimo hind "
    "eb-garamond spectral:400-italic vollkorn:700-normal source-serif-4 tinos:700-italic alegreya "
    "aleo:700-normal crete-round:400-italic kreon jetbrains-mono inconsolata:700-normal cousine:400-italic "
    "barlow-condensed bebas-neue anton caveat:700-normal permanent-marker pacifico lobster righteous bangers "
    "gochi-hand shadows-into-light indie-flower comfortaa:700-normal courgette architects-daughter baloo-2 "
    "roboto:700-normal open-sans:700-normal lato:400-italic merriweather:700-italic montserrat:700-normal "
    "pt-serif:400-italic",
}
_HELD_OUT_FONTS = {
    "plain": "albert-sans public-sans gelasio cardo",
    "technical": "rokkitt anonymous-pro pt-mono archivo-narrow",
    "display": "fredoka kalam handlee lilita-one",
}


def _font(entry: str, split: str, group: str = "") -> Font:
    """A font from its package's name, with its cut behind a colon unless that is upright and of normal weight."""
    package, _, cut = entry.partition(":")
    name = entry.replace("-", "_").replace(":", "_")
    return Font(name, f"@fontsource/{package}", split, cut or "400-normal", group)


FONTS: tuple[Font, ...] = (
    *(_font(entry, split) for split, entries in _FONTS.items() for entry in entries.split()),
    *(_font(entry, "held_out", group) for group, entries in _HELD_OUT_FONTS.items() for entry in entries.split()),
)


@cache
def sheet(style: str) -> np.ndarray:
    """One style's glyphs in table order: (number of concepts, 96, 96, 4) uint8 RGBA."""
    with Image.open(_file(f"{style}.webp")) as image:
        pixels = np.asarray(image.convert("RGBA"))
    rows = pixels.shape[0] // CELL
    cells = pixels.reshape(rows, CELL, COLUMNS, CELL, 4).swapaxes(1, 2).reshape(-1, CELL, CELL, 4)
    return cells[: len(CONCEPTS)]


@cache
def carried(style: str) -> frozenset[str]:
    """The concepts that the style has a drawing of."""
    alpha = sheet(style)[..., 3].reshape(len(CONCEPTS), -1).max(axis=1) > 0
    return frozenset(concept.name for concept, present in zip(CONCEPTS, alpha, strict=True) if present)


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels."""
    return ImageFont.truetype(str(_file(f"fonts/{name}.ttf")), size)


def styles_of(split: str) -> tuple[Style, ...]:
    """The styles of a split; "build" has those of "train" as well."""
    return tuple(style for style in STYLES if style.split in _members(split))


def fonts_of(split: str) -> tuple[Font, ...]:
    """The fonts of a split; "build" has those of "train" as well."""
    return tuple(font for font in FONTS if font.split in _members(split))


def _members(split: str) -> tuple[str, ...]:
    return ("train", "build") if split == "build" else (split,)


def _file(name: str) -> Path:
    """A sheet or font of the package, or one that only the building of the base uses."""
    found = next((folder / name for folder in (DATA, BUILD) if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{name}: expected it in {DATA} or {BUILD}, got it in neither. What only the building of the base uses is "
            f"drawn by `python checkpoints/llava-pocket/build/glyphs.py --build FOLDER_OF_TGZ`; `--styles seen` builds "
            f"without it."
        )
    return found
