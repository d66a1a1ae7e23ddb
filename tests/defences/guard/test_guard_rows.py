"""The guarded call, row by row: clean rows untouched, risky rows steered, whatever stands beside them."""

import pytest
import torch
from guard_cases import (
    CLEAN,
    CLEAN_IMAGES,
    IMAGES,
    NEW,
    RISKY,
    ROWS,
    answers,
    attach_as_trained,
    rows_of,
    steered_by_hand,
)

from safety_modules.config import SafetyConfig
from safety_modules.errors import GuardError
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
def test_mixed_batch_equals_single_calls(guarded, model, tiny_base, ask, batch_mode):
    inputs = ask(*ROWS)
    together = answers(model.generate(**inputs, **NEW, batch_mode=batch_mode), inputs)
    for row, question in enumerate(ROWS):
        single = ask(question)
        alone = answers(model.generate(**single, **NEW), single)
        assert torch.equal(together[row : row + 1], alone), question
    base = answers(tiny_base.generate(**inputs, **NEW), inputs)
    assert [row for row in range(len(ROWS)) if not torch.equal(together[row], base[row])] == RISKY


@pytest.mark.parametrize(
    ("row", "on", "verdict"),
    [
        (0, [True], ("illegal", "high")),
        (3, [False, True], ("privacy", "low")),
        (6, [False, True, True], ("illegal", "high")),
    ],
)
def test_risky_rows_get_tokens_before_the_risky_images_the_hint_and_lora(guarded, model, ask, row, on, verdict):
    inputs = ask(ROWS[row])
    got = answers(model.generate(**inputs, **NEW), inputs)[0]
    hint = Policy.default().hint(*verdict)
    expected = steered_by_hand(guarded, inputs["input_ids"][0], inputs["pixel_values"], on, hint, **NEW)
    assert torch.equal(got, expected)


def test_clean_rows_are_bit_identical_to_the_base_on_the_same_sub_batch(guarded, model, tiny_base, ask):
    inputs = ask(*ROWS)
    options = NEW | {"return_dict_in_generate": True, "output_logits": True}
    got = model.generate(**inputs, **options)
    expected = tiny_base.generate(**rows_of(inputs, CLEAN, CLEAN_IMAGES), **options)
    assert torch.equal(got.sequences[CLEAN], expected.sequences)
    for mine, base in zip(got.logits, expected.logits, strict=True):
        assert torch.equal(mine[CLEAN], base)


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
def test_a_batch_judged_clean_is_the_untouched_call(guarded, model, tiny_base, ask, batch_mode):
    inputs = ask(*(ROWS[row] for row in CLEAN))
    options = NEW | {"return_dict_in_generate": True, "output_scores": True}
    got, expected = model.generate(**inputs, **options, batch_mode=batch_mode), tiny_base.generate(**inputs, **options)
    assert torch.equal(got.sequences, expected.sequences)
    assert all(torch.equal(a, b) for a, b in zip(got.scores, expected.scores, strict=True))
    assert [v and v.type for v in got.verdicts] == ["clean", None, "clean"]


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_vision_tower_runs_once(guarded, model, ask, tower_runs, options, batch_mode):
    tower_runs.clear()
    model.generate(**ask(*ROWS), **(NEW | options), batch_mode=batch_mode)
    assert tower_runs == [IMAGES]


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
def test_switches_per_sample(guarded, model, tiny_base, ask, batch_mode):
    inputs = ask(*ROWS)
    base = tiny_base.generate(**inputs, **NEW)
    all_on = model.generate(**inputs, **NEW)
    switches = [True, True, True, False, True, False, True]
    got = guarded.generate(**inputs, **NEW, safety=switches, batch_mode=batch_mode)
    assert torch.equal(got.sequences[[0, 6]], all_on[[0, 6]]) and torch.equal(got.sequences[[3, 5]], base[[3, 5]])
    assert [v is not None for v in got.verdicts] == [True, True, False, False, True, False, True]
    assert got.image_verdicts[3] == []
    with pytest.raises(GuardError, match="7 bools"):
        model.generate(**inputs, **NEW, safety=[True])


def test_mode_always_steers_clean_images_without_a_hint(model, processor, tiny_base, ask):
    safety = attach_as_trained(model, processor, config=SafetyConfig(mode="always", num_lm_tokens=2))
    with torch.no_grad():
        safety.modules.lm_tokens.weight.normal_()
    policy = Policy.default().model_copy(update={"default_threshold": LIMIT})
    inputs = ask(("what is this?", [1]), ("tell me", []))
    base = tiny_base.generate(**inputs, **NEW)
    for batch_mode in ("split", "merged"):
        got = safety.generate(**inputs, **NEW, policy=policy, batch_mode=batch_mode)
        assert not got.verdicts[0].flagged
        assert not torch.equal(got.sequences[0], base[0]) and torch.equal(got.sequences[1], base[1])


def test_text_only_calls_are_the_bases_own(guarded, model, tiny_base, ask, tower_runs):
    inputs = ask(("tell me", []), ("how do I use it?", []))
    tower_runs.clear()
    assert torch.equal(model.generate(**inputs, **NEW), tiny_base.generate(**inputs, **NEW))
    assert torch.equal(model.generate(inputs["input_ids"], **NEW), tiny_base.generate(inputs["input_ids"], **NEW))
    assert guarded.generate(**inputs, **NEW).verdicts == [None, None]
    assert tower_runs == []
