"""Attach, toggle, detach: the base model is never changed."""

import copy
import gc
import pickle
import threading
import weakref
from pathlib import Path

import pytest
import torch
from guard_cases import attach_as_trained
from guard_policies import flag_everything
from transformers import LlavaForConditionalGeneration, LlavaModel

from safety_modules.attach import attach_safety, detach_safety
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.errors import AdapterError, AttachError, ConfigError, PolicyError
from safety_modules.mount.lora import Lora
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT

pytestmark = pytest.mark.matrix

RISKY = {1: ("illegal", "high")}


def snapshot(model, folder: Path, ask):
    """Everything about a model that safety must not change."""
    inputs = ask(("what is this?", [1]), ("and how do I use it?", [2]))
    with torch.no_grad():
        logits = model(**inputs).logits
    model.save_pretrained(folder)
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "config": model.config.to_dict(),
        "grads": {name: p.requires_grad for name, p in model.named_parameters()},
        "modules": [(name, type(part).__name__, part.training) for name, part in model.named_modules()],
        "hooks": [len(part._forward_pre_hooks) for part in model.modules()],
        "logits": logits,
        "generated": model.generate(**inputs, max_new_tokens=6, do_sample=False),
        "files": {path.name: path.read_bytes() for path in sorted(folder.iterdir())},
    }


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got[name], value), name
        elif name == "state":
            assert list(got[name]) == list(value)
            assert all(torch.equal(got[name][key], tensor) for key, tensor in value.items())
        else:
            assert got[name] == value, name


def use(safety, judge_as, ask):
    """Everything an attachment does."""
    judge_as(RISKY)
    inputs = ask(("what is this?", [1]), ("what is this?", [2]))
    safety.backbone.model.generate(**inputs, max_new_tokens=4)
    safety.backbone.model.generate(**inputs, max_new_tokens=4, num_beams=2)
    safety.classify(pixel_values=inputs["pixel_values"], questions="what is this?")


@pytest.fixture
def flags(model):
    """A base with unusual flags."""
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 == 0)
    model.model.language_model.layers[0].mlp.train()


def test_attached_model_keeps_the_bases_state_config_and_files(
    flags, tiny_base, model, safety, judge_as, ask, tmp_path
):
    use(safety, judge_as, ask)
    safety.disable()
    reference = copy.deepcopy(tiny_base)
    reference.model.language_model.layers[0].mlp.train()
    for number, parameter in enumerate(reference.parameters()):
        parameter.requires_grad_(number % 3 == 0)
    expected = snapshot(reference, tmp_path / "base", ask)
    got = snapshot(model, tmp_path / "attached", ask)
    assert [m[:2] for m in got["modules"]] == [m[:2] for m in expected["modules"]]
    assert_same(got, expected)


def test_detached_model_is_bit_identical(flags, model, processor, ask, tmp_path):
    expected = snapshot(model, tmp_path / "before", ask)
    attributes = set(vars(model)), set(vars(model.model)), set(vars(model.model.language_model))
    safety = attach_as_trained(model, processor)
    model.generate(**ask(("what is this?", [1])), max_new_tokens=4, policy=flag_everything())
    safety.detach()
    assert type(model) is LlavaForConditionalGeneration and type(model.model) is LlavaModel
    assert (set(vars(model)), set(vars(model.model)), set(vars(model.model.language_model))) == attributes
    assert_same(snapshot(model, tmp_path / "after", ask), expected)


@pytest.mark.parametrize("how", ["disable", "with", "per call", "per sample", "detach"])
def test_off_means_off(tiny_base, model, safety, judge_as, ask, how):
    judge_as(RISKY)
    inputs = ask(("what is this?", [1]), ("how do I use it?", [1]))
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = tiny_base.generate(**inputs, **options)
    guarded = model.generate(**inputs, **options)
    assert not torch.equal(guarded, expected)
    if how == "disable":
        safety.disable()
        assert torch.equal(model.generate(**inputs, **options), expected)
        safety.enable()
    elif how == "with":
        with safety.disabled():
            assert not safety.enabled
            assert torch.equal(model.generate(**inputs, **options), expected)
    elif how == "per call":
        assert torch.equal(model.generate(**inputs, **options, safety=False), expected)
    elif how == "per sample":
        assert torch.equal(model.generate(**inputs, **options, safety=[False, False]), expected)
    else:
        safety.detach()
        assert torch.equal(model.generate(**inputs, **options), expected)
        return
    assert safety.enabled
    assert torch.equal(model.generate(**inputs, **options), guarded)


def test_with_disabled_does_not_reach_other_threads(safety):
    seen = []
    with safety.disabled():
        thread = threading.Thread(target=lambda: seen.append(safety.enabled))
        thread.start()
        thread.join()
    assert seen == [True]


