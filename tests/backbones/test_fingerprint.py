"""The fingerprint of a base: every weight the verdict comes from, in whatever form, and nothing else."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from guard_cases import attach_as_trained
from peft import LoraConfig, PeftModel, get_peft_model

from adapters import as_version
from safety_modules.adapter import read_adapter
from safety_modules.adapter.describe import adapter_record, adapter_text
from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone, identity
from safety_modules.config import SafetyConfig
from safety_modules.errors import AdapterError

ROOT = Path(__file__).parents[2]
LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"


@pytest.fixture
def known(tiny_base, processor):
    """A base's fingerprint."""
    return lambda model: find_backbone(model, processor).fingerprint()


def weights_of(model):
    """All tensors that the verdict and what the language model sees of a picture come from."""
    layers, places = identity.used_layers(model.model.vision_tower, model.config.vision_feature_layer)
    unused = {id(p) for layer in layers[max(places) :] for p in layer.parameters()}
    parts = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
    parts["embeddings"] = model.get_input_embeddings()
    return {
        f"{part}.{name}": parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
        if id(parameter) not in unused and "post_layernorm" not in name
    }


@pytest.mark.matrix
def test_a_single_number_of_any_weight_makes_another_base(tiny_base, known):
    own, model = known(tiny_base)["digest"], copy.deepcopy(tiny_base)
    for name, weight in weights_of(model).items():
        for place in (0, weight.numel() // 2, weight.numel() - 1):
            before = weight.detach().clone()
            with torch.no_grad():
                weight.view(-1)[place] += 0.1
            assert known(model)["digest"] != own, f"{name} at {place}"
            with torch.no_grad():
                weight.copy_(before)
    assert known(model)["digest"] == own


def test_rows_and_columns_that_change_places_make_another_base(tiny_base, known):
    own, model = known(tiny_base)["digest"], copy.deepcopy(tiny_base)
    for weight in weights_of(model).values():
        if weight.ndim < 2:
            continue
        for axis in (0, 1):
            with torch.no_grad():
                before = weight.clone()
                weight.copy_(weight.roll(1, axis))
            assert weight.equal(before) or known(model)["digest"] != own
            with torch.no_grad():
                weight.copy_(before)


def test_the_language_model_is_known_by_samples_of_all_its_weights(tiny_base, known):
    own, model = known(tiny_base), copy.deepcopy(tiny_base)
    for name, weight in model.model.language_model.named_parameters():
        if "embed_tokens" in name:
            continue
        with torch.no_grad():
            before = weight.clone()
            weight.mul_(1.05)
        live = known(model)
        assert live["digest"] == own["digest"] and live["language_model"] != own["language_model"], name
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": LANGUAGE, "modules_to_save": ["multi_modal_projector"]},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": LANGUAGE, "trainable_token_indices": [5, 6]},
        {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens"]},
    ],
    ids=["projector", "tower", "tokens", "embeddings"],
)
def test_an_adapter_made_over_a_users_one_fits_all_forms_of_the_same_weights(tiny_base, processor, options, tmp_path):
    own = stirred(get_peft_model(copy.deepcopy(tiny_base), LoraConfig(r=2, **options)))
    safety = attach_as_trained(own, processor, config=SafetyConfig(lora=None))
    folder = safety.save_pretrained(tmp_path / "safety")
    safety.detach()
    own.save_pretrained(tmp_path / "own")

    def again(**named):
        return PeftModel.from_pretrained(copy.deepcopy(tiny_base), tmp_path / "own", **named)

    second = again()
    second.add_adapter("second", LoraConfig(r=2, init_lora_weights=False, **options))
    for same in (own, again(), again(adapter_name="mine"), second, again().merge_and_unload()):
        attach_safety(same, processor, folder).detach()
    second.set_adapter("second")
    off = again()
    off.base_model.disable_adapter_layers()
    for other in (copy.deepcopy(tiny_base), second, off):
        with pytest.raises(AdapterError, match=r"other base: digest: .* other weights"):
            attach_safety(other, processor, folder)


def stirred(model):
    """Gives all that a user trains other numbers."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("lora", [True, False])
def test_another_language_model_is_refused_where_the_adapter_has_a_lora_on_it(tiny_base, processor, tmp_path, lora):
    config = SafetyConfig() if lora else SafetyConfig(lora=None)
    folder = attach_as_trained(copy.deepcopy(tiny_base), processor, config=config).save_pretrained(tmp_path / "a")
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.language_model.layers[1].mlp.up_proj.weight.mul_(1.1)
    if not lora:
        attach_safety(other, processor, folder)
        return
    with pytest.raises(AdapterError, match=r"other base: language_model: .* other weights"):
        attach_safety(other, processor, folder)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_old_adapter_loads_by_its_old_digest_and_inspect_says_so(tiny_base, processor, tmp_path, version):
    base = copy.deepcopy(tiny_base)
    safety = attach_as_trained(base, processor, config=SafetyConfig(query="concept", ensemble=1))
    folder = safety.save_pretrained(tmp_path / "old")
    file = folder / "adapter_config.json"
    assert "digest of version 2" in adapter_text(adapter_record(folder))
    record = json.loads(as_version(folder, version).joinpath(file.name).read_text())
    assert record["base"]["fingerprint"]["digest_version"] == 2
    record["base"]["fingerprint"] = safety.backbone.fingerprint(version=1)
    file.write_text(json.dumps(record))
    assert read_adapter(folder).config.format_version == version
    assert "digest of version 1, which looked at a few tensors only" in adapter_text(adapter_record(folder))
    loaded = attach_safety(copy.deepcopy(tiny_base), processor, folder)
    other = copy.deepcopy(tiny_base)
    with torch.no_grad():
        other.model.multi_modal_projector.linear_1.bias.add_(1)
    with pytest.raises(AdapterError, match="other base: digest"):
        attach_safety(other, processor, folder)
    saved = read_adapter(loaded.save_pretrained(tmp_path / "new")).config.base.fingerprint
    assert saved == loaded.backbone.fingerprint(), "what is saved now has the digest of now"


def test_random_changes_of_pocket_that_move_verdicts_are_refused_and_its_other_forms_accepted(tmp_path):
    numbers = tmp_path / "numbers.json"
    command = [sys.executable, "benchmarks/fingerprint.py", "--changes", "12", "--json", str(numbers)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(numbers.read_text())
    assert found["random changes"]["changes"] == 12 and found["random changes"]["accepted and moved"] == []
    forms = found["the same weights in another form are accepted"]
    assert len(forms) >= 14 and all(forms.values()), forms
