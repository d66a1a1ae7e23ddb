"""Temperature scaling: fitted where labels are, stored in the adapter, used by every verdict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_cases import attach_as_trained, judged
from PIL import Image
from scipy.special import softmax

from safety_modules import attach_safety
from safety_modules.adapter import read_adapter
from safety_modules.attach import SafetyAttachment
from safety_modules.errors import DataError
from safety_modules.metrics import expected_calibration_error
from safety_modules.records.record import Record
from safety_modules.training.calibration import calibrate
from safety_modules.training.temperature_scaling import fit_scaling, temperature_of


@pytest.fixture
def safety(model: Any, processor: Any) -> SafetyAttachment:
    return attach_as_trained(model, processor)


def records(make_image: Callable[[int], Image.Image], seeds: range, type: str = "clean") -> list[Record]:
    level = "safe" if type == "clean" else "high"
    return [Record(image=make_image(s), question="what is this?", answer=None, type=type, level=level) for s in seeds]


def sampled(temperature: float, samples: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (samples, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(logits, -1)])
    return temperature * logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, labels = sampled(temperature)
    assert temperature_of(logits, labels) == pytest.approx(temperature, rel=0.07)


def test_scaling_brings_the_calibration_error_of_an_overconfident_head_down() -> None:
    logits, labels = sampled(3.0)
    found = fit_scaling(logits, labels, np.arange(len(labels)) % 2)
    assert found.ece_before > 0.15
    assert found.ece_after < 0.03


def test_a_head_without_a_mistake_keeps_the_temperature_one() -> None:
    logits = np.eye(5) * 4
    assert temperature_of(logits, np.arange(5)) == 1.0


def test_calibration_error_of_known_numbers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 0])) == pytest.approx((0.1 * 2 + 0.1 * 2) / 4)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0
    with pytest.raises(DataError, match="at least one sample"):
        expected_calibration_error(np.zeros((0, 3)), np.zeros(0))


def test_every_verdict_is_divided_by_the_temperature(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    shown = records(make_image, range(4))
    before = safety.classify([one.load_image() for one in shown], "what is this?")
    safety.temperature = 2.0
    after = safety.classify([one.load_image() for one in shown], "what is this?")
    for cold, warm in zip(before, after, strict=True):
        expected = torch.tensor([*cold.probabilities.values()]).log().div(2).softmax(0)
        torch.testing.assert_close(torch.tensor([*warm.probabilities.values()]), expected)
        assert warm.level_probabilities == cold.level_probabilities
    types = judged(safety, shown).types
    np.testing.assert_allclose(types, [[*one.probabilities.values()] for one in after], atol=1e-3)  # float16 features


def test_labelled_data_give_temperature_recall_and_digests_and_the_adapter_keeps_them(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image], tmp_path: Path, model: Any, processor: Any
) -> None:
    benign = records(make_image, range(60))
    labelled = [*records(make_image, range(100, 130)), *records(make_image, range(130, 160), "illegal")]
    found = calibrate(safety, benign, 0.1, labelled=labelled, minimum=0, progress=False)
    assert found.temperature == safety.temperature != 1
    assert found.recall["illegal"].n == 30 and found.recall["privacy"] is None
    assert found.ece_before is not None and found.ece_after is not None
    assert found.benign_digest != found.labelled_digest
    saved = safety.save_pretrained(tmp_path / "a", "float32", metadata={"calibration": found.to_dict()})
    adapter = read_adapter(saved)
    assert adapter.guard.temperature == found.temperature and adapter.guard.thresholds == found.thresholds
    assert adapter.config.metadata["calibration"]["labelled_digest"] == found.labelled_digest
    pictures = [one.load_image() for one in labelled[:4]]
    expected = safety.classify(pictures)
    safety.detach()
    assert attach_safety(model, processor, adapter=saved).classify(pictures) == expected


def test_without_labels_the_temperature_stays_and_what_is_unknown_is_none(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    safety.temperature = 1.5
    found = calibrate(safety, records(make_image, range(60)), 0.1, progress=False)
    assert found.temperature == safety.temperature == 1.5
    assert found.ece_before is found.ece_after is found.labelled_digest is None
    assert set(found.recall.values()) == {None}


def test_a_picture_among_the_benign_and_the_labelled_ones_is_refused(
    safety: SafetyAttachment, make_image: Callable[[int], Image.Image]
) -> None:
    benign = records(make_image, range(60))
    with pytest.raises(DataError, match="not among the benign ones, got 1 that are, such as record 2"):
        calibrate(safety, benign, 0.1, labelled=[*records(make_image, range(70, 72)), benign[0]], progress=False)
    assert safety.thresholds == {} and safety.temperature == 1
