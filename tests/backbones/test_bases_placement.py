"""Bases that are offloaded, or checkpoint their activations: guarded, trained, and left exactly as they were."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from guard_cases import attach_as_trained
from guard_policies import flag_everything, flag_nothing
from transformers import LlavaForConditionalGeneration

from safety_modules.attach import attach_safety
from safety_modules.defences.guard import Sample, Steer, build_inputs, lm_forward

pytestmark = pytest.mark.matrix

OPTIONS = {"max_new_tokens": 5, "do_sample": False}
ON_DISK = {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "cpu",
    "model.language_model": "disk",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def checkpoint(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_base.save_pretrained(folder)
    return folder


@pytest.fixture(params=["disk", "memory"])
def offloaded(request, checkpoint, tmp_path):
    """As people load a base that does not fit: the language model stays on disk, or in the computer's memory."""
    if request.param == "disk":
        model = LlavaForConditionalGeneration.from_pretrained(checkpoint, device_map=ON_DISK, offload_folder=tmp_path)
    else:
        model = LlavaForConditionalGeneration.from_pretrained(checkpoint)
        cpu_offload(model.model.language_model, execution_device="cpu")
    assert all(parameter.is_meta for parameter in model.model.language_model.parameters())
    return model.eval()


def test_offloaded_base_answers_bit_identically_and_is_guarded_alike(
    offloaded, safety, tiny_base, processor, ask, tmp_path
):
    inputs = ask(("what is this?", [1]), ("tell me", []))
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    expected = tiny_base.generate(**inputs, **OPTIONS)
    assert torch.equal(offloaded.generate(**inputs, **OPTIONS), expected)
    guard = attach_safety(offloaded, processor, adapter=folder)
    assert not any(parameter.is_meta for parameter in guard.parameters())
    for call in ({"safety": False}, {"policy": flag_nothing()}):
        assert torch.equal(offloaded.generate(**inputs, **OPTIONS, **call), expected)
    in_memory = safety.backbone.model.generate(**inputs, **OPTIONS, policy=flag_everything())
    assert not torch.equal(in_memory[:1, -5:], expected[:1, -5:])
    for merge in (False, True):  # linears that are elsewhere are not merged
        guard.merge_lora = merge
        assert torch.equal(offloaded.generate(**inputs, **OPTIONS, policy=flag_everything()), in_memory)
    guard.detach()
    assert all(parameter.is_meta for parameter in offloaded.model.language_model.parameters())
    assert torch.equal(offloaded.generate(**inputs, **OPTIONS), expected)


def test_fingerprint_of_an_offloaded_base_is_that_of_the_base(offloaded, safety, processor):
    # What is offloaded of the language model is not brought in to be looked at.
    expected = safety.backbone.fingerprint() | {"language_model": None}
    assert attach_safety(offloaded, processor).backbone.fingerprint() == expected
    assert offloaded.model.language_model.norm.weight.is_meta


def enable(model, reentrant):
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": reentrant})


def flags(model):
    """What checkpointing sets on a model, and what training could leave there."""
    return [
        (name, part.training, vars(part).get("gradient_checkpointing"), vars(part).get("_gradient_checkpointing_func"))
        for name, part in model.named_modules()
    ] + [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()]


def train_step(safety, steer, picture):
    """Gradients of LoRA and safety tokens from one step on a question without an image and one with; block runs."""
    backbone, runs = safety.backbone, []
    with torch.no_grad():
        feature = backbone.encode_images(backbone.pixel_values([picture])).projected[0]
    samples = [
        Sample(backbone.prompt_ids("what is this?"), [feature], steer, "a cup of tea"),
        Sample(backbone.prompt_ids("why?", 0), answer="a knife"),
    ]
    blocks = backbone.language_model.layers
    hooks = [block.mlp.register_forward_pre_hook(lambda *_: runs.append(1)) for block in blocks]
    with safety.base_frozen(), safety.lora.mounted():
        lm_forward(
            backbone, build_inputs(backbone, safety.modules.lm_tokens(), samples), use_cache=False
        ).loss.backward()
    for hook in hooks:
        hook.remove()
    gradients = {name: parameter.grad for name, parameter in safety.named_parameters() if parameter.grad is not None}
    return gradients, len(runs) / len(blocks)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("steer", [Steer(), Steer((True,), "Careful.")], ids=["plain", "steered"])
def test_checkpointed_training_has_the_same_gradients_and_leaves_every_flag(
    safety, model, tiny_base, processor, make_image, ask, reentrant, steer
):
    expected, runs = train_step(safety, steer, make_image(1))
    assert runs == 1 and any("lora_A" in name for name in expected)
    safety.modules.zero_grad()
    for parameter in safety.lora.parameters():
        parameter.grad = None
    enable(model, reentrant)
    before = flags(model)
    got, runs = train_step(safety, steer, make_image(1))
    assert runs == 2  # once forward, once again backward
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert flags(model) == before


def test_checkpointing_base_is_guarded_and_left_as_it_was(tiny_base, processor, ask):
    inputs = ask(("what is this?", [1]))
    model = copy.deepcopy(tiny_base)
    enable(model, False)
    model.train()
    # In training mode transformers checkpoints without a cache: such a base's own answers are its own.
    before, expected = flags(model), model.generate(**inputs, **OPTIONS)
    safety = attach_as_trained(model, processor)
    model.generate(**inputs, **OPTIONS, policy=flag_everything())
    assert torch.equal(model.generate(**inputs, **OPTIONS, safety=False), expected)
    safety.detach()
    assert flags(model) == before
    assert torch.equal(model.generate(**inputs, **OPTIONS), expected)
