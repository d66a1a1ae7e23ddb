"""Promises for pictures of another kind: weights out of the air, and by pictures."""

import numpy as np
import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.policy.scores import LIMIT
from safety_modules.records.record import Record
from safety_modules.training.calibration import calibrate
from safety_modules.training.likeness import likelihood_ratios
from safety_modules.training.thresholds import effective_size, promised_limits


def test_equal_weights_change_no_threshold_whatever_they_are() -> None:
    scores = np.random.default_rng(0).random((700, 3))
    plain = promised_limits(scores, 0.02, minimum=0)
    for weight in (1.0, 0.3, 7.0):
        assert np.array_equal(promised_limits(scores, 0.02, minimum=0, weights=np.full(700, weight)), plain)


def test_a_weighted_promise_is_kept_under_a_shift_that_breaks_the_plain_one() -> None:
    """Images of a kind g, a tenth of the calibration's and half of today's, score higher."""
    rng, kept, plain = np.random.default_rng(0), 0, 0
    for _ in range(200):
        rare = rng.random(3000) < 0.1
        scores = (rng.random(3000) + rare)[:, None]
        weights = np.where(rare, 5.0, 0.5 / 0.9)
        limits = (promised_limits(scores, 0.05, minimum=0, weights=one)[0] for one in (weights, None))
        flagged = [0.5 * max(0.0, 2 - limit) for limit in limits]  # both above 1: none of the others reaches it
        kept, plain = kept + (flagged[0] <= 0.05), plain + (flagged[1] <= 0.05)
    assert kept >= 180 and plain == 0  # 95 %, approximately: the effective size is no number of draws


def test_weights_say_less_than_as_many_images_of_equal_weight() -> None:
    assert effective_size(np.ones(50)) == 50 and effective_size(np.array([1.0, 0, 0])) == 1
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(1.6)
    weights = np.r_[np.full(30, 10.0), np.full(970, 0.01)]
    with pytest.raises(DataError, match=r"at least 59 benign images for this promise, got 31 that are like .* of 1000"):
        promised_limits(np.random.default_rng(0).random((1000, 2)), 0.05, weights=weights)
    flagged = np.arange(1000) < 20
    with pytest.raises(DataError, match=r"at most 5 of 212 benign images flagged by .* got 62"):
        promised_limits(np.zeros((1000, 2)), 0.05, groups=[[0]], flagged=flagged, weights=np.where(flagged, 20, 1.0))


def test_ratios_are_those_of_the_densities() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=(4000, 6)), rng.normal(size=(2000, 6)) + np.eye(6)[0]
    found = likelihood_ratios(own, others)
    true = np.exp(own[:, 0] - 0.5)
    assert found.mean() == pytest.approx(1) and np.corrcoef(np.log(found), np.log(true))[0, 1] > 0.97
    assert effective_size(found) == pytest.approx(effective_size(true), rel=0.3)
    same = likelihood_ratios(own, rng.normal(size=(2000, 6)))
    assert effective_size(same) > 3900


def pictures(count: int, dark: float, seed: int) -> list[Record]:
    """Clean records, a share of them dark."""
    rng = np.random.default_rng(seed)
    made = [
        Image.fromarray((rng.integers(0, 256, (28, 28, 3)) * (0.2 if rng.random() < dark else 1)).astype(np.uint8))
        for _ in range(count)
    ]
    said = {"question": "what?", "answer": None, "type": "clean", "level": "safe"}
    return [Record(image=image, **said) for image in made]


def test_calibration_is_for_pictures_like_those_of_today(safety) -> None:
    benign, today = pictures(400, 0.3, 1), pictures(150, 0.7, 2)
    found = calibrate(safety, benign, 0.1, minimum=-LIMIT, like=today, progress=False)
    limits = safety.thresholds
    assert found.like == 150 and 60 < found.effective < 400
    assert found.to_dict()["effective"] == found.effective
    plain = calibrate(safety, benign, 0.1, minimum=-LIMIT, progress=False)
    assert plain.like is None and plain.effective is None and safety.thresholds != limits
    before = safety.thresholds
    with pytest.raises(DataError, match=r"at least 100 different pictures of the kind .* got 20"):
        calibrate(safety, benign, 0.1, like=today[:20], progress=False)
    with pytest.raises(DataError, match=r"expected at least 29 benign images for this promise, got \d+ that are like"):
        calibrate(safety, pictures(60, 0.05, 3), 0.1, like=pictures(150, 1.0, 4), progress=False)
    assert safety.thresholds == before
