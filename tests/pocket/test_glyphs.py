"""Drawing styles: splits that do not mix, drawings where the table says there are some."""

import pytest

from safety_modules.pocket import glyphs
from safety_modules.pocket.concepts import CONCEPTS
from safety_modules.pocket.glyphs import CELL, FONTS, STYLES, carried, font, fonts_of, sheet, styles_of

SHIPPED = [style for style in STYLES if style.split != "build"]


@pytest.mark.parametrize("style", [style.name for style in SHIPPED])
def test_a_sheet_holds_one_cell_per_concept(style):
    assert sheet(style).shape == (len(CONCEPTS), CELL, CELL, 4)


def test_the_unseen_style_and_six_training_styles_carry_everything():
    everything = {concept.name for concept in CONCEPTS}
    assert carried("twemoji") == everything
    assert sum(carried(style.name) == everything for style in styles_of("train")) >= 6
    assert "mosque" not in carried("firefox")


def test_no_style_or_font_belongs_to_two_splits_and_none_that_is_shipped_is_share_alike():
    for things in (STYLES, FONTS):
        assert len({thing.package for thing in things}) == len(things)
        assert {thing.split for thing in things} == {"train", "build", "validation", "test"}
    assert all("SA" not in style.licence for style in SHIPPED)
    assert len(fonts_of("test")) >= 3


def test_the_base_is_built_with_more_styles_than_training_uses_and_none_of_the_unseen():
    for of in (styles_of, fonts_of):
        assert set(of("train")) < set(of("build"))
        assert not set(of("build")) & {*of("validation"), *of("test")}


def test_a_style_that_only_the_building_of_the_base_uses_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "BUILD", tmp_path)
    sheet.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"openmoji.webp.*build/glyphs.py --build.*--styles seen"):
        sheet("openmoji")


@pytest.mark.parametrize("name", [font.name for font in FONTS if font.split != "build"])
def test_a_font_draws_every_letter_differently(name):
    drawn = {bytes(font(name, 24).getmask(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert len(drawn) == 26
