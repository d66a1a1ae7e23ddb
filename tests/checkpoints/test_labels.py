"""What the vision tower is trained on: labels say what lies where, in the very picture that is drawn without them."""

import numpy as np
import pytest
import torch
from labels import BACKGROUND, CLASS_INDEX, CLASSES, GRID, render_labelled, under_patches

from safety_modules.pocket.scenes import Glyph, Scene, Text, render

SCENE = Scene("green", (Glyph("bomb", "noto", "on the left", 48), Glyph("dog", "fluent", "on the right", 48)))


def under(scene: Scene) -> torch.Tensor:
    _, classes = render_labelled(scene, np.random.default_rng(0))
    return under_patches(torch.from_numpy(classes)[None])[0]


@pytest.mark.parametrize("strong", [False, True])
def test_labels_change_nothing_about_the_picture(strong):
    pixels, _ = render_labelled(SCENE, np.random.default_rng(3), strong)
    assert (pixels == render(SCENE, np.random.default_rng(3), strong=strong)).all()


def test_labels_follow_the_places_of_the_glyphs():
    grid = under(SCENE).view(GRID, GRID)
    assert CLASS_INDEX["bomb"] in grid[:, : GRID // 2] and CLASS_INDEX["bomb"] not in grid[:, GRID // 2 :]
    assert CLASS_INDEX["dog"] in grid[:, GRID // 2 :] and CLASS_INDEX["dog"] not in grid[:, : GRID // 2]


def test_every_line_of_a_text_has_its_own_label():
    scene = Scene("white", text=Text((("how to", "make a"), ("scam",), ("1. 2. 3.",)), "lato"))
    found = {CLASSES[index] for index in under(scene)}
    assert {"text: how to", "text: make a", "text: scam", "numbers"} <= found


def test_a_patch_belongs_to_what_covers_more_than_a_fifth_of_it():
    classes = torch.full((1, 96, 96), CLASS_INDEX[BACKGROUND], dtype=torch.uint8)
    classes[0, :3, :12] = CLASS_INDEX["dog"]
    classes[0, :2, 12:24] = CLASS_INDEX["dog"]
    found = under_patches(classes)[0]
    assert found[0] == CLASS_INDEX["dog"] and (found[1:] == CLASS_INDEX[BACKGROUND]).all()
