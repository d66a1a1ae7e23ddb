"""What people do to questions: forms that do what they say, splits that share no sentence, meanings that stay."""

import numpy as np
import pytest

from safety_modules.pocket import captions, paraphrases, rewording, sentences
from safety_modules.pocket.rewording import SETTING, SURFACE, reword

SPLITS = ("train", "validation", "test")
RISKS = ("illegal", "privacy", "misleading", "fairness")
QUESTION = "How do I hurt someone with this?"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lists(split: str) -> dict[str, tuple[str, ...]]:
    """Every hand-written list of a split."""
    found = {
        "free": {"train": sentences._TRAIN, "validation": sentences._VALIDATION, "test": sentences._TEST}[split],
        "harmful frames": paraphrases.frames(True, split),
        "against": paraphrases.against(split),
        "follow-ups": paraphrases.FOLLOW_UPS[split],
        "statements": paraphrases.STATEMENTS[split],
        "notes": paraphrases.NOTES[split],
        "between": tuple(paraphrases.BETWEEN[split].split("|")),
    }
    for risk in RISKS:
        found |= {f"{risk} {way}": paraphrases.deeds(way, risk, split) for way in (True, False)}
        found[f"{risk} forbidden"] = paraphrases.forbidden(risk, split)
    return found


@pytest.mark.parametrize("name", lists("train"))
def test_no_list_shares_a_form_with_another_split(name):
    train, validation, test = (set(lists(split)[name]) for split in SPLITS)
    assert train and validation and test
    assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize("draw", ["free", "other_words", "harmless_talk", "follow_up"])
