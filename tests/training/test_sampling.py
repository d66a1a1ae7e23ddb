"""The training order: exact shares, every record before any twice, the same every time."""

from collections import Counter
from typing import Any

import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.records.record import Record
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import training_order

PICTURE = Image.new("RGB", (2, 2))


def recipe(stage: int = 1, **changes: Any) -> Recipe:
    return Recipe(**{"stage": stage, "steps": 20, "batch_size": 10, "learning_rate": 1e-3, **changes})


def record(type: str, level: str, image: Image.Image | None = PICTURE, question: str = "?") -> Record:
    return Record(image=image, question=question, answer="a", type=type, level=level)


# Very uneven: 60 clean, 30 + 6 risky of one type, 4 of another, 5 without a picture.
RECORDS = [
    *[record("clean", "safe")] * 60,
    *[record("illegal", "high")] * 30,
    *[record("illegal", "low")] * 6,
    *[record("privacy", "high")] * 4,
    *[record("clean", "safe", None)] * 5,
]


def counts(draws: list[Any]) -> Counter[str]:
    return Counter(f"{RECORDS[d.record].type} {RECORDS[d.record].level}" for d in draws)


def test_shares_are_exact_and_balanced_over_types_and_levels() -> None:
    found = counts(training_order(RECORDS, recipe(clean_share=0.4)))
    assert found == {"clean safe": 80, "illegal high": 40, "illegal low": 40, "privacy high": 40}


def test_balance_over_types_keeps_levels_as_they_are() -> None:
    found = counts(training_order(RECORDS, recipe(clean_share=0.4, balance="type")))
    assert (found["clean safe"], found["privacy high"]) == (80, 60)
    assert found["illegal high"] > 4 * found["illegal low"]


def test_without_balance_and_share_the_order_follows_the_data() -> None:
    draws = training_order(RECORDS, recipe(balance="none", steps=10))
    assert counts(draws) == {"clean safe": 60, "illegal high": 30, "illegal low": 6, "privacy high": 4}


def test_every_record_of_a_group_comes_before_one_comes_twice() -> None:
    draws = training_order(RECORDS, recipe(clean_share=0.4))
    clean = Counter(d.record for d in draws if not RECORDS[d.record].is_risky)
    assert sorted(clean.values()) == [1] * 40 + [2] * 20


def test_stage_1_passes_over_records_without_a_picture_and_stage_2_gives_them_their_share() -> None:
    assert all(RECORDS[d.record].image for d in training_order(RECORDS, recipe(balance="none")))
    draws = training_order(RECORDS, recipe(2, text_only_share=0.1))
    assert sum(RECORDS[d.record].image is None for d in draws) == 20


def test_rates_are_kept() -> None:
    draws = training_order(RECORDS, recipe(2, steps=200, hint_rate=0.7, no_question_rate=0.2))
    assert sum(d.hinted for d in draws) / len(draws) == pytest.approx(0.7, abs=0.04)
    assert sum(d.asked for d in draws) / len(draws) == pytest.approx(0.8, abs=0.04)


def test_order_depends_on_the_seed_only() -> None:
    assert training_order(RECORDS, recipe(seed=1)) == training_order(RECORDS, recipe(seed=1))
    assert training_order(RECORDS, recipe(seed=1)) != training_order(RECORDS, recipe(seed=2))


def test_length_window_puts_like_lengths_together_and_keeps_every_sample() -> None:
    records = [record("clean", "safe", question="?" * length) for length in range(1, 201)]
    spread = {}
    for window in (1, 10):
        draws = training_order(records, recipe(2, length_window=window, balance="none"))
        assert sorted(d.record for d in draws) == list(range(200))
        batches = [[d.record for d in draws[at : at + 10]] for at in range(0, 200, 10)]
        spread[window] = sum(max(batch) - min(batch) for batch in batches)
    assert spread[10] < spread[1] / 4


@pytest.mark.parametrize(
    ("records", "changes", "missing"),
    [
        ([record("illegal", "high")], {"clean_share": 0.5}, "50% clean"),
        ([record("clean", "safe")], {"clean_share": 0.5}, "50% risky"),
        ([record("clean", "safe")], {"stage": 2, "text_only_share": 0.1}, "10% text-only"),
        ([record("clean", "safe", None)], {}, "100% risky"),
    ],
)
def test_samples_the_data_does_not_hold_are_an_error(
    records: list[Record], changes: dict[str, Any], missing: str
) -> None:
    with pytest.raises(DataError, match=missing):
        training_order(records, recipe(**changes))


def test_a_question_the_label_depends_on_is_never_dropped() -> None:
    plain = [record("clean", "safe"), record("illegal", "high")]
    needing = [r.model_copy(update={"meta": {"needs_question": True}}) for r in plain]
    draws = training_order([*plain, *needing], recipe(no_question_rate=1.0))
    assert {draw.record: draw.asked for draw in draws} == {0: False, 1: False, 2: True, 3: True}
