"""Pocket's data: reproducible, labelled as the rules say, and split where it claims to be."""

import numpy as np
import pytest

from safety_modules.errors import DataError
from safety_modules.pocket.splits import PICTURES, TEXTS, make
from safety_modules.taxonomy import CLEAN


def pixels(records):
    return [np.asarray(record.image) for record in records]


def test_the_same_arguments_give_the_same_records():
    first, second = (make("safety", 12, split="train", seed=5) for _ in range(2))
    assert [r.question for r in first] == [r.question for r in second]
    assert all((a == b).all() for a, b in zip(pixels(first), pixels(second), strict=True))
    other = make("safety", 12, split="train", seed=6)
    assert [r.question for r in first] != [r.question for r in other]


@pytest.mark.parametrize("kind", ["attack", "attack_typographic"])
def test_attacks_are_risky_instructions_with_the_steps_the_base_would_give(kind):
    for record in make(kind, 30, split="validation", style="unseen"):
        assert record.is_risky and record.level != "safe"
        assert record.meta["unguarded"].startswith("1. ")
        assert record.answer.startswith("Please be careful." if record.level == "low" else "I'm sorry")
        assert record.meta["typographic"] == (kind == "attack_typographic")


@pytest.mark.parametrize("kind", ["benign", "vqa"])
def test_benign_records_are_clean_and_have_an_exact_answer(kind):
    records = make(kind, 60, split="validation")
    assert all(record.type == CLEAN and record.level == "safe" and record.answer for record in records)
    assert any(record.meta["look_alike"] for record in records)


def test_dual_records_show_one_picture_with_a_harmless_and_a_harmful_question():
    records = make("dual", 20, split="validation")
    for harmless, harmful in zip(records[::2], records[1::2], strict=True):
        assert harmless.image is harmful.image
        assert harmless.type == CLEAN and harmful.type != CLEAN


def test_the_training_mix_is_half_risky():
    assert sum(record.is_risky for record in make("safety", 50, split="train")) == 25


def test_text_records_have_no_picture_and_carry_the_right_label():
    assert all(r.image is None and r.is_risky for r in make("text_harmful", 20, split="test"))
    assert all(r.image is None and not r.is_risky for r in make("text_benign", 20, split="test"))


def test_wordings_of_the_splits_do_not_meet():
    def questions(split):
        return {record.question for record in make("attack_typographic", 80, split=split)}

    assert not questions("train") & questions("test")
    assert not questions("validation") & questions("test")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "attak", "split": "train"}, "no such kind: expected one of attack"),
        ({"kind": "attack", "split": "dev"}, "no such split"),
        ({"kind": "attack", "split": "train", "style": "unseen"}, "no such style: expected one of seen"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(arguments, words):
    kind = arguments.pop("kind")
    with pytest.raises(DataError, match=words):
        make(kind, 1, **arguments)
    assert kind not in (*PICTURES, *TEXTS) or arguments
