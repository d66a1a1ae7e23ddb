"""Rendering: a seed names a picture."""

import numpy as np
import pytest

from safety_modules.pocket.scenes import Glyph, Scene, render

SCENE = Scene("green", (Glyph("bomb", "noto", "on the left", 48), Glyph("dog", "fluent", "on the right", 48)))


@pytest.mark.parametrize("strong", [False, True])
def test_the_same_seed_draws_the_same_picture(strong):
    first = render(SCENE, np.random.default_rng(3), strong=strong)
    second = render(SCENE, np.random.default_rng(3), strong=strong)
    other = render(SCENE, np.random.default_rng(4), strong=strong)
    assert first.shape == (96, 96, 3)
    assert (first == second).all()
    assert (first != other).any()


def test_a_concept_that_the_style_does_not_draw_is_refused():
    with pytest.raises(ValueError, match="firefox has no drawing of 'mosque'"):
        render(Scene("white", (Glyph("mosque", "firefox", "in the center", 60),)), np.random.default_rng(0))
