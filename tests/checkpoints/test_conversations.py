"""What pocket's language model is taught: refusals for text, compliance for pictures, hints in both."""

import re

import numpy as np
import pytest
from conversations import DEFINE, IS_RISKY, NEVER_REFUSED, Talker
from icons import LISTED

from safety_modules.pocket.concepts import BY_NAME
from safety_modules.pocket.language import wordings
from safety_modules.pocket.risk import guarded_answer
from safety_modules.policy import Policy

SORRY = "I'm sorry, I can't help with that."


def test_without_hints_no_answer_about_a_picture_is_a_refusal_or_a_caution():
    talker = Talker(np.random.default_rng(0), hinted=0)
    answers = [said.answer for _ in range(150) for said in talker.about_picture(3)[1]]
    assert not any(answer.startswith((SORRY, "Please be careful")) for answer in answers)
    assert any(answer.startswith("1. Get the bomb") for answer in answers)


def test_untaught_things_never_occur_in_an_instruction_about_a_picture():
    talker = Talker(np.random.default_rng(1), hinted=0)
    answers = [said.answer for _ in range(400) for said in talker.about_picture(3)[1]]
    for name in ("skull", "joker", "wiretap", "slur"):
        assert not any(answer.startswith("1. ") and f" {name}." in answer for answer in answers)


def test_some_risky_things_are_never_refused_in_training():
    talker = Talker(np.random.default_rng(2), hinted=0)
    said = talker.text_only(1500)
    refused = [exchange.question for exchange in said if exchange.answer.startswith(SORRY)]
    assert any(re.search(r"\bbomb\b", question) for question in refused)
    for name in NEVER_REFUSED:
        assert not any(re.search(rf"\b{name}\b", question) for question in refused)


@pytest.mark.parametrize(
    ("level", "instruction", "start"),
    [
        ("high", True, SORRY),
        ("high", False, SORRY),
        ("medium", True, SORRY),
        ("medium", False, "Please be careful. It could deceive people. Two."),
        ("low", True, "Please be careful. It could deceive people. Two."),
    ],
)
def test_the_answer_under_a_hint_follows_its_level(level, instruction, start):
    assert guarded_answer(Policy.default(), "misleading", level, "Two.", instruction).startswith(start)


@pytest.mark.parametrize("forms", [DEFINE, IS_RISKY])
def test_questions_of_training_alone_are_split_like_all_others(forms):
    parts = [set(wordings(forms, split, frozenset("x"))) for split in ("train", "validation", "test")]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(parts[0]) > 2 * len(parts[1] | parts[2])


def test_icon_names_are_listed_for_concepts_only():
    assert LISTED.keys() <= BY_NAME.keys()
