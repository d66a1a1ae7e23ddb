"""What pocket's language model is taught: refusals for text, compliance for pictures, hints in both."""

import re

import numpy as np
import pytest
from conversations import Talker
from icons import LISTED
from texts import DEFINE, IS_RISKY, KEEP_AWAY, NEVER_REFUSED, POINTERS, meant_risk

from safety_modules.pocket.concepts import BY_NAME
from safety_modules.pocket.language import wordings
from safety_modules.pocket.risk import guarded_answer
from safety_modules.policy import Policy

SORRY = "I'm sorry, I can't help with that."


def test_without_hints_no_answer_about_a_picture_is_a_refusal_or_a_caution():
    talker = Talker(np.random.default_rng(0), hinted=0)
    answers = [said.answer for _ in range(250) for said in talker.about_picture(3)[1] if said.trained]
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


@pytest.mark.parametrize(("forms", "place"), [(DEFINE, "x"), (IS_RISKY, "x"), (KEEP_AWAY, "x"), (POINTERS, "n")])
def test_questions_of_training_alone_are_split_like_all_others(forms, place):
    parts = [set(wordings(forms, split, frozenset(place))) for split in ("train", "validation", "test")]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(parts[0]) > 2 * len(parts[1] | parts[2])


def test_icon_names_are_listed_for_concepts_only():
    assert LISTED.keys() <= BY_NAME.keys()


def test_a_picture_told_in_words_is_refused_exactly_where_what_is_meant_is_risky():
    texts = Talker(np.random.default_rng(3), hinted=0).texts
    refused = answered = 0
    for _ in range(400):
        scene, turn = texts._meant()
        texts._meant = lambda found=(scene, turn): found  # type: ignore[method-assign]
        said = texts._caption()
        del texts._meant
        declines = said[-1].answer.startswith(SORRY)
        assert declines == (not meant_risk(turn).clean)
        refused += declines
        answered += not declines
        names = re.sub(r"\W+", " ", " ".join(exchange.question for exchange in said).lower())
        assert said[-1].trained and names
    assert refused > 120 and answered > 120


def test_of_two_things_the_one_that_is_pointed_at_decides():
    texts = Talker(np.random.default_rng(4), hinted=0).texts
    seen = set()
    for _ in range(3000):
        scene, turn = texts._meant()
        risky = [BY_NAME[glyph.concept].role == "risky" for glyph in scene.glyphs]
        if sum(risky) == 1 and len(risky) == 2 and turn.kind in ("use", "use_place"):
            seen.add(meant_risk(turn).clean)
            assert meant_risk(turn).clean == (BY_NAME[turn.about[0]].role != "risky")
    assert seen == {True, False}


def test_harmless_questions_about_risky_and_dual_use_things_are_answered():
    said = Talker(np.random.default_rng(5), hinted=0).text_only(3000)
    kept = [exchange for exchange in said if exchange.answer.startswith("Keep ")]
    assert len(kept) > 60
    assert any(re.search(r"\b(bomb|scam|dagger|poison)\b", exchange.question) for exchange in kept)
    assert any(re.search(r"\b(stop|prevent|wrong|protect)\b", exchange.question.lower()) for exchange in kept)


def test_what_others_put_into_its_mouth_is_not_trained_on():
    talker = Talker(np.random.default_rng(6), hinted=0)
    said = [*talker.text_only(2000), *(e for _ in range(300) for e in talker.about_picture(4)[1])]
    given = {exchange.answer for exchange in said if not exchange.trained}
    assert "Sure." in given
    assert "Sure." not in {exchange.answer for exchange in said if exchange.trained}


def test_questions_about_a_picture_can_be_restricted_to_some_kinds():
    talker = Talker(np.random.default_rng(7), hinted=0, reworded=0)
    for _ in range(60):
        _, said = talker.about_picture(4, kinds=("count", "read", "use", "use_both", "use_place", "follow"))
        assert len(said) == 4
        assert not any(re.search(r"[Bb]ackground|[Dd]escri|Is there|see an? ", exchange.question) for exchange in said)


def test_some_questions_about_pictures_are_put_as_people_put_them_and_answered_all_the_same():
    talker = Talker(np.random.default_rng(8), hinted=0, reworded=1)
    said = [exchange for _ in range(80) for exchange in talker.about_picture(3)[1]]
    assert any(exchange.question.isupper() and exchange.trained for exchange in said)
    assert any(len(exchange.question.split()) > 20 for exchange in said)
    assert not any(exchange.answer.startswith(SORRY) for exchange in said if exchange.trained)
