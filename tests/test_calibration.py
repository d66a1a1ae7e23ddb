"""Calibration: the promise, its price, and verdict probabilities in bulk."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from safety_modules import attach_safety
from safety_modules.attachment import SafetyAttachment
from safety_modules.errors import DataError
from safety_modules.records.record import Record
from safety_modules.taxonomy import DEFAULT_TAXONOMY
from safety_modules.training import calibration
from safety_modules.training.calibration import calibrate, images_needed, verdict_metrics, verdict_probabilities

TYPES = DEFAULT_TAXONOMY.types


def record(image: Any, type: str = "clean", level: str = "safe", question: str = "what is this?") -> Record:
    return Record(image=image, question=question, answer=None, type=type, level=level)


@pytest.fixture
def safety(model: Any, processor: Any) -> SafetyAttachment:
    return attach_safety(model, processor)


@pytest.fixture
def pictures(make_image: Callable[[int], Image.Image]) -> list[Record]:
    return [record(make_image(seed), question="what is this?" if seed % 2 else "a knife?") for seed in range(60)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> np.random.Generator:
    """Calibrate on scores out of the air: only the number of records counts, and no tower runs."""
    rng = np.random.default_rng(0)

    def scores(_attachment: Any, corpus: Any) -> tuple[np.ndarray, None]:
        found = np.zeros((len(corpus), len(TYPES) + 1), np.float32)
        found[np.arange(len(found)), rng.integers(len(TYPES), size=len(found))] = rng.random(len(found)) ** 3
        return found, None

    monkeypatch.setattr(calibration, "corpus_probabilities", scores)
    monkeypatch.setattr(calibration.Corpus, "make", lambda backbone, records, cache_dir, progress: records)
    return rng


@pytest.mark.parametrize("per_type", [False, True])
def test_promise_is_kept_in_at_least_nineteen_of_twenty_draws(
    safety: SafetyAttachment, pictures: list[Record], drawn: np.random.Generator, per_type: bool
) -> None:
    limit, kept = 0.05, 0
    for _ in range(200):
        found = calibrate(safety, pictures * 10, limit, per_type, minimum=0, progress=False)
        # The scores are cubes of uniform numbers of one random type, so the true rate is known: no sampling needed.
        kept += 1 - np.mean([threshold ** (1 / 3) for threshold in found.thresholds.values()]) <= limit
        assert found.flagged <= limit * found.images
    assert kept >= 190


def test_threshold_is_just_above_the_score_that_the_binomial_bound_allows(
    safety: SafetyAttachment, pictures: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.zeros((60, len(TYPES) + 1), np.float32)
    scores[:, 1] = np.arange(60) / 100
    monkeypatch.setattr(calibration, "corpus_probabilities", lambda *_: (scores, None))
    found = calibrate(safety, pictures, 0.1, minimum=0, progress=False)
    allowed = max(k for k in range(60) if binom.cdf(k, 60, 0.1) <= 0.05)
    assert allowed == 1
    assert found.flagged == allowed
    assert set(found.thresholds) == set(TYPES)
    (threshold,) = set(found.thresholds.values())
    assert threshold == np.nextafter(np.float64(np.float32(0.58)), 2)
    assert safety.thresholds == found.thresholds


def test_too_few_images_say_how_many_are_needed(safety: SafetyAttachment, pictures: list[Record]) -> None:
    assert images_needed(0.01) == 299
    with pytest.raises(DataError, match="at least 299 benign images for this promise, got 60"):
        calibrate(safety, pictures, progress=False)
    with pytest.raises(DataError, match="at least 380 benign"):
        calibrate(safety, pictures, 0.05, per_type=True, confidence=0.75, progress=False)
    assert safety.thresholds == {}


def test_fewest_images_are_enough(safety: SafetyAttachment, pictures: list[Record], drawn: np.random.Generator) -> None:
    needed = images_needed(0.05)
    assert needed == 59
    assert calibrate(safety, pictures[:needed], 0.05, minimum=0, progress=False).flagged == 0
    with pytest.raises(DataError):
        calibrate(safety, pictures[: needed - 1], 0.05, progress=False)


def test_minimum_is_kept(safety: SafetyAttachment, pictures: list[Record]) -> None:
    found = calibrate(safety, pictures, 0.1, minimum=0.99, progress=False)
    assert set(found.thresholds.values()) == {0.99}


def test_benign_images_at_risk_one_are_an_error(
    safety: SafetyAttachment, pictures: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "corpus_probabilities", lambda *_: (np.ones((60, 7), np.float32), None))
    with pytest.raises(DataError, match="risk below 1"):
        calibrate(safety, pictures, 0.1, progress=False)


@pytest.mark.parametrize("unfit", [{"type": "illegal", "level": "low"}, {"image": None}])
def test_records_that_are_not_benign_images_are_refused(
    safety: SafetyAttachment, pictures: list[Record], unfit: dict[str, Any]
) -> None:
    bad = pictures[0].model_copy(update=unfit)
    with pytest.raises(DataError, match=r"others at \[60\]"):
        calibrate(safety, [*pictures, bad], 0.1, progress=False)


@pytest.mark.parametrize("value", [0, 1, -0.1])
def test_impossible_promises_are_refused(safety: SafetyAttachment, pictures: list[Record], value: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        calibrate(safety, pictures, value, progress=False)


def test_calibrated_thresholds_flag_as_many_as_promised_through_classify(
    safety: SafetyAttachment, pictures: list[Record]
) -> None:
    found = calibrate(safety, pictures, 0.2, minimum=0, progress=False)
    assert found.flagged > 0
    verdicts = safety.classify([r.load_image() for r in pictures], [r.question for r in pictures])
    assert abs(sum(verdict.flagged for verdict in verdicts) - found.flagged) <= 1  # float16 features


@pytest.mark.parametrize("questions", [True, False])
def test_probabilities_in_bulk_equal_those_of_classify(
    safety: SafetyAttachment, pictures: list[Record], questions: bool
) -> None:
    types, levels = verdict_probabilities(safety, pictures[:5], questions=questions, progress=False)
    asked = [r.question for r in pictures[:5]] if questions else None
    verdicts = safety.classify([r.load_image() for r in pictures[:5]], asked)
    for row, verdict in enumerate(verdicts):
        assert types[row] == pytest.approx(list(verdict.probabilities.values()), abs=2e-3)
        assert levels[row] == pytest.approx(list(verdict.level_probabilities.values()), abs=2e-3)


def test_bulk_needs_no_language_model(
    safety: SafetyAttachment, pictures: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety.backbone.language_model, "forward", None)
    assert verdict_probabilities(safety, pictures[:3], progress=False)[0].shape == (3, len(TYPES) + 1)
    with pytest.raises(DataError, match="an image in every record"):
        verdict_probabilities(safety, [record(None)], progress=False)


def test_metrics_of_known_probabilities() -> None:
    records = [record(None), record(None), record(None, "illegal", "high"), record(None, "privacy", "low")]
    types = np.full((4, 7), 0.01, np.float32)
    levels = np.zeros((4, 4), np.float32)
    types[[0, 1, 2, 3], [6, 6, 1, 1]] = 0.9, 0.2, 0.9, 0.5
    types[2:, 6] = 0.1, 0.4
    levels[[2, 3], [3, 2]] = 1
    found = verdict_metrics(types, levels, records, DEFAULT_TAXONOMY)
    assert found == {"auroc": 0.75, "type_accuracy": 0.5, "level_accuracy": 0.5}
