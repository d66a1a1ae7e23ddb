"""LoRA that is in the tree only while it is wanted."""

import copy
import threading

import pytest
import torch
from guard_cases import attach_as_trained
from peft import PeftModel

from safety_modules.config import LoraSettings
from safety_modules.errors import AdapterError, AttachError
from safety_modules.mount.lora import Lora

pytestmark = pytest.mark.matrix


@pytest.fixture
def text_model(model):
    return model.model.language_model


@pytest.fixture
def lora(text_model):
    lora = Lora(text_model, LoraSettings(r=2, dropout=0.5))
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(std=0.3)
    return lora


def run(text_model):
    with torch.no_grad():
        return text_model(input_ids=torch.arange(12, device=text_model.device)[None]).last_hidden_state


def tree(module):
    return [(name, type(part), part.training) for name, part in module.named_modules()]


def test_unmounted_lora_leaves_no_trace_in_the_tree(text_model):
    for number, parameter in enumerate(text_model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    text_model.layers[1].train()
    before = tree(text_model), list(vars(text_model)), [p.requires_grad for p in text_model.parameters()]
    keys = list(text_model.state_dict())
    Lora(text_model, LoraSettings())
    assert (tree(text_model), list(vars(text_model))) == before[:2]
    assert [p.requires_grad for p in text_model.parameters()] == before[2]
    assert list(text_model.state_dict()) == keys


def test_mounted_changes_the_output_and_unmounted_is_bit_identical(text_model, lora):
    base = run(text_model)
    with lora.mounted():
        assert not torch.allclose(run(text_model), base)
    assert torch.equal(run(text_model), base)


def test_inference_computes_what_training_does(text_model, lora):
    ids = torch.arange(12, device=text_model.device)[None]
    with lora.mounted():
        trained = text_model(input_ids=ids).last_hidden_state
        assert trained.requires_grad
        assert torch.allclose(run(text_model), trained, atol=1e-5)


def test_inference_follows_lora_while_it_is_mounted(text_model, lora):
    with lora.mounted(), torch.no_grad():
        for parameter in lora.parameters():
            parameter.data = parameter.data * 2  # what no counter sees
        changed = run(text_model)
    with lora.mounted():
        assert torch.equal(run(text_model), changed)
    with lora.mounted(), torch.enable_grad():
        trained = text_model(input_ids=torch.arange(12, device=text_model.device)[None]).last_hidden_state
    assert torch.allclose(changed, trained, atol=1e-4)


def run_batch(text_model):
    with torch.no_grad():
        return text_model(input_ids=torch.arange(36).reshape(3, 12)).last_hidden_state


def test_lora_on_some_rows_leaves_the_others_bit_identical(text_model, lora):
    base = run_batch(text_model)
    with lora.mounted():
        adapted = run_batch(text_model)
    with lora.mounted(rows=[True, False, True]):
        mixed = run_batch(text_model)
        with lora.mounted(False):
            assert torch.equal(run_batch(text_model), base)
        with lora.mounted():
            assert torch.equal(run_batch(text_model), adapted)
        assert torch.equal(run_batch(text_model), mixed)
    assert torch.equal(mixed[1], base[1])
    assert torch.equal(mixed[[0, 2]], adapted[[0, 2]])
    assert torch.equal(run_batch(text_model), base)
    with lora.mounted(rows=[True, False]), pytest.raises(RuntimeError):
        run_batch(text_model)  # never rows that were not named


class Interrupted(list):
    """A list that is interrupted, as by Ctrl-C, in the middle of the n-th run through it."""

    def __init__(self, items, at):
        super().__init__(items)
        self.runs, self.at = 0, at

    def __iter__(self):
        self.runs += 1
        here = self.runs
        for number, item in enumerate(super().__iter__()):
            if number == 3 and here == self.at:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("at", [1, 2])  # while looking whether all is in place, while swapping
def test_an_interrupt_while_mounting_leaves_nothing_mounted(text_model, lora, monkeypatch, at):
    base, before = run(text_model), tree(text_model)
    monkeypatch.setattr(lora, "_slots", Interrupted(lora._slots, at))
    with pytest.raises(KeyboardInterrupt), lora.mounted():
        raise AssertionError("not reached")
    assert tree(text_model) == before and lora._slots.runs >= at
    assert torch.equal(run(text_model), base)


def test_nested_blocks_restore_what_was_mounted_before(text_model, lora):
    base = run(text_model)
    with lora.mounted():
        adapted = run(text_model)
        with lora.mounted(False):
            assert torch.equal(run(text_model), base)
        assert torch.equal(run(text_model), adapted)
    assert torch.equal(run(text_model), base)


def test_an_exception_unmounts(text_model, lora):
    before = tree(text_model)
    with pytest.raises(RuntimeError), lora.mounted():
        raise RuntimeError
    assert tree(text_model) == before


def test_mounted_holds_the_lock_against_other_threads(lora):
    entered = threading.Event()

    def other():
        with lora.mounted(False):
            entered.set()

    with lora.mounted():
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.05)
    thread.join(5)
    assert entered.is_set()