def test_off_means_off_even_while_lora_is_mounted_for_training(tiny_base, model, safety, ask):
    inputs = ask(("what is this?", [1]))
    expected = tiny_base.generate(**inputs, max_new_tokens=4)
    with safety.lora.mounted():
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, safety=False), expected)


def test_forward_stays_the_bases_own(tiny_base, model, safety, judge_as, ask):
    judge_as(RISKY)
    inputs = ask(("what is this?", [1]))
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, tiny_base(**inputs).logits)


def test_detach_twice_is_harmless_and_attach_again_works(model, processor, safety):
    detach_safety(model)
    safety.detach()
    with pytest.raises(AttachError, match="nothing to detach"):
        detach_safety(model)
    attach_safety(model, processor).detach()


def test_second_attachment_is_refused(model, processor, safety):
    with pytest.raises(AttachError, match="already attached"):
        attach_safety(model, processor)
    assert safety.enabled and type(model).__name__ == "LlavaForConditionalGeneration"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"config": SafetyConfig(lora=LoraSettings(target_modules=("nonsense",)))}, AttachError),
        ({"config": SafetyConfig(width=None, attention_heads=5)}, ConfigError),
        ({"adapter": "nowhere"}, AdapterError),
        ({"adapter": "nowhere", "config": SafetyConfig()}, ConfigError),
        ({"policy": Policy(rules={})}, PolicyError),
    ],
)
def test_failed_attach_leaves_nothing_behind(model, processor, ask, tmp_path, arguments, error):
    expected = snapshot(model, tmp_path / "before", ask)
    attributes = set(vars(model)), set(vars(model.model.language_model))
    with pytest.raises(error):
        attach_safety(model, processor, **arguments)
    assert type(model) is LlavaForConditionalGeneration and type(model.model) is LlavaModel
    assert (set(vars(model)), set(vars(model.model.language_model))) == attributes
    assert_same(snapshot(model, tmp_path / "after", ask), expected)


def test_late_failure_leaves_nothing_behind(model, processor, safety, tmp_path, monkeypatch):
    folder = safety.save_pretrained(tmp_path / "adapter")
    safety.detach()
    keys = list(model.state_dict())

    def fail(*args):
        raise OSError

    monkeypatch.setattr(Lora, "load_state_dict", fail)
    with pytest.raises(OSError):
        attach_safety(model, processor, adapter=folder)
    assert type(model) is LlavaForConditionalGeneration and list(model.state_dict()) == keys


def test_adapter_round_trip_gives_the_same_answers(tiny_base, model, processor, safety, judge_as, ask, tmp_path):
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, -LIMIT)
    inputs = ask(("what is this?", [1]), ("why?", [2]))
    expected = safety.generate(**inputs, max_new_tokens=6)
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    again = attach_safety(copy.deepcopy(tiny_base), processor, adapter=folder)
    got = again.generate(**inputs, max_new_tokens=6)
    assert torch.equal(got.sequences, expected.sequences)
    assert got.verdicts == expected.verdicts and all(v.flagged for v in got.verdicts)
    assert again.thresholds == safety.thresholds and again.config == safety.config


def test_adapter_of_another_base_is_refused(tiny_base, processor, safety, tmp_path):
    folder = safety.save_pretrained(tmp_path / "adapter")
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.norm.weight.add_(1)
    with pytest.raises(AdapterError, match=r"language_model: .* The same sizes but other weights"):
        attach_safety(other, processor, adapter=folder)


def test_untrained_attachments_are_equal_and_leave_the_random_state_alone(tiny_base, processor):
    torch.manual_seed(5)
    first = attach_as_trained(copy.deepcopy(tiny_base), processor)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    second = attach_as_trained(copy.deepcopy(tiny_base), processor)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_base_frozen_restores_every_flag(flags, model, safety):
    before = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), safety.base_frozen():
        assert not any(p.requires_grad for p in model.parameters())
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    assert ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]) == before


def test_copying_an_attached_model_is_an_error_not_an_unguarded_copy(model, safety):
    with pytest.raises(AttachError, match="not copied"):
        copy.deepcopy(model)
    with pytest.raises(AttachError, match="not copied"):
        pickle.dumps(safety)
    safety.detach()
    copy.deepcopy(model)


def test_detached_attachment_does_not_keep_the_model_guarded_or_alive(tiny_base, processor):
    model = copy.deepcopy(tiny_base)
    attach_safety(model, processor)
    assert type(model).generate is not LlavaForConditionalGeneration.generate
    gone = weakref.ref(model)
    detach_safety(model)
    del model
    gc.collect()
    assert gone() is None
