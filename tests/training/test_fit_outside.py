"""What is outside: fitted to a training's pictures, saved, calibrated, acted upon, and said by whoever asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import encoded
from guard_cases import NEW, attach_as_trained
from PIL import Image

from safety_modules.adapter.folder import read_adapter
from safety_modules.attach import SafetyAttachment, attach_safety
from safety_modules.audit.scorer import Scorer
from safety_modules.policy.policy import Policy
from safety_modules.records.record import Record
from safety_modules.training import outside as fitting
from safety_modules.training.calibration import calibrate
from safety_modules.training.corpus import Corpus
from safety_modules.training.outside import fit_outside
from safety_modules.training.strangers import strangers

COUNT = 60


@pytest.fixture
def records(make_image: Callable[[int], Image.Image]) -> list[Record]:
    return [
        Record(image=make_image(seed), question="what is this?", answer=None, type="clean", level="safe")
        for seed in range(COUNT)
    ]


@pytest.fixture
def safety(model: Any, processor: Any, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> SafetyAttachment:
    """A guard whose `outside` was fitted to few pictures."""
    monkeypatch.setattr(fitting, "LEAST", COUNT)
    monkeypatch.setattr(fitting, "STRANGERS", 5)
    attached = attach_as_trained(model, processor)
    assert fit_outside(attached, Corpus.make(attached.backbone, records, progress=False)) == COUNT
    return attached


def test_too_few_pictures_fit_nothing(model: Any, processor: Any, records: list[Record]) -> None:
    attached = attach_as_trained(model, processor)
    assert fit_outside(attached, Corpus.make(attached.backbone, records, progress=False)) == 0
    assert attached.modules.outside is None and attached.classify(records[0].image)[0].outside is None


def test_every_verdict_says_it_of_the_picture_alone(safety: SafetyAttachment, records: list[Record]) -> None:
    pictures = [record.image for record in records[:5]]
    alone, asked = safety.classify(pictures), safety.classify(pictures, "how do I use this knife?")
    values = [verdict.outside for verdict in alone]
    assert values == [verdict.outside for verdict in asked]
    assert all(value is not None and 1 / 16 <= value <= 1 for value in values)  # a quarter of the pictures is kept


def test_saved_loaded_and_audited_it_says_the_same(
    safety: SafetyAttachment, records: list[Record], saved_base: Path, tmp_path: Path
) -> None:
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    wanted = [verdict.outside for verdict in safety.classify([encoded(number) for number in range(3)])]
    assert read_adapter(folder).guard.design.outside == safety.config.outside
    found = Scorer(saved_base, folder, device="cpu")({"image": [*(encoded(number) for number in range(3)), b"none"]})
    assert found["outside"][:3].tolist() == pytest.approx(wanted) and np.isnan(found["outside"][3])
    model, processor = safety.backbone.model, safety.backbone.processor
    safety.detach()
    again = attach_safety(model, processor, adapter=folder)
    assert [verdict.outside for verdict in again.classify([encoded(number) for number in range(3)])] == wanted


def test_calibration_keeps_its_p_values_and_compares_the_next_ones_with_them(
    safety: SafetyAttachment, records: list[Record]
) -> None:
    first = calibrate(safety, records, 0.2, progress=False)
    assert first.outside is not None and first.outside["void"] is None and first.outside["pictures"] == COUNT
    assert safety.config.outside is not None and safety.config.outside.calibrated == COUNT
    assert safety.config.outside.scored == COUNT
    same = calibrate(safety, records, 0.2, progress=False)
    assert same.outside is not None and same.outside["void"] is False and same.outside["p"] == 1
    others = [record.model_copy(update={"image": one}) for record, one in zip(records, strangers(15), strict=True)]
    found = calibrate(safety, others, 0.2, progress=False)
    assert found.outside is not None and found.outside["calibrated"] == COUNT


def test_a_policy_refuses_or_hints_and_by_default_answers_are_the_bases_own(
    safety: SafetyAttachment, records: list[Record], ask: Callable[..., Any]
) -> None:
    p_values = [verdict.outside for verdict in safety.classify([record.image for record in records])]
    inputs = ask(("what is this?", [int(np.argmin(p_values))]))
    allowed = {type: {"action": "allow"} for type in safety.config.taxonomy.types}
    quiet = Policy.default().changed({"rules": allowed, "outside_significance": 0.5})
    model = safety.backbone.model
    base, logged = model.generate(**inputs, **NEW, safety=False), safety.generate(**inputs, **NEW, policy=quiet)
    assert torch.equal(logged.sequences, base) and logged.verdicts[0].is_outside
    refused = safety.generate(**inputs, **NEW, policy=quiet.changed({"outside": "refuse"}))
    assert refused.refusals == [quiet.outside_refusal] and not refused.verdicts[0].flagged
    hinted = safety.generate(**inputs, **NEW, policy=quiet.changed({"outside": "hint"}))
    assert hinted.refusals == [None] and hinted.verdicts[0].action == "hint"
    assert hinted.usage[0].prompt_tokens > logged.usage[0].prompt_tokens  # the hint, and the safety tokens


def test_the_made_up_pictures_are_the_same_every_time_and_no_two_are_equal() -> None:
    first, again = strangers(4), strangers(4)
    assert [one.tobytes() for one in first] == [one.tobytes() for one in again]
    assert len({one.tobytes() for one in first}) == 16 and {one.size for one in first} == {(128, 128)}
