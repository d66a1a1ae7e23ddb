"""Builds pocket's glyph sheets and fonts from free icon sets; needed only to add a style, never to use pocket.

    pip install resvg-py fonttools brotli
    npm pack @iconify-json/noto @iconify-json/twemoji ...        # see STYLES
    npm pack @fontsource/roboto ...                              # see FONTS
    python checkpoints/llava-pocket/build/glyphs.py FOLDER_OF_TGZ
    python checkpoints/llava-pocket/build/glyphs.py --build FOLDER_OF_TGZ     # what only the building of the base uses

Beside the packages lie `Symbola_hint.ttf` of Debian's fonts-symbola, `unifont.otf` and `unifont_upper.otf` of its
fonts-unifont, and the folder `png` of its openclipart-png as `openclipart-png`. Every icon is drawn at 96 x 96 pixels
with transparency; a style becomes one lossless WebP sheet in table order.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Set
from functools import lru_cache
from pathlib import Path

from icons import UNCLEAR, icons_of
from PIL import Image, ImageDraw, ImageFont

from safety_modules.pocket.concepts import CONCEPTS, Concept
from safety_modules.pocket.glyphs import BUILD, CELL, COLUMNS, DATA, FONTS, STYLES, Font, Style

# Printable ASCII: what typographic images may write; everything else is cut away to keep the fonts small.
CHARACTERS = "".join(map(chr, range(32, 127)))


def draw(icons: dict, concept: Concept, style: Style) -> Image.Image | None:
    """The concept's icon as (96, 96) RGBA, or None where the set does not carry it."""
    for name in icons_of(concept, style):
        alias = icons.get("aliases", {}).get(name)
        icon = icons["icons"].get(alias["parent"] if alias else name)
        if icon is None:
            continue
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'color="#000" viewBox="0 0 {width} {height}" width="{CELL}" height="{CELL}">{icon["body"]}</svg>'
        )
        return draw_svg(svg)
    return None


