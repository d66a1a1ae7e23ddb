"""Cheap changes to pictures: of the same size, reproducible, and questions stay answerable."""

import numpy as np
import pytest

from safety_modules.errors import DataError
from safety_modules.pocket.compose import ANY, WHOLE, Composer
from safety_modules.pocket.questions import Asker, answerable
from safety_modules.pocket.scenes import Glyph, Scene, render
from safety_modules.pocket.splits import make
from safety_modules.pocket.transforms import TRANSFORMS, transformed

SCENE = Scene("green", (Glyph("bomb", "noto", "on the left", 48), Glyph("dog", "fluent", "on the right", 48)))
PICTURE = render(SCENE, np.random.default_rng(0))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_changes_the_picture_and_not_its_size_and_a_seed_names_it(name):
    before = PICTURE.copy()
    first, second = (transformed(PICTURE, name, np.random.default_rng(4)) for _ in range(2))
    assert first.shape == PICTURE.shape and first.dtype == np.uint8
    assert (first == second).all() and (first != PICTURE).any() and (before == PICTURE).all()


@pytest.mark.parametrize("name", [name for name, one in TRANSFORMS.items() if not (one.moves or one.cuts)])
def test_what_does_not_move_stays_where_it_was(name):
    changed = transformed(PICTURE, name, np.random.default_rng(4)).astype(float).mean(-1)
    still = PICTURE.astype(float).mean(-1)
    same = abs(np.corrcoef(changed.ravel(), still.ravel())[0, 1])  # a negative is the same, turned over
    moved = abs(np.corrcoef(changed.ravel(), np.rot90(still).ravel())[0, 1])
    assert same > 0.3 and same > moved


def test_no_question_is_asked_whose_answer_the_transform_has_changed():
    asker = Asker("train", np.random.default_rng(0))
    for name in TRANSFORMS:
        scene = Scene(SCENE.background, SCENE.glyphs, transform=name)
        kinds = asker.kinds(scene)
        assert kinds and all(answerable(kind, scene) for kind in kinds)
    turned = asker.kinds(Scene("green", SCENE.glyphs, transform="turned by 90"))
    assert not {"where", "yes_no", "use_place", "describe", "what"} & set(turned)
    assert "colour" not in asker.kinds(Scene("green", SCENE.glyphs, transform="negative"))
    assert "where" in asker.kinds(Scene("green", SCENE.glyphs, transform="negative"))


def test_transforms_that_cut_or_mirror_leave_texts_alone_in_the_training_mix():
    composer = Composer("train", "train", np.random.default_rng(0), changed=1.0)
    assert {composer.typographic("scam").transform for _ in range(300)} <= set(WHOLE)
    assert {composer.single("bomb").transform for _ in range(600)} - set(WHOLE) <= set(ANY)


def test_records_are_changed_by_the_transform_asked_for_and_no_other():
    for record in make("attack", 6, split="validation", transform="turned by 180"):
        assert record.meta["transform"] == "turned by 180" and record.is_risky
    assert {record.meta["transform"] for record in make("attack", 6, split="validation")} == {None}
    assert len({record.meta["transform"] for record in make("safety", 60, split="train")}) > 10
    with pytest.raises(DataError, match="no such transform: expected one of None, shrunk to 80 %"):
        make("attack", 1, split="test", transform="upside down")
