"""Bases in half precision: answers the guard does not touch are the base's own, bit for bit."""

import copy

import pytest
import torch
from guard_cases import attach_as_trained
from guard_policies import flag_everything, flag_nothing

from safety_modules import pocket
from safety_modules.attach import attach_safety
from safety_modules.config import SafetyConfig
from safety_modules.defences.cmrm import CmrmSettings

pytestmark = pytest.mark.matrix

HALF = (torch.bfloat16, torch.float16)
OPTIONS = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(params=HALF, ids=str)
def half_base(request, tiny_base):
    return copy.deepcopy(tiny_base).to(request.param)


@pytest.fixture
def half(half_base, processor):
    return attach_as_trained(copy.deepcopy(half_base), processor, config=SafetyConfig(num_lm_tokens=3))


def test_clean_and_switched_off_answers_are_bit_identical(half_base, half, ask):
    inputs = ask(("what is this?", [1]), ("how do I use it?", [2]), ("hello", []))
    model = half.backbone.model
    details = {**OPTIONS, "output_scores": True, "return_dict_in_generate": True}
    expected = half_base.generate(**inputs, **details)
    for call in ({"safety": False}, {"policy": flag_nothing()}):
        got = model.generate(**inputs, **details, **call)
        assert torch.equal(got.sequences, expected.sequences)
        assert all(torch.equal(a, b) for a, b in zip(got.scores, expected.scores, strict=True))


@pytest.mark.parametrize("defence", ["cmrm", CmrmSettings(level="sample"), "shiftdc"], ids=str)
def test_shifts_are_taken_back_and_off_is_the_base_bit_for_bit(half_base, processor, ask, defence):
    inputs, model = ask(("what is this?", [1]), ("how do I use it?", [2])), copy.deepcopy(half_base)
    details = {**OPTIONS, "output_scores": True, "return_dict_in_generate": True}
    expected = half_base.generate(**inputs, **details).scores
    attach_safety(model, processor, defence=defence)
    assert not torch.equal(model.generate(**inputs, **details).scores[0], expected[0])
    off = model.generate(**inputs, **details, safety=False).scores
    assert all(torch.equal(a, b) for a, b in zip(off, expected, strict=True))


def test_clean_rows_beside_a_risky_one_are_bit_identical_on_their_sub_batch(half_base, half, ask):
    inputs = ask(("what is this?", [1]), ("how do I use it?", [2]), ("what is it?", [3]))
    guarded = half.backbone.model.generate(
        **inputs, **OPTIONS, policy=flag_everything(), safety=[False, True, False], batch_mode="split"
    )
    rows = [0, 2]
    part = {name: value[rows] for name, value in inputs.items()}
    assert torch.equal(guarded[rows], half_base.generate(**part, **OPTIONS))


def test_verdicts_and_trained_parts_stay_in_single_precision(half, safety, ask):
    inputs = ask(("what is this?", [1]), ("how do I use it?", [2]), ("hello", []))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    output = half.generate(**inputs, **OPTIONS, policy=flag_everything())
    assert [v and v.flagged for v in output.verdicts] == [True, True, None]
    expected = safety.generate(**inputs, **OPTIONS).verdicts[0]
    assert output.verdicts[0].attention.dtype == torch.float32
    assert output.verdicts[0].probabilities == pytest.approx(expected.probabilities, abs=5e-3)


def test_detached_half_precision_base_is_bit_identical(half_base, half, ask):
    inputs = ask(("what is this?", [1]))
    model = half.backbone.model
    model.generate(**inputs, **OPTIONS, policy=flag_everything())
    half.detach()
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in half_base.state_dict().items())
    assert torch.equal(model.generate(**inputs, **OPTIONS), half_base.generate(**inputs, **OPTIONS))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_shipped_adapter_knows_pocket_in_half_precision(dtype):
    model, processor = pocket.load()
    safety = attach_safety(model.to(dtype), processor, adapter=pocket.adapter_dir())
    records = pocket.make("attack", 4, split="validation")
    verdicts = safety.classify(
        images=[record.load_image() for record in records], questions=[record.question for record in records]
    )
    assert any(verdict.flagged for verdict in verdicts)
