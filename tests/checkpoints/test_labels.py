"""What the vision tower is trained on: labels say what lies where, in the very picture that is drawn without them."""

import numpy as np
import pytest
from labels import CLASS_INDEX, CLASSES, GRID, render_labelled

from safety_modules.pocket.scenes import Glyph, Scene, Text, render

SCENE = Scene("green", (Glyph("bomb", "noto", "on the left", 48), Glyph("dog", "fluent", "on the right", 48)))


@pytest.mark.parametrize("strong", [False, True])
def test_labels_change_nothing_about_the_picture(strong):
    pixels, _ = render_labelled(SCENE, np.random.default_rng(3), strong)
    assert (pixels == render(SCENE, np.random.default_rng(3), strong=strong)).all()


def test_labels_follow_the_places_of_the_glyphs():
    _, labels = render_labelled(SCENE, np.random.default_rng(0))
    grid = labels.reshape(GRID, GRID)
    assert CLASS_INDEX["bomb"] in grid[:, : GRID // 2] and CLASS_INDEX["bomb"] not in grid[:, GRID // 2 :]
    assert CLASS_INDEX["dog"] in grid[:, GRID // 2 :] and CLASS_INDEX["dog"] not in grid[:, : GRID // 2]


def test_every_line_of_a_text_has_its_own_label():
    scene = Scene("white", text=Text(("how to", "make a", "scam", "1. 2. 3."), "lato"))
    _, labels = render_labelled(scene, np.random.default_rng(0))
    found = {CLASSES[index] for index in labels}
    assert {"text: how to", "text: make a", "text: scam", "numbers"} <= found
