"""Average precision and calibration of risks are the library's and the textbook's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from safety_modules.errors import DataError
from safety_modules.evaluation.harness import detection
from safety_modules.evaluation.harness.detection import auprc, risk_calibration_error


def sample(n: int, seed: int = 0) -> tuple[list[bool], list[float]]:
    rng = np.random.default_rng(seed)
    risky = rng.random(n) < 0.4
    return risky.tolist(), np.round(np.clip(rng.normal(0.3 + 0.4 * risky, 0.2), 0, 1), 1).tolist()  # with ties


def test_average_precision_and_its_resamples_are_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    risky, risks = zip(*sorted(zip(*sample(60), strict=True), key=lambda pair: -pair[1]), strict=True)
    monkeypatch.setattr(detection, "RESAMPLES", 50)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 50)
    expected = [average_precision_score(np.repeat(risky, w), np.repeat(risks, w)) for w in weights]
    found = auprc(risky, risks)
    assert found.value == average_precision_score(risky, risks)
    assert found[1:3] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


def test_more_samples_make_a_narrower_interval() -> None:
    few, many = auprc(*sample(50)), auprc(*sample(2000))
    assert many.high - many.low < few.high - few.low


def test_a_risk_that_comes_true_as_often_as_it_says_is_calibrated() -> None:
    risks = [0.25] * 100 + [0.75] * 100
    honest = [True] * 25 + [False] * 75 + [True] * 75 + [False] * 25
    assert risk_calibration_error(honest, risks) == pytest.approx(0)
    assert risk_calibration_error([not risky for risky in honest], risks) == pytest.approx(0.5)


def test_what_is_no_probability_has_no_calibration() -> None:
    with pytest.raises(DataError, match="expected risks from 0 to 1, got -2 to 3"):
        risk_calibration_error([True, False], [3.0, -2.0])


def test_one_class_alone_has_no_curve() -> None:
    with pytest.raises(DataError, match="got 2 and 0"):
        auprc([True, True], [0.1, 0.2])
