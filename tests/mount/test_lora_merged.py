"""LoRA answered from merged copies of the linears: faster, as much as up to rounding, and never in the base itself."""

import copy

import pytest
import torch
from guard_cases import NEW, ROWS, attach_as_trained
from peft import PeftModel

from safety_modules.config import LoraSettings
from safety_modules.mount.lora import Lora

pytestmark = pytest.mark.matrix


@pytest.fixture
def text_model(model):
    return model.model.language_model


@pytest.fixture
def lora(text_model):
    lora = Lora(text_model, LoraSettings(r=2))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for parameter in lora.parameters():
            parameter.normal_(std=0.1)
    return lora


def run(text_model, rows=1):
    with torch.no_grad():
        ids = torch.arange(12 * rows, device=text_model.device).reshape(rows, 12)
        return text_model(input_ids=ids).last_hidden_state


def close(one, other):
    return torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
def run_mounted(text_model, lora, **options):
    with lora.mounted(**options):
        return run(text_model)


def test_merged_equals_unmerged_and_the_base_keeps_its_weights(text_model, lora):
    base, weights = run(text_model), {name: value.clone() for name, value in text_model.state_dict().items()}
    modules = [(name, id(part)) for name, part in text_model.named_modules()]
    plain, merged = (run_mounted(text_model, lora, merged=merged) for merged in (False, True))
    assert close(merged, plain) and not torch.equal(merged, plain) and not close(merged, base)
    assert [(name, id(part)) for name, part in text_model.named_modules()] == modules
    assert all(torch.equal(value, weights[name]) for name, value in text_model.state_dict().items())
    assert torch.equal(run(text_model), base)


@pytest.mark.parametrize("what", ["lora", "base", "loaded", "dtype"])
def test_copies_follow_lora_and_the_base(text_model, lora, what):
    before = run_mounted(text_model, lora, merged=True)
    assert torch.equal(run_mounted(text_model, lora, merged=True), before)
    with torch.no_grad():
        if what == "lora":
            for parameter in lora.parameters():
                parameter.mul_(2)
        elif what == "base":
            text_model.layers[0].mlp.up_proj.weight.mul_(2)
        elif what == "loaded":
            lora.load_state_dict({name: value * 2 for name, value in lora.state_dict().items()})
        else:
            text_model.double()
    after = run_mounted(text_model, lora, merged=True)
    assert not torch.equal(after, before)
    assert close(after, run_mounted(text_model, lora))


def test_lora_on_some_rows_is_not_merged_and_leaves_the_others_bit_identical(text_model, lora):
    base = run(text_model, 2)
    with torch.no_grad(), lora.mounted(merged=True):
        merged = run(text_model, 2)
        with lora.mounted(rows=[True, False], merged=True):
            mixed = run(text_model, 2)
        assert torch.equal(run(text_model, 2), merged)
        with lora.mounted(False, merged=True):
            assert torch.equal(run(text_model, 2), base)
    assert torch.equal(mixed[1], base[1]) and close(mixed[0], merged[0])


@pytest.mark.parametrize("entered_with_gradients", [True, False])
def test_gradients_reach_lora_where_merged_was_asked_for(text_model, lora, entered_with_gradients):
    ids = torch.arange(12, device=text_model.device)[None]
    with torch.set_grad_enabled(entered_with_gradients), lora.mounted(merged=True):
        run(text_model)
        with torch.enable_grad():
            text_model(input_ids=ids).last_hidden_state.sum().backward()
        with torch.no_grad():
            for parameter in lora.parameters():
                parameter -= 0.1 * parameter.grad
        trained = run(text_model)
    assert close(trained, run_mounted(text_model, lora))


def test_a_linear_that_somebody_hooked_is_asked_itself(text_model, lora):
    seen = []
    text_model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    plain = run_mounted(text_model, lora)
    assert close(run_mounted(text_model, lora, merged=True), plain) and len(seen) == 2


def test_an_exception_while_merging_leaves_the_base(text_model, lora, monkeypatch):
    base, plain = run(text_model), run_mounted(text_model, lora)
    with monkeypatch.context() as patch:
        made = []

        def fails_later(layer):
            made.append(layer)
            if len(made) == 4:
                raise MemoryError
            return layer.base_layer.weight.detach() * 0

        patch.setattr(lora._weights, "of", fails_later)
        with pytest.raises(MemoryError):
            run_mounted(text_model, lora, merged=True)
    assert torch.equal(run(text_model), base)
    assert torch.equal(run_mounted(text_model, lora), plain)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=str
)
def test_merged_lora_gives_the_logits_of_plain_peft(tiny_base, processor, ask, tmp_path, dtype, tolerance):
    base = copy.deepcopy(tiny_base).to(dtype)
    safety = attach_as_trained(copy.deepcopy(base), processor, merge_lora=True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for parameter in safety.lora.parameters():
            parameter.normal_(std=0.1)
    inputs = ask(("what is this?", [1]))
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    with torch.no_grad():
        own = base(**inputs).logits.float()
        with safety.lora_mounted(True):
            got = safety.backbone.model(**inputs).logits.float()
        expected = PeftModel.from_pretrained(base, folder / "lora").eval()(**inputs).logits.float()
    assert (got - expected).abs().max() < tolerance * (expected - own).abs().max()


def test_a_guarded_call_answers_alike_and_copies_are_freed_when_switched_off(guarded, model, tiny_base, ask):
    inputs = ask(*ROWS)
    expected = model.generate(**inputs, **NEW)
    guarded.merge_lora = True
    assert torch.equal(model.generate(**inputs, **NEW), expected)
    assert guarded.lora._weights._made
    assert torch.equal(model.generate(**inputs, **NEW, safety=False), tiny_base.generate(**inputs, **NEW))
    guarded.merge_lora = False
    assert not guarded.lora._weights._made
    assert torch.equal(model.generate(**inputs, **NEW), expected)
