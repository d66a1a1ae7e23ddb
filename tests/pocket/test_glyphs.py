"""Drawing styles: splits that do not mix, drawings where the table says there are some."""

import pytest

from safety_modules.pocket import glyphs
from safety_modules.pocket.concepts import CONCEPTS
from safety_modules.pocket.glyphs import CELL, DATA, FONTS, STYLES, carried, font, fonts_of, sheet, styles_of

SHIPPED = [style for style in STYLES if style.split != "build"]
SPLITS = {"train", "build", "validation", "test", "held_out"}


@pytest.mark.parametrize("style", [style.name for style in SHIPPED])
def test_a_sheet_holds_one_cell_per_concept(style):
    assert sheet(style).shape == (len(CONCEPTS), CELL, CELL, 4)


def test_the_unseen_style_and_six_training_styles_carry_everything():
    everything = {concept.name for concept in CONCEPTS}
    assert carried("twemoji") == everything
    assert sum(carried(style.name) == everything for style in styles_of("train")) >= 6
    assert "mosque" not in carried("firefox")


def test_every_thing_is_carried_by_two_training_styles():
    for concept in CONCEPTS:
        assert sum(concept.name in carried(style.name) for style in styles_of("train")) >= 2, concept.name


def test_no_style_or_font_family_belongs_to_two_splits_and_none_that_is_shipped_is_share_alike():
    assert len({style.package for style in STYLES}) == len({style.name for style in STYLES}) == len(STYLES)
    assert len({(font.package, font.cut) for font in FONTS}) == len({font.name for font in FONTS}) == len(FONTS)
    for things in (STYLES, FONTS):
        assert {thing.split for thing in things} == SPLITS
        # Another cut of a training font may serve the building of the base, which sees training fonts anyway.
        for split in SPLITS - {"train", "build"}:
            here = {thing.package for thing in things if thing.split == split}
            assert not here & {thing.package for thing in things if thing.split != split}
    assert all("SA" not in style.licence and "NC" not in style.licence for style in SHIPPED)
    assert len(fonts_of("test")) >= 3


def test_what_is_held_out_is_nobody_elses_and_large_enough_to_report():
    for of in (styles_of, fonts_of):
        held_out = set(of("held_out"))
        assert not held_out & {thing for split in SPLITS - {"held_out"} for thing in of(split)}
    assert len(carried("unifont")) >= 0.85 * len(CONCEPTS)
    for style in styles_of("held_out"):
        assert len(carried(style.name)) >= 0.75 * len(CONCEPTS)
    groups = [font.group for font in fonts_of("held_out")]
    assert sorted(groups) == ["display"] * 4 + ["plain"] * 4 + ["technical"] * 4
    assert not any(font.group for font in FONTS if font.split != "held_out")


def test_every_file_that_is_shipped_is_in_the_table_and_every_sheet_names_its_source_and_licence():
    assert {path.stem for path in DATA.glob("*.webp")} == {style.name for style in SHIPPED}
    assert {path.stem for path in DATA.glob("fonts/*.ttf")} == {font.name for font in FONTS if font.split != "build"}
    rows = [line.split("|") for line in (DATA / "LICENCES.md").read_text("utf-8").splitlines() if line.startswith("|")]
    attributed = {row[1].strip(): (row[2].strip(), row[4].strip().replace(" ", "-")) for row in rows if len(row) == 7}
    for style in SHIPPED:
        package, licence = attributed[f"{style.name}.webp"]
        wanted = "public-domain" if style.licence == "LicenseRef-PublicDomain" else style.licence
        assert (package, licence) == (style.package, wanted), style.name


def test_the_base_is_built_with_more_styles_than_training_uses_and_none_of_the_unseen():
    for of in (styles_of, fonts_of):
        assert set(of("train")) < set(of("build"))
        assert not set(of("build")) & {*of("validation"), *of("test"), *of("held_out")}


def test_a_style_that_only_the_building_of_the_base_uses_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "BUILD", tmp_path)
    sheet.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"openmoji.webp.*build/glyphs.py --build.*--styles seen"):
        sheet("openmoji")


@pytest.mark.parametrize("name", [font.name for font in FONTS if font.split != "build"])
def test_a_font_draws_every_letter_differently(name):
    drawn = {bytes(font(name, 24).getmask(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert len(drawn) == 26


@pytest.mark.parametrize("name", [font.name for font in FONTS if font.split != "build"])
def test_a_font_draws_all_of_printable_ascii(name):
    # What a font lacks is drawn as its box for missing characters, as this character of no script is.
    box = bytes(font(name, 40).getmask("\uffff"))
    drawn = {chr(code): bytes(font(name, 40).getmask(chr(code))) for code in range(33, 127)}
    assert not [character for character, mask in drawn.items() if mask == box or not any(mask)]
    assert font(name, 40).getlength(" ") > 0
