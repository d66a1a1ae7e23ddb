"""Bases that bitsandbytes quantised, on the CPU: `make test-quant`."""

import pytest
import torch
from defence_cases import EVERY_ONE, put_on
from guard_cases import ROWS, attach_as_trained
from guard_policies import flag_everything, flag_nothing
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from safety_modules.attach import attach_safety
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import Sample, Steer, build_inputs, lm_forward

bnb = pytest.importorskip("bitsandbytes")

OPTIONS = {"max_new_tokens": 5, "do_sample": False}
# Full paths: a bare "vision_tower" does not skip it, and the safety head was trained on unquantised features.
SKIP = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
WAYS = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=SKIP),
    "int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIP),
}


@pytest.fixture(params=WAYS)
def load(request, tiny_base, tmp_path):
    tiny_base.save_pretrained(tmp_path / "base")
    return lambda: LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "base", quantization_config=WAYS[request.param], dtype=torch.float32
    ).eval()


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_quantised_base_is_guarded_and_its_own_answers_are_bit_identical(load, processor, ask):
    inputs = ask(("what is this?", [1]), ("how do I use it?", [2]))
    model = load()
    assert isinstance(model.model.language_model.layers[0].mlp.up_proj, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
    expected, before = model.generate(**inputs, **OPTIONS), logits(model, inputs)
    safety = attach_as_trained(model, processor, config=SafetyConfig(num_lm_tokens=3))
    for call in ({"safety": False}, {"policy": flag_nothing()}):
        assert torch.equal(model.generate(**inputs, **OPTIONS, **call), expected)
    assert not torch.equal(model.generate(**inputs, **OPTIONS, policy=flag_everything()), expected)
    assert torch.equal(model.generate(**inputs, **OPTIONS, safety=False), expected)
    safety.detach()
    assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("names", EVERY_ONE, ids="+".join)
def test_every_defence_acts_on_a_quantised_base_and_it_stays_as_it_was(load, processor, ask, names):
    inputs, model = ask(*ROWS), load()
    expected, before = model.generate(**inputs, **OPTIONS), logits(model, inputs)
    safety = put_on(model, processor, names)
    found = safety.generate(**inputs, **OPTIONS)
    asked_more = "ecso" in names and any(usage.lm_passes != 1 for usage in found.usage)
    assert asked_more or found.sequences.tolist() != expected.tolist()
    assert torch.equal(model.generate(**inputs, **OPTIONS, safety=False), expected)
    safety.detach()
    assert torch.equal(logits(model, inputs), before)


def test_quantised_linears_are_not_merged_and_answer_alike(load, processor, ask):
    inputs, model = ask(("what is this?", [1])), load()
    safety = attach_as_trained(model, processor)
    with torch.no_grad():
        for parameter in safety.lora.parameters():
            parameter.normal_(std=0.1)
    expected = model.generate(**inputs, **OPTIONS, policy=flag_everything())
    safety.merge_lora = True
    assert torch.equal(model.generate(**inputs, **OPTIONS, policy=flag_everything()), expected)


def test_quantised_base_has_the_bases_sizes_and_fingerprint(load, processor, safety, ask):
    backbone = attach_safety(load(), processor).backbone
    assert backbone.sizes == safety.backbone.sizes
    assert backbone.fingerprint() == safety.backbone.fingerprint() | {"language_model": None}


def test_lora_trains_on_a_quantised_base_without_changing_it(load, processor, ask, make_image):
    model, inputs = load(), ask(("what is this?", [1]))
    before = logits(model, inputs)
    safety = attach_safety(model, processor)
    backbone = safety.backbone
    with torch.no_grad():
        feature = backbone.encode_images(backbone.pixel_values([make_image(1)])).projected[0]
    sample = Sample(backbone.prompt_ids("what is this?"), [feature], Steer((True,), "Careful."), "a cup")
    with safety.base_frozen(), safety.lora.mounted():
        lm_forward(
            backbone, build_inputs(backbone, safety.modules.lm_tokens(), [sample]), use_cache=False
        ).loss.backward()
    gradients = [p.grad for name, p in safety.lora.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert safety.modules.lm_tokens.weight.grad.abs().sum() > 0
    assert torch.equal(logits(model, inputs), before)
