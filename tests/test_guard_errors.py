"""What a guarded call cannot give is an error that says so; nothing is answered unguarded instead."""

import copy

import pytest
import torch
from guard_cases import NEW, ROWS, Recorder
from transformers import DynamicCache

from safety_modules.attach import attach_safety
from safety_modules.errors import GuardError, PromptError
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


def test_an_assistant_that_is_guarded_itself_is_refused(guarded, model, tiny_base, processor, ask):
    assistant = copy.deepcopy(tiny_base)
    attach_safety(assistant, processor)
    with pytest.raises(GuardError, match="not guarded"):
        model.generate(**ask(ROWS[0]), **NEW, assistant_model=assistant)
    assert torch.equal(  # nothing is left behind
        model.generate(**ask(ROWS[1]), **NEW), tiny_base.generate(**ask(ROWS[1]), **NEW)
    )
