"""Whether pocket keeps the promise of calibration."""

import json

import pytest
from promise import evaluate_promise

from safety_modules import attach_safety, pocket


def test_pocket_keeps_the_promise_in_most_draws_of_a_small_pool() -> None:
    safety = attach_safety(*pocket.load(), adapter=pocket.adapter_dir())
    before = dict(safety.thresholds)
    found = evaluate_promise(safety, 20, 60, 200, pool=180, max_false_alarm=0.05, progress=False)
    assert found["draws"] == len(found["rows"]) == 20
    assert found["kept"] == sum(row["false_alarms"] <= 0.05 for row in found["rows"])
    assert found["kept"] >= 14  # the draws share pictures, and 200 fresh ones measure the rate within 3 points
    assert safety.thresholds == before
    json.dumps(found)


@pytest.mark.slow
def test_pocket_keeps_the_promise_in_nineteen_of_twenty_independent_draws() -> None:
    safety = attach_safety(*pocket.load(), adapter=pocket.adapter_dir())
    assert evaluate_promise(safety, progress=False)["kept"] >= 19
