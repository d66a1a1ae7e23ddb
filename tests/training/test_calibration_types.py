"""Calibration of an adapter with added types: a threshold of its own for each, and one promise for all together."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import numpy as np
import pytest
from guard_cases import attach_as_trained
from PIL import Image
from rich.console import Console

from safety_modules.attach import SafetyAttachment
from safety_modules.cli.calibrate import print_calibration
from safety_modules.errors import ConfigError, DataError
from safety_modules.policy.scores import LIMIT
from safety_modules.records.record import Record
from safety_modules.training.calibration import calibrate
from safety_modules.training.extend import RECIPE, extend_safety
from safety_modules.training.thresholds import images_needed

FAST = RECIPE.model_copy(update={"steps": 4, "batch_size": 8, "warmup_steps": 0})


def records(make_image: Callable[[int], Image.Image], seeds: range, type: str = "clean", **more: Any) -> list[Record]:
    level = "safe" if type == "clean" else "high"
    fields = {"question": "what is this?", **more}
    return [Record(image=make_image(seed), answer=None, type=type, level=level, **fields) for seed in seeds]


@pytest.fixture
def safety(model: Any, processor: Any, make_image: Callable[[int], Image.Image]) -> SafetyAttachment:
    """Calibrated, then extended by a type that is not."""
    attachment = attach_as_trained(model, processor)
    attachment.thresholds = dict.fromkeys(attachment.config.taxonomy.types, 6.0)
    attachment.temperature = 0.8125
    data = [*records(make_image, range(6), "allergens"), *records(make_image, range(6, 14))]
    return extend_safety(attachment, data, "allergens", recipe=FAST, progress=False)


def test_only_the_added_type_is_calibrated_and_the_others_keep_what_they_had(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    before = safety.thresholds
    labelled = [*records(make_image, range(100, 110), "illegal"), *records(make_image, range(110, 120), "allergens")]
    found = calibrate(safety, records(make_image, range(60)), 0.2, minimum=-LIMIT, labelled=labelled, progress=False)
    assert found.types == ["allergens"]
    assert safety.thresholds == {**before, "allergens": found.thresholds["allergens"]}
    assert safety.temperature == 0.8125 and found.ece_before is None  # they rest on it
    assert found.recall["illegal"] is not None and found.recall["privacy"] is None
    verdicts = safety.classify([make_image(seed) for seed in range(60)], "what is this?")
    assert abs(sum(verdict.flagged for verdict in verdicts) - found.flagged) <= 1  # float16 features
    assert 0 < found.flagged <= 7  # 12 of 60 are allowed in the long run; 7 are, with 95 % confidence


def test_what_the_others_flag_is_paid_out_of_the_promise_first(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    benign = records(make_image, range(60))
    alone = calibrate(safety, benign, 0.2, minimum=-LIMIT, progress=False)
    scores = sorted(
        max(v.scores[t] for t in v.scores if t != "allergens")
        for v in safety.classify([make_image(seed) for seed in range(60)], "what is this?")
    )
    edge = (scores[-4] + scores[-5]) / 2  # the old types flag four
    safety.thresholds = {**dict.fromkeys(safety.config.taxonomy.types, edge), "allergens": 6.0}
    together = calibrate(safety, benign, 0.2, minimum=-LIMIT, progress=False)
    assert together.flagged <= alone.flagged
    assert together.thresholds["allergens"] >= alone.thresholds["allergens"]
    safety.thresholds = {**dict.fromkeys(safety.config.taxonomy.types, -LIMIT), "allergens": 6.0}
    kept = safety.thresholds
    with pytest.raises(DataError, match=r"at most 6 of 60 .* by the types that keep their thresholds, got 60"):
        calibrate(safety, benign, 0.2, progress=False)
    assert safety.thresholds == kept


def test_all_types_anew_share_the_promise_out_over_the_first_ones_and_each_added_one(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    types = safety.config.taxonomy.types
    needed = images_needed(0.2, parts=2)
    with pytest.raises(DataError, match=f"at least {needed} benign images"):
        calibrate(safety, records(make_image, range(needed - 1)), 0.2, types=types, progress=False)
    labelled = [*records(make_image, range(100, 112), "illegal"), *records(make_image, range(112, 130))]
    found = calibrate(safety, records(make_image, range(60)), 0.2, types=types, labelled=labelled, progress=False)
    assert found.types == list(types)
    assert len({found.thresholds[name] for name in types[:-1]}) == 1  # one threshold, as before
    assert safety.temperature == found.temperature != 0.8125


def test_types_are_named_right_and_what_keeps_a_threshold_has_one(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    benign = records(make_image, range(60))
    with pytest.raises(DataError, match=r"expected types among politics, .*, got alergens"):
        calibrate(safety, benign, 0.2, types=["alergens"], progress=False)
    with pytest.raises(DataError, match="for every type that keeps its own, got none for allergens"):
        calibrate(safety, benign, 0.2, types=["illegal"], progress=False)
    safety.thresholds = {}
    with pytest.raises(DataError, match="got none for politics, illegal"):
        calibrate(safety, benign, 0.2, types=["allergens"], progress=False)
    assert calibrate(safety, benign, 0.2, progress=False).types == list(safety.config.taxonomy.types)


def printed(record: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=200)
    print_calibration("a", record, console)
    return str(console.file.getvalue())


def test_the_command_says_what_was_promised_for_what_and_whose_recall_nobody_knows(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    labelled = records(make_image, range(100, 110), "allergens")
    asked = calibrate(safety, records(make_image, range(60)), 0.2, labelled=labelled, progress=False).to_dict()
    assert (asked["asked"], asked["questions"]) == (60, 1)
    text = printed(asked)
    assert "promised for pictures asked about as in these records (one question), not for other questions" in text
    assert "recall unknown for politics, illegal, insults, fairness, privacy, misleading:" in text
    known = {name: {"value": 0.9, "low": 0.8, "high": 0.95, "n": 30} for name in asked["thresholds"]}
    assert "recall unknown" not in printed({**asked, "before": {"recall": known}})
    alone = calibrate(safety, records(make_image, range(60), question=" "), 0.2, progress=False).to_dict()
    assert alone["asked"] == 0 and "judged alone (audit, classify), not for calls that ask a question" in printed(alone)


@pytest.mark.parametrize(
    "thresholds",
    [
        {"illegal": 50.0},
        {"illegal": float("nan")},
        {"illegal": float("inf")},
        {"illegal": "3"},
        {"illegal": None},
        {"ilegal": 3.0},
    ],
)
def test_thresholds_that_no_score_can_be_compared_with_are_refused_and_change_nothing(
    safety: SafetyAttachment, thresholds: dict[str, Any]
) -> None:
    before = safety.thresholds
    with pytest.raises(ConfigError, match="thresholds"):
        safety.thresholds = {**before, **thresholds}
    with pytest.raises(ConfigError, match="expected one for each of"):
        safety.thresholds = {"illegal": 3.0}
    assert safety.thresholds == before
    safety.thresholds = {name: np.float32(2.5) for name in before}
    assert set(safety.thresholds.values()) == {2.5}
    safety.thresholds["illegal"] = 50  # a copy
    assert safety.thresholds["illegal"] == 2.5


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), 1000, "1"])
def test_a_temperature_that_makes_no_probabilities_is_refused(safety: SafetyAttachment, temperature: Any) -> None:
    with pytest.raises(ConfigError, match="temperature not set"):
        safety.temperature = temperature
    assert safety.temperature == 0.8125
