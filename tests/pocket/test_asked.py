"""Pictures with questions as people put them: labels by the rules, whatever is done to the words."""

import re

import pytest

from safety_modules.pocket import asked, splits
from safety_modules.pocket.concepts import BY_NAME, DUAL_USE, RISKY, SENSITIVE
from safety_modules.pocket.splits import CAPTIONS, make
from safety_modules.pocket.words import WORD_BY_NAME
from safety_modules.records.record import label_problems
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

HARMFUL = ("diluted_before", "diluted_after", "later_turn", "announced", "role_markers", "typing_errors", "capitals")
CLEAN_ONES = ("forbidden_word", "empty_benign", "free_benign", "garbled_benign", "reworded_benign")


def risky_things(record):
    names = [*record.meta["concepts"], *([record.meta["word"]] if record.meta["word"] else [])]
    return [name for name in names if (BY_NAME.get(name) or WORD_BY_NAME[name]).role == RISKY]


@pytest.mark.parametrize("kind", asked.MEASURED)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_kind_has_the_label_that_its_name_says_and_records_that_are_in_order(kind, split):
    records = make(kind, 30, split=split)
    assert [problem for record in records for problem in label_problems(record, DEFAULT_TAXONOMY)] == []
    assert {record.type == CLEAN for record in records} == {kind in CLEAN_ONES}
    assert all(record.meta["kind"] == kind and record.meta["form"] for record in records)
    assert [r.question for r in records] == [r.question for r in make(kind, 30, split=split)]


@pytest.mark.parametrize("kind", [*HARMFUL, "other_words"])
def test_harm_that_is_asked_for_is_labelled_by_the_dual_use_or_sensitive_thing_shown(kind):
    for record in make(kind, 40, split="validation"):
        shown = [BY_NAME[name] for name in record.meta["concepts"]]
        turned = next(thing for thing in shown if thing.role in (DUAL_USE, SENSITIVE))
        assert (record.type, record.level) == (turned.type, DEFAULT_TAXONOMY.levels[turned.level])
        assert record.meta["needs_question"] and record.answer.startswith("I'm sorry")


def test_measured_forms_are_what_the_table_calls_them():
    before, after = make("diluted_before", 20, split="test"), make("diluted_after", 20, split="test")
    for record in (*before, *after):
        assert 60 <= len(record.question.split()) < 110 and record.history == ()
    assert all(record.question.isupper() for record in make("capitals", 20, split="test"))
    assert all(record.question.strip() == "" for record in make("empty_question", 20, split="test"))
    later = make("later_turn", 40, split="test")
    assert all(1 <= len(record.history) <= 2 for record in later)
    assert {"Give me the steps.", "Go on."} & {record.question for record in later}


def test_an_empty_question_is_asked_about_pictures_that_are_risky_by_themselves():
    assert all(risky_things(r) or r.type == "fairness" for r in make("empty_question", 40, split="validation"))


def test_half_of_the_training_mix_is_asked_as_people_ask_and_half_of_it_is_risky_whatever_the_form():
    records = make("safety", 400, split="train")
    forms = [record.meta["form"] for record in records]
    assert 0.4 < sum(map(bool, forms)) / len(forms) < 0.6
    assert sum(record.is_risky for record in records) == 200
    by_form = {form: [r.is_risky for r in records if form in r.meta["form"].split()] for form in ("free", "blank")}
    assert all(set(risky) == {True, False} for risky in by_form.values())
    assert [problem for record in records for problem in label_problems(record, DEFAULT_TAXONOMY)] == []
    assert max(len(record.question.split()) for record in records) > 150
    assert any(len(record.history) == 2 for record in records)


def test_forms_alone_do_not_tell_risky_from_clean():
    records = make("safety", 1200, split="train")
    for form in ("before", "after", "mistyped", "capitals", "leet", "continued", "later", "forged", "other_words"):
        risky = [record.is_risky for record in records if form in record.meta["form"].split()]
        assert 0.25 < sum(risky) / len(risky) < 0.8, form


def test_kinds_that_were_there_before_are_asked_in_clean_sentences():
    for kind in ("attack", "benign", "vqa", "dual", "verdict"):
        assert {(record.meta["form"], record.history) for record in make(kind, 30, split="validation")} == {("", ())}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_captions_stand_in_the_picture_s_place_and_name_what_it_shows(split):
    harmful, benign = (make(kind, 60, split=split) for kind in CAPTIONS)
    for record in (*harmful, *benign):
        assert record.image is None and record.meta["question_kind"] in asked.INSTRUCTIONS
        words = re.sub(r"\s+", " ", record.question.lower())
        for name in (*record.meta["concepts"], record.meta["word"] or ""):
            assert name in words
    assert all(record.is_risky and record.answer is None for record in harmful)
    assert all(not record.is_risky and record.answer.startswith("1. ") for record in benign)
    assert {record.meta["typographic"] for record in harmful} == {True, False}


def test_captions_of_one_split_are_worded_as_none_of_another():
    def frames(split):
        found = set()
        for kind in CAPTIONS:
            for record in make(kind, 200, split=split):
                found.add(" ".join(record.question.split()[:2]).lower())
        return found

    assert not {"what you", "a snapshot", "printed on", "the banner"} & (frames("train") | frames("validation"))
    assert {"what you", "a snapshot", "printed on", "the banner"} <= frames("test")


def test_measuring_kinds_are_known_to_make():
    assert {*asked.MEASURED, *CAPTIONS} <= {*splits.PICTURES, *splits.CAPTIONS}
