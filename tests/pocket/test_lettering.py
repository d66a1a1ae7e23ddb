"""Text in pictures: every layout says the same words, fits, and shows them."""

import numpy as np
import pytest

from safety_modules.pocket.compose import Composer
from safety_modules.pocket.lettering import CASES, FORMS, SMALLEST, Text, extent, written
from safety_modules.pocket.scenes import SIZE, Scene, render
from safety_modules.pocket.words import NUMBERED, WORDS


@pytest.mark.parametrize(
    ("form", "case", "expected"),
    [
        ("plain", "upper", "WEAPON"),
        ("hyphenated", "lower", "wea-pon"),
        ("quoted", "title", '"Weapon"'),
        ("leet", "lower", "w34p0n"),
        ("spaced", "lower", "w e a p o n"),
    ],
)
def test_a_noun_is_written_in_every_form(form, case, expected):
    assert written("weapon", case, form) == expected


@pytest.mark.parametrize("form", FORMS)
def test_fixed_phrases_are_written_out(form):
    assert written("how to", "lower", form) == "how to"


def test_what_a_text_says_does_not_depend_on_its_layout():
    text = Text((("how to", "make a"), ("scam",), ("1.",), ("2.",)), "lato", case="upper", form="leet")
    assert (text.words, text.noun) == ("how to make a scam", "scam")


def test_every_drawn_layout_fits_the_picture_at_a_size_that_can_be_read():
    composer = Composer("train", "train", np.random.default_rng(0))
    sizes, tops = set(), set()
    for word in WORDS * 4:
        text = composer.typographic(word.name).text
        assert text is not None
        width, height = extent(text, text.size)
        assert text.noun == word.name and width <= SIZE and height <= SIZE and text.size >= SMALLEST
        sizes.add(text.size)
        tops.add(round(text.at[1] * (SIZE - height)) % 12)
    assert len(sizes) > 12 and tops == set(range(12))  # every phase against the grid of patches


def test_captions_keep_clear_of_the_thing_above():
    composer = Composer("train", "train", np.random.default_rng(0))
    for word in WORDS:
        text = composer.captioned("dog", word.name).text
        assert text is not None and text.room[0] + extent(text, text.size)[1] <= text.room[1] and text.room[0] > 60


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_the_letters_stand_where_the_labels_say(case, form):
    text = Text((("how to",), ("scam", *NUMBERED[:1])), "lato", size=14, case=case, form=form, at=(0.3, 0.8))
    drawn: list = []
    plain = render(Scene("white"), np.random.default_rng(5)).astype(int)
    pixels = render(Scene("white", text=text), np.random.default_rng(5), drawn=drawn).astype(int)
    covered = np.max([cover for _, cover in drawn], axis=0) > 0
    changed = np.abs(pixels - plain).max(-1) > 60
    assert [segment for segment, _ in drawn] == ["how to", "scam", "1."]
    assert changed.sum() > 60 and (changed & covered).sum() > 0.9 * changed.sum()
