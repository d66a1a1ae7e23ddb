"""A risk that pocket does not have: its data, and what adding it gives and costs."""

import pytest

from safety_modules.errors import DataError
from safety_modules.pocket.compose import pair_split
from safety_modules.pocket.new_risk import ALLERGENS, clean_without, new_risk


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_picture_shows_one_of_the_concepts_and_is_labelled_so(split):
    records = new_risk("allergens", ALLERGENS, 40, split=split)
    assert all(len(set(ALLERGENS) & set(record.meta["concepts"])) == 1 for record in records)
    assert {(record.type, record.level) for record in records} == {("allergens", "high")}
    pairs = [record.meta["concepts"] for record in records if len(record.meta["concepts"]) == 2]
    assert pairs and all(pair_split(*pair) == split for pair in pairs)


def test_splits_share_no_question_and_no_picture():
    train, test = (new_risk("allergens", ALLERGENS, 40, split=split) for split in ("train", "test"))
    assert not {r.question for r in train} & {r.question for r in test}
    assert not {r.image_digest() for r in train} & {r.image_digest() for r in test}


def test_the_same_arguments_give_the_same_records():
    first, again, other = (new_risk("allergens", ALLERGENS, 5, split="train", seed=seed) for seed in (0, 0, 1))
    assert [r.image_digest() for r in first] == [r.image_digest() for r in again]
    assert [r.image_digest() for r in first] != [r.image_digest() for r in other]


def test_clean_records_show_none_of_the_concepts():
    records = clean_without(ALLERGENS, 60, split="train")
    assert len(records) == 60
    assert not any(record.is_risky or set(ALLERGENS) & set(record.meta["concepts"]) for record in records)


@pytest.mark.parametrize("concepts", [(), ("bomb",), ("knife",), ("unicorn",)])
def test_concepts_that_carry_a_risk_already_make_no_new_one(concepts):
    with pytest.raises(DataError, match="concepts without any risk"):
        new_risk("x", concepts, 1, split="train")