def test_parameters_are_lora_only_and_trainable(text_model, lora):
    base = {id(p) for p in text_model.parameters()}
    named = dict(lora.named_parameters())
    assert len(named) == 2 * 7 * 2  # layers x linears x (A, B)
    assert all(p.requires_grad and id(p) not in base for p in named.values())


def test_dropout_is_off_until_train_is_called(text_model, lora):
    assert not lora.training
    with lora.mounted():
        assert torch.equal(run(text_model), run(text_model))
        lora.train()
        assert not torch.equal(run(text_model), run(text_model))
        lora.train(False)


def test_tensors_survive_a_round_trip(text_model, lora):
    with lora.mounted():
        expected = run(text_model)
    state = copy.deepcopy(lora.state_dict())
    other = Lora(text_model, lora.settings)
    other.load_state_dict(state)
    with other.mounted():
        assert torch.equal(run(text_model), expected)


def test_every_wrong_tensor_is_named_before_anything_is_copied(lora):
    state = copy.deepcopy(lora.state_dict())
    before = copy.deepcopy(state)
    first, second, *_ = state
    state[first] = state[first][:1]
    del state[second]
    state["layers.9.x.lora_A.weight"] = torch.zeros(1)
    with pytest.raises(AdapterError) as error:
        lora.load_state_dict(state)
    assert len(error.value.problems) == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in lora.state_dict().items())


@pytest.mark.parametrize("targets", [("q_proj", "nonsense"), ("nonsense",)])
def test_unknown_target_is_refused_and_leaves_nothing(text_model, targets):
    before = tree(text_model), list(vars(text_model)), [p.requires_grad for p in text_model.parameters()]
    with pytest.raises(AttachError, match="nonsense"):
        Lora(text_model, LoraSettings(target_modules=targets))
    after = tree(text_model), list(vars(text_model)), [p.requires_grad for p in text_model.parameters()]
    assert after == before


def test_a_second_lora_while_one_is_mounted_is_refused(text_model, lora):
    with lora.mounted(), pytest.raises(AttachError, match="has it already"):
        Lora(text_model, LoraSettings())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_saved_lora_loads_in_plain_peft_with_the_same_logits(tiny_base, processor, ask, tmp_path, dtype):
    base = copy.deepcopy(tiny_base).to(dtype)
    safety = attach_as_trained(copy.deepcopy(base), processor)
    with torch.no_grad():
        for parameter in safety.lora.parameters():
            parameter.normal_(std=0.1)
    inputs = ask(("what is this?", [1]))
    folder = safety.save_pretrained(tmp_path / "adapter", dtype="float32")
    with safety.lora.mounted(), torch.no_grad():
        expected = safety.backbone.model(**inputs).logits
    peft_model = PeftModel.from_pretrained(copy.deepcopy(base), folder / "lora").eval()
    with torch.no_grad():
        assert torch.equal(peft_model(**inputs).logits, expected)
        assert not torch.equal(base(**inputs).logits, expected)
