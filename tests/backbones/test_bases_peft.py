"""Bases that carry an adapter of the user's own: base and adapter together are what stays bit-identical."""

import copy
import logging

import pytest
import torch
from guard_cases import attach_as_trained
from guard_policies import flag_everything, flag_nothing
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from safety_modules.attach import attach_safety, detach_safety
from safety_modules.backbones import find_backbone
from safety_modules.errors import AdapterError, AttachError

OPTIONS = {"max_new_tokens": 6, "do_sample": False}
TARGETS = ["q_proj", "v_proj"]
IN_LANGUAGE_MODEL = r".*language_model.*\.(q_proj|v_proj|down_proj)"

pytestmark = pytest.mark.matrix


def trained(model):
    """Gives the user's adapter weights that change answers."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def wrap_all(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=TARGETS))


def wrap_language_model(model):
    model.model.language_model = get_peft_model(model.model.language_model, LoraConfig(r=2, target_modules=TARGETS))
    return model


def add_adapter(model):
    try:
        model.add_adapter(LoraConfig(r=2, target_modules=IN_LANGUAGE_MODEL), adapter_name="mine")
    except ValueError as error:  # transformers' own requirement, not ours
        if "PEFT" not in str(error):
            raise
        pytest.skip(str(error))
    return model


WAYS = {"get_peft_model": wrap_all, "on the language model": wrap_language_model, "add_adapter": add_adapter}


@pytest.fixture(params=WAYS)
def adapted(request, model):
    """A base with the user's adapter, as the user holds it."""
    return trained(WAYS[request.param](model))


def tree(model):
    return [(name, type(part).__name__, part.training) for name, part in model.named_modules()]


def test_answers_stay_those_of_base_and_adapter(adapted, tiny_base, processor, ask):
    inputs = ask(("what is this?", [1]), ("how do I use it?", [2]), ("hello", []))
    expected = adapted.generate(**inputs, **OPTIONS)
    assert not torch.equal(expected, tiny_base.generate(**inputs, **OPTIONS))
    before = tree(adapted), {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    grads = [parameter.requires_grad for parameter in adapted.parameters()]
    safety = attach_as_trained(adapted, processor)
    for call in ({"safety": False}, {"policy": flag_nothing()}):
        assert torch.equal(adapted.generate(**inputs, **OPTIONS, **call), expected)
    assert not torch.equal(adapted.generate(**inputs, **OPTIONS, policy=flag_everything()), expected)
    detach_safety(adapted)
    assert not safety.installed
    state = adapted.state_dict()
    assert tree(adapted) == before[0] and list(state) == list(before[1])
    assert all(torch.equal(state[name], tensor) for name, tensor in before[1].items())
    assert [parameter.requires_grad for parameter in adapted.parameters()] == grads
    assert torch.equal(adapted.generate(**inputs, **OPTIONS), expected)


def test_safety_lora_is_stacked_on_the_users(adapted, processor):
    safety = attach_safety(adapted, processor)
    block = safety.backbone.language_model.layers[0].self_attn
    layer = block.q_proj
    assert isinstance(layer, BaseTunerLayer)
    with torch.no_grad():
        for parameter in safety.lora.parameters():
            parameter.normal_()
        x = torch.randn(1, 3, layer.in_features, device=safety.backbone.device)
        own = dict(safety.lora.named_parameters())
        a, b = (own[f"layers.0.self_attn.q_proj.lora_{part}.weight"] for part in "AB")
        scale = safety.config.lora.alpha / safety.config.lora.r
        expected = layer(x) + x @ a.T @ b.T * scale
        with safety.lora.mounted():
            assert torch.allclose(block.q_proj(x), expected, atol=1e-4)
    assert block.q_proj is layer


def test_sizes_and_fingerprint_are_the_bases_where_only_the_language_model_is_adapted(model, tiny_base, processor):
    expected = find_backbone(tiny_base, processor)
    got = find_backbone(add_adapter(model), processor)
    assert got.sizes == expected.sizes
    assert got.fingerprint() == expected.fingerprint()


def test_an_adapter_on_the_vision_tower_makes_another_base(model, tiny_base, processor, safety, tmp_path):
    # It changes what the safety head sees: an adapter trained without it does not fit.
    folder = safety.save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="digest"):
        attach_safety(trained(wrap_all(copy.deepcopy(tiny_base))), processor, adapter=folder)


def test_an_adapter_that_adds_to_the_prompt_is_refused(model, processor):
    wrapped = get_peft_model(
        model.model.language_model, PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    )
    model.model.language_model = wrapped
    with pytest.raises(AttachError, match=r"adapter not supported: .* got PrefixTuning"):
        attach_safety(model, processor)


def test_second_attachment_through_the_wrapper_is_refused(model, processor):
    wrapped = wrap_all(model)
    attach_safety(wrapped, processor)
    for one in (wrapped, model):
        with pytest.raises(AttachError, match=r"already attached: .* Detach the first set"):
            attach_safety(one, processor)


def test_an_adapter_put_on_after_attaching_is_noticed_not_bypassed(model, processor, ask):
    attach_as_trained(model, processor)
    inputs = ask(("what is this?", [1]))
    wrapped = trained(get_peft_model(model, LoraConfig(r=2, target_modules=IN_LANGUAGE_MODEL)))
    expected = wrapped.generate(**inputs, **OPTIONS, safety=False)
    assert torch.equal(wrapped.generate(**inputs, **OPTIONS, policy=flag_nothing()), expected)
    with pytest.raises(AttachError, match="Detach safety, change the model's own adapters, then attach again"):
        wrapped.generate(**inputs, **OPTIONS, policy=flag_everything())


def test_an_adapter_put_on_the_tower_after_attaching_is_noticed_before_anything_is_judged(model, processor, ask):
    safety = attach_as_trained(model, processor)
    inputs = ask(("what is this?", [1]))
    wrapped = wrap_all(model)  # new: it changes nothing yet
    wrapped.generate(**inputs, **OPTIONS, policy=flag_nothing())
    expected = trained(wrapped).generate(**inputs, **OPTIONS, safety=False)
    with pytest.raises(AttachError, match=r"base changed: .* digest: .* Detach and attach anew"):
        wrapped.generate(**inputs, **OPTIONS, policy=flag_nothing())
    with wrapped.disable_adapter():
        wrapped.generate(**inputs, **OPTIONS, policy=flag_nothing())
    safety.detach()
    assert torch.equal(wrapped.generate(**inputs, **OPTIONS), expected)


def test_attaching_logs_nothing_about_the_users_adapter(adapted, processor, caplog):
    with caplog.at_level(logging.INFO):
        attach_safety(adapted, processor)
    assert "peft_config" not in caplog.text
