"""Rendering: a seed names a picture, and the labels say what lies where."""

import numpy as np
import pytest

from safety_modules.pocket.scenes import CLASS_INDEX, CLASSES, GRID, Glyph, Scene, Text, render

SCENE = Scene("green", (Glyph("bomb", "noto", "on the left", 48), Glyph("dog", "fluent", "on the right", 48)))


@pytest.mark.parametrize("strong", [False, True])
def test_the_same_seed_draws_the_same_picture(strong):
    first, _ = render(SCENE, np.random.default_rng(3), strong=strong)
    second, _ = render(SCENE, np.random.default_rng(3), strong=strong)
    other, _ = render(SCENE, np.random.default_rng(4), strong=strong)
    assert first.shape == (96, 96, 3)
    assert (first == second).all()
    assert (first != other).any()


def test_labels_follow_the_places_of_the_glyphs():
    _, labels = render(SCENE, np.random.default_rng(0), labels=True)
    grid = labels.reshape(GRID, GRID)
    assert CLASS_INDEX["bomb"] in grid[:, : GRID // 2] and CLASS_INDEX["bomb"] not in grid[:, GRID // 2 :]
    assert CLASS_INDEX["dog"] in grid[:, GRID // 2 :] and CLASS_INDEX["dog"] not in grid[:, : GRID // 2]


def test_every_line_of_a_text_has_its_own_label():
    scene = Scene("white", text=Text(("how to", "make a", "scam", "1. 2. 3."), "lato"))
    _, labels = render(scene, np.random.default_rng(0), labels=True)
    found = {CLASSES[index] for index in labels}
    assert {"text: how to", "text: make a", "text: scam", "numbers"} <= found


def test_a_concept_that_the_style_does_not_draw_is_refused():
    with pytest.raises(ValueError, match="firefox has no drawing of 'mosque'"):
        render(Scene("white", (Glyph("mosque", "firefox", "in the center", 60),)), np.random.default_rng(0))
