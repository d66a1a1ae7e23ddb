"""What a guarded call cannot give is an error that says so; nothing is answered unguarded instead."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from guard_cases import NEW, ROWS, Recorder
from transformers import DynamicCache

from safety_modules.attach import attach_safety
from safety_modules.errors import ConfigError, GuardError, PolicyError, PromptError
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

EVEN = [("what is this", [1]), ("what is that", [5])]


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
        ({"position_ids": torch.arange(44)[None].repeat(2, 1)}, "position_ids"),
        ({"past_key_values": DynamicCache()}, "past_key_values"),
        ({"cache": DynamicCache()}, "cache"),
        ({"negative_prompt_ids": torch.ones(2, 3, dtype=torch.long), "guidance_scale": 2.0}, "negative_prompt_ids"),
        ({"custom_generate": "somebody/decoding"}, "custom_generate"),
    ],
)
def test_what_does_not_fit_steered_prompts_is_refused(guarded, model, ask, text_runs, options, named, batch_mode):
    inputs = ask(*EVEN)
    text_runs.clear()
    with pytest.raises(GuardError, match=f"risky image not answered: .*{named}"):
        model.generate(**inputs, **NEW, **options, batch_mode=batch_mode)
    assert text_runs == []


@pytest.mark.parametrize("action", ["hint", "refuse"])
def test_a_stream_of_rows_that_are_not_answered_together_is_refused(guarded, model, ask, text_runs, action):
    policy, streamer = Policy.default().with_rule("illegal", action=action), Recorder()
    text_runs.clear()
    with pytest.raises(GuardError, match="streamer"):
        model.generate(**ask(*EVEN), **NEW, streamer=streamer, policy=policy)
    assert text_runs == [] and streamer.values == []


def test_images_the_guard_cannot_see_are_refused(guarded, model, ask):
    inputs = ask(ROWS[1])
    with pytest.raises(GuardError, match="inputs_embeds"):
        model.generate(inputs_embeds=torch.zeros(1, 4, 32), **NEW)
    with pytest.raises(GuardError, match="mm_encoder_outputs"):
        model.generate(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": None}, **NEW)
    with pytest.raises(PromptError, match="images and prompts"):
        model.generate(input_ids=inputs["input_ids"], **NEW)
    with pytest.raises(PromptError, match="images and prompts"):
        model.generate(**{**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)}, **NEW)


SWITCHES = {
    True: [True, 1, np.True_, torch.tensor(True), [True], (1,), [np.True_], np.array([True]), torch.tensor([1])],
    False: [False, 0, np.False_, torch.tensor(False), [False], (0,), [np.False_], np.array([0]), torch.tensor([False])],
    None: ["off", "yes", "", None, 2, 0.0, {}, {"a": 1}, ["False"], [None], [[True]], b"0", torch.tensor(0.5)],
}


@pytest.mark.parametrize("meaning", SWITCHES)
def test_what_safety_means_is_the_same_everywhere(guarded, model, ask, meaning):
    inputs = ask(ROWS[0])
    calls = (
        lambda **options: guarded.generate(**inputs, **NEW, **options),
        lambda **options: guarded.prepare(**inputs, **options),
    )
    for value in SWITCHES[meaning]:
        if meaning is None:
            for call in (*calls, lambda **options: model.generate(**inputs, **NEW, **options)):
                with pytest.raises(GuardError, match=r"expected safety to be True, False or a list"):
                    call(safety=value)
            continue
        for call in calls:
            assert (call(safety=value).verdicts[0] is not None) is meaning, value
        one, other = (model.generate(**inputs, **NEW, safety=which) for which in (value, meaning))
        assert torch.equal(one, other), value


def test_one_switch_for_each_row_is_asked_for(guarded, model, ask):
    for wrong in ([], [True], [False, False, False]):
        with pytest.raises(
            GuardError, match=rf"expected safety to be a bool or 2 bools, one per row, got {len(wrong)}"
        ):
            model.generate(**ask(*EVEN[:2]), **NEW, safety=wrong)


@pytest.mark.parametrize("policy", ["strict", Path("policy.yaml"), {"privacy": "allow"}, Policy, 0, False, [], ""])
def test_what_is_no_policy_is_named(guarded, model, processor, tiny_base, ask, policy):
    def put() -> None:
        guarded.policy = policy

    inputs = ask(ROWS[0])
    for call in (
        lambda: model.generate(**inputs, **NEW, policy=policy),
        lambda: guarded.prepare(**inputs, policy=policy),
        lambda: guarded.classify(pixel_values=inputs["pixel_values"], policy=policy),
        lambda: attach_safety(copy.deepcopy(tiny_base), processor, policy=policy),
        put,
    ):
        with pytest.raises(PolicyError, match=r"no policy: expected a Policy, got .* Policy\.from_yaml"):
            call()
    assert guarded.policy == Policy.default()


def test_setters_check_what_attaching_checks(guarded):
    rules = dict(list(Policy.default().rules.items())[:2])
    with pytest.raises(PolicyError, match="no rule for type"):
        guarded.policy = Policy(rules=rules, wording=Policy.default().wording)
    with pytest.raises(GuardError, match="no such batch mode: expected split or merged, got 'Split'"):
        guarded.batch_mode = "Split"
    assert guarded.policy == Policy.default() and guarded.batch_mode == "split"


def test_a_policy_in_the_place_of_a_design_is_named(tiny_base, processor):
    with pytest.raises(ConfigError, match=r"expected config to be a SafetyConfig, got Policy\. .* policy=\.\.\."):
        attach_safety(copy.deepcopy(tiny_base), processor, None, Policy.default())


def test_inputs_that_are_no_tensors_are_named(guarded, model, processor, make_image, ask):
    given = processor(images=make_image(1), text="USER: <image>\nwhat? ASSISTANT:")
    whole = processor(images=make_image(1), text="USER: <image>\nwhat? ASSISTANT:", return_tensors="pt")
    flat = {**whole, "input_ids": whole["input_ids"][0]}
    for call, words in (
        (lambda: model.generate(whole, **NEW), r"input_ids as a tensor \(B, T\), got a BatchFeature"),
        (lambda: model.generate(**given, **NEW), r"input_ids as a tensor \(B, T\), got a list"),
        (lambda: model.generate(**flat, **NEW), r"input_ids as a tensor \(B, T\), got one of shape"),
        (
            lambda: model.generate(**{**whole, "pixel_values": whole["pixel_values"].numpy()}, **NEW),
            "pixel_values as a tensor, got a ndarray",
        ),
    ):
        with pytest.raises(GuardError, match=rf"{words}.* return_tensors=\"pt\""):
            call()


def test_ids_may_be_called_inputs(guarded, model, ask):
    inputs = ask(ROWS[0])
    ids, rest = inputs["input_ids"], {name: inputs[name] for name in ("pixel_values", "attention_mask")}
    expected = guarded.generate(**inputs, **NEW)
    for safety in (True, False):
        expected = guarded.generate(**inputs, **NEW, safety=safety)
        found = guarded.generate(inputs=ids, **rest, **NEW, safety=safety)
        assert torch.equal(found.sequences, expected.sequences) and found.verdicts == expected.verdicts
        assert torch.equal(model.generate(ids, **rest, **NEW, safety=safety), expected.sequences)


def test_an_assistant_that_is_guarded_itself_is_refused(guarded, model, tiny_base, processor, ask):
    assistant = copy.deepcopy(tiny_base)
    attach_safety(assistant, processor)
    with pytest.raises(GuardError, match="not guarded"):
        model.generate(**ask(ROWS[0]), **NEW, assistant_model=assistant)
    assert torch.equal(  # nothing is left behind
        model.generate(**ask(ROWS[1]), **NEW), tiny_base.generate(**ask(ROWS[1]), **NEW)
    )
