"""Composition: what a split may show."""

import itertools

import numpy as np

from safety_modules.pocket.compose import Composer, pair_split
from safety_modules.pocket.concepts import BENIGN, CONCEPTS
from safety_modules.pocket.glyphs import fonts_of, styles_of


def test_a_tenth_of_all_pairs_is_held_out_for_validation_and_for_test():
    pairs = [pair_split(a.name, b.name) for a, b in itertools.combinations(CONCEPTS, 2)]
    for split in ("validation", "test"):
        assert 0.07 < pairs.count(split) / len(pairs) < 0.13
    assert pair_split("dog", "bomb") == pair_split("bomb", "dog")


def test_partners_come_from_the_pairs_of_the_split():
    for split in ("train", "validation", "test"):
        composer = Composer(split, "train", np.random.default_rng(0))
        for first in ("dog", "bomb", "church"):
            for _ in range(20):
                assert pair_split(first, composer.partner(first, composer.drawable(BENIGN))) == split


def test_unseen_scenes_use_the_split_s_own_styles_and_fonts_only():
    composer = Composer("test", "test", np.random.default_rng(0))
    styles, fonts = {s.name for s in styles_of("test")}, {f.name for f in fonts_of("test")}
    for _ in range(20):
        scene = composer.captioned("dog", "scam")
        assert {glyph.style for glyph in scene.glyphs} <= styles
        assert scene.text is not None and scene.text.font in fonts