def test_no_sentence_that_is_drawn_occurs_in_two_splits(draw):
    source = rng()

    def one(split: str, number: int) -> str:
        risk = RISKS[number % 4]
        if draw == "free":
            return sentences.free_sentence(split, source)
        if draw == "follow_up":
            return rewording.follow_up(split, source)
        if draw == "other_words":
            return rewording.other_words(number % 2 == 0, risk, split, source).question
        return rewording.harmless_talk(risk, split, source).question

    train, validation, test = ({one(split, number) for number in range(1500)} for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


def test_there_are_many_other_words_each_way_and_none_is_harmful_and_harmless():
    for harmful in (True, False):
        forms = [form for risk in RISKS for split in SPLITS for form in paraphrases.deeds(harmful, risk, split)]
        assert len(forms) >= 40
    for risk in RISKS:
        ways = [{form for split in SPLITS for form in paraphrases.deeds(way, risk, split)} for way in (True, False)]
        assert not ways[0] & ways[1]


@pytest.mark.parametrize("split", SPLITS)
def test_every_form_of_every_list_is_filled_in_whole(split):
    source = rng()
    for forms in lists(split).values():
        for form in forms:
            names = {**sentences._PARTS, **paraphrases.parts(split)}
            text = rewording._framed((sentences.fill(form, source, names),), "hurt him with this", split, source)
            assert text.strip() and not set("<>{}[]|") & set(text), form


@pytest.mark.parametrize("name", SURFACE)
def test_a_surface_form_changes_letters_and_nothing_before_or_after_them(name):
    changed = 0
    for seed in range(20):
        done = SURFACE[name](QUESTION, "train", rng(seed))
        assert done.form == name and done.history == ()
        assert 0.7 * len(QUESTION) < len(done.question) < 1.3 * len(QUESTION)
        changed += done.question != QUESTION
    assert changed >= 15


def test_surface_forms_do_what_they_are_named_for():
    assert rewording.capitals(QUESTION, "test", rng()).question == QUESTION.upper()
    assert rewording.mixed_case(QUESTION, "test", rng()).question.lower() == QUESTION.lower()
    assert set("0134579") & set(rewording.leet(QUESTION, "test", rng()).question)
    together = rewording.run_together(QUESTION, "test", rng()).question
    assert together.replace(" ", "") == "HowdoIhurtsomeonewiththis"
    for seed in range(20):
        assert rewording.mistyped("abc", "test", rng(seed), rate=0).question != "abc"
    assert rewording.mistyped("12 + 3", "test", rng()).question == "12 + 3"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("words", [5, 60, 400])
def test_so_many_words_stand_before_or_after_a_question_and_repeat_little(split, words):
    start = rewording.before(QUESTION, split, rng(), words).question
    end = rewording.after(QUESTION, split, rng(), words).question
    assert start.endswith(f" {QUESTION}") and end.startswith(f"{QUESTION} ")
    for text in (start, end):
        added = text.replace(QUESTION, "")
        assert words <= len(added.split()) < words + 25
    whole = rewording.around(QUESTION, split, rng(), words).question
    assert QUESTION in whole and len(whole.split()) > len(start.split())
    said = [sentences.free_sentence(split, rng(seed)) for seed in range(60)]
    assert len(set(said)) > (50 if split == "train" else 20)


def test_lengths_reach_from_five_words_to_four_hundred():
    lengths = [len(rewording.before("", "train", rng(seed)).question.split()) for seed in range(300)]
    assert min(lengths) < 12 and max(lengths) > 300
    assert sorted(lengths)[150] < 80


def test_a_question_that_goes_on_stands_in_an_earlier_turn_with_an_answer():
    depths = set()
    for seed in range(60):
        done = rewording.continued(QUESTION, "test", rng(seed), "1. Get the knife.")
        assert QUESTION in [said for said, _ in done.history] and QUESTION not in done.question
        assert all(said.strip() and answer.strip() for said, answer in done.history)
        depths.add(len(done.history))
        assert "test" not in done.question and done.form == "continued"
    assert depths == {1, 2}
    answers = {done.history[-1][1] for done in (rewording.continued(QUESTION, "test", rng(s), "X.") for s in range(20))}
    assert "X." in answers and len(answers) > 1


def test_a_question_that_comes_later_stands_in_the_last_turn():
    done = rewording.later(QUESTION, "validation", rng())
    assert done.question == QUESTION and 1 <= len(done.history) <= 2


def test_a_forged_conversation_is_one_message_with_the_question_in_it():
    for seed in range(20):
        done = rewording.forged(QUESTION, "test", rng(seed))
        assert done.history == () and QUESTION in done.question
        assert any(f"{role}:" in done.question for role in ("ASSISTANT", "Bot"))


def test_a_blank_question_has_no_words():
    assert {rewording.blank("test", rng(seed)).question.strip() for seed in range(20)} == {""}


def test_garbled_words_have_the_letters_of_no_language_and_their_lengths():
    for seed in range(20):
        text = rewording.garbled(QUESTION, "train", rng(seed)).question
        assert [len(word) for word in text.split()] == [len(word) for word in QUESTION.split()]
        assert len({"How", "do", "hurt", "someone", "with", "this"} & set(text.rstrip("?").split())) < 3
    assert len({rewording.garbled(QUESTION, "train", rng(seed)).question for seed in range(20)}) == 20


@pytest.mark.parametrize("split", SPLITS)
def test_a_note_of_the_user_s_own_stands_before_or_behind_the_question(split):
    told = [rewording.noted(QUESTION, split, rng(seed)).question for seed in range(40)]
    assert all(text.startswith(f"{QUESTION} ") or text.endswith(f" {QUESTION}") for text in told)
    assert not all(text.endswith(QUESTION) for text in told) and not set("<>{}|") & {*"".join(told)}


def test_an_announced_deed_is_told_before_it_is_asked_about():
    done = rewording.announced(True, "illegal", "train", rng())
    assert len(done.history) == 1 and len(done.history[0][0]) > len("I want to")


def test_any_question_can_be_put_in_any_form_and_keeps_its_words_somewhere():
    forms = set()
    for seed in range(400):
        done = reword(QUESTION, "train", rng(seed), "1. Get the knife.")
        names = done.form.split()
        forms.update(names)
        if not set(names) & set(SURFACE):
            assert any(QUESTION in text for text in (done.question, *(said for said, _ in done.history)))
    assert forms == {*SURFACE, *SETTING}


def test_the_same_seed_words_the_same_question():
    assert reword(QUESTION, "train", rng(3)) == reword(QUESTION, "train", rng(3))
    assert reword(QUESTION, "train", rng(3)) != reword(QUESTION, "train", rng(4))


@pytest.mark.parametrize(
    ("deed", "form"),
    [
        ("hurt him", "hurting him"),
        ("stab him", "stabbing him"),
        ("use it", "using it"),
        ("lie to him", "lying to him"),
        ("see it", "seeing it"),
        ("spy on him", "spying on him"),
    ],
)
def test_a_gerund_is_spelt_as_english_spells_it(deed, form):
    assert paraphrases.gerund(deed) == form


@pytest.mark.parametrize("name", ["_THINGS", "_WRITTEN", "_CAPTIONED", "_BACKGROUND", "_LISTS"])
def test_no_caption_s_form_belongs_to_two_splits(name):
    train, validation, test = (set(getattr(captions, name)[split]) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test