def draw_svg(svg: str) -> Image.Image:
    """A drawing as (96, 96) RGBA."""
    import resvg_py

    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=CELL, height=CELL))
    glyph = Image.open(io.BytesIO(data)).convert("RGBA")
    if glyph.size != (CELL, CELL):
        canvas = Image.new("RGBA", (CELL, CELL))
        glyph.thumbnail((CELL, CELL))
        canvas.paste(glyph, ((CELL - glyph.width) // 2, (CELL - glyph.height) // 2))
        glyph = canvas
    if glyph.getchannel("A").getbbox() is None:
        raise ValueError(f"a drawing shows nothing: {svg[:200]}")
    return _fill(glyph)


def draw_png(path: Path) -> Image.Image:
    """A picture of any size as (96, 96) RGBA."""
    glyph = Image.open(path).convert("RGBA")
    glyph.thumbnail((4 * CELL, 4 * CELL))
    return _fill(glyph)


def _fill(glyph: Image.Image) -> Image.Image:
    """The glyph without its margins, scaled so that its longer side fills the cell, centred."""
    glyph = glyph.crop(glyph.getchannel("A").getbbox())
    scale = CELL / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    canvas = Image.new("RGBA", (CELL, CELL))
    canvas.paste(glyph.resize(size, Image.Resampling.LANCZOS), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return canvas


def package_of(folder: Path, package: str) -> Path:
    """An npm package that lies as `*.tgz` in the folder."""
    stem = package.lstrip("@").replace("/", "-")
    found = sorted(path for path in folder.glob(f"{stem}-*.tgz") if path.name[len(stem) + 1].isdigit())
    if not found:
        raise FileNotFoundError(
            f"{package}: expected {stem}-*.tgz in {folder}, got none. Run `npm pack {package}` there."
        )
    return found[-1]


@lru_cache(maxsize=1)
def contents(archive: Path) -> dict[str, bytes]:
    """All files of an npm package."""
    with tarfile.open(archive) as files:
        return {
            entry.name.removeprefix("package/"): files.extractfile(entry).read()  # type: ignore[union-attr]
            for entry in files
            if entry.isfile()
        }


def member(folder: Path, package: str, name: str) -> bytes:
    """One file of an npm package."""
    return contents(package_of(folder, package))[name]


def characters(folder: Path) -> dict[str, str]:
    """Concept -> its code point as Twemoji's table of names gives it, in hexadecimal."""
    named = {name: code for code, name in json.loads(member(folder, "@iconify-json/twemoji", "chars.json")).items()}
    return {concept.name: next(named[n] for n in icons_of(concept) if n in named) for concept in CONCEPTS}


def drawer(folder: Path, style: Style) -> Callable[[Concept], Image.Image | None]:
    """What draws a concept in the style: from an icon set, single files, a folder of pictures, or a font."""

    def text(name: str) -> str:
        return member(folder, style.package, name).decode()

    def first(concept: Concept, draw: Callable[[str], Image.Image]) -> Image.Image | None:
        return next((draw(name) for name in icons_of(concept, style)), None)

    if style.package.startswith("@iconify-json/"):
        icons = json.loads(member(folder, style.package, "icons.json"))
        return lambda concept: draw(icons, concept, style)
    if style.package == "openclipart-png":
        return lambda concept: first(concept, lambda name: draw_png(folder / style.package / f"{name}.png"))
    if style.package == "@icon/icofont":
        return lambda concept: first(concept, lambda name: draw_svg(text(f"icons/{name}.svg")))
    codes = characters(folder)
    if style.package == "openmoji":
        return lambda concept: draw_svg(text(f"black/svg/{codes[concept.name].upper()}.svg"))
    if style.package.endswith("-3d"):
        files = {name.rsplit("/", 1)[-1].split(".")[0]: name for name in contents(package_of(folder, style.package))}

        def picture(concept: Concept) -> Image.Image | None:
            file = files.get(codes[concept.name]) or files.get(codes[concept.name] + "-fe0f")
            data = member(folder, style.package, file) if file else None
            return _fill(Image.open(io.BytesIO(data)).convert("RGBA")) if data else None

        return picture
    fonts = font_files(folder, style.package)
    unclear = UNCLEAR.get(style.name, frozenset())
    return lambda concept: None if concept.name in unclear else draw_character(fonts, int(codes[concept.name], 16))


def font_files(folder: Path, package: str) -> list[tuple[Set[int], bytes]]:
    """Font files, or the parts that a @fontsource package cuts one into: characters, and the font's bytes."""
    from fontTools import ttLib

    if not package.startswith("@"):
        files = [(folder / name).read_bytes() for name in package.split(" and ")]
        return [(ttLib.TTFont(io.BytesIO(data)).getBestCmap().keys(), data) for data in files]
    found = []
    for name in contents(package_of(folder, package)):
        if not name.endswith("-400-normal.woff2"):
            continue
        font, plain = ttLib.TTFont(io.BytesIO(member(folder, package, name))), io.BytesIO()
        font.flavor = None
        font.save(plain)
        found.append((font.getBestCmap().keys(), plain.getvalue()))
    return found


def draw_character(fonts: list[tuple[Set[int], bytes]], code: int) -> Image.Image | None:
    """The character as (96, 96) RGBA in black, or None where no font has it."""
    for known, data in fonts:
        if code in known:
            canvas = Image.new("RGBA", (3 * CELL, 3 * CELL))
            font = ImageFont.truetype(io.BytesIO(data), CELL)
            ImageDraw.Draw(canvas).text((CELL, 2 * CELL), chr(code), font=font, fill="black", anchor="ls")
            return _fill(canvas)
    return None


def build_sheet(folder: Path, style: Style, out: Path) -> list[str]:
    """Writes one style's sheet and returns the concepts the set does not have (their cells stay empty)."""
    rows = -(-len(CONCEPTS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    missing, glyph_of = [], drawer(folder, style)
    for index, concept in enumerate(CONCEPTS):
        glyph = glyph_of(concept)
        if glyph is None:
            missing.append(concept.name)
        else:
            sheet.paste(glyph, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    sheet.save(out / f"{style.name}.webp", lossless=True, quality=100, method=6)
    return missing


def build_font(folder: Path, font: Font, out: Path) -> None:
    """Cuts one font down to the characters pocket draws."""
    from fontTools import subset, ttLib

    source = member(folder, font.package, f"files/{font.package.split('/')[-1]}-latin-{font.cut}.woff2")
    drawn = ttLib.TTFont(io.BytesIO(source))
    options = subset.Options(layout_features=[], hinting=False, name_IDs=[0, 1, 13, 14])
    cutter = subset.Subsetter(options)
    cutter.populate(text=CHARACTERS)
    cutter.subset(drawn)
    # The Open Font License reserves some family names for the unmodified fonts.
    for record in drawn["name"].names:
        if record.nameID == 1:
            record.string = f"Pocket {FONTS.index(font):02}"
    drawn.flavor = None
    drawn.save(out / "fonts" / f"{font.name}.ttf")


def main(folder: Path, build: bool, only: list[str]) -> None:
    out = BUILD if build else DATA
    (out / "fonts").mkdir(parents=True, exist_ok=True)
    known = {thing.name for thing in (*STYLES, *FONTS) if (thing.split == "build") == build}
    if unknown := set(only) - known:
        raise SystemExit(f"--only: expected styles and fonts that are drawn here, got {', '.join(sorted(unknown))}.")
    chosen = set(only) or known
    for style in (style for style in STYLES if style.name in chosen):
        missing = build_sheet(folder, style, out)
        size = (out / f"{style.name}.webp").stat().st_size
        print(f"{style.name:16} {size / 1024:6.0f} KiB, missing: {', '.join(missing) or 'none'}")
    for font in (font for font in FONTS if font.name in chosen):
        build_font(folder, font, out)
        print(f"{font.name:16} {(out / 'fonts' / f'{font.name}.ttf').stat().st_size / 1024:6.1f} KiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages lie as *.tgz")
    parser.add_argument("--build", action="store_true", help="the styles and fonts that only the base's building uses")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="draw these styles and fonts alone")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.build, arguments.only)
