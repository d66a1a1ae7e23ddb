"""One model, many threads, and calls that fail in the middle: every call as if it were alone."""

import random
import threading

import pytest
import torch
from guard_cases import NEW, ROWS, Recorder, greedy_by_hand
from transformers import StoppingCriteria, StoppingCriteriaList

from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix


class Stop(Exception):
    pass


def fail(*args, **kwargs):
    raise Stop


def failing(call):
    try:
        call()
    except Stop:
        return "failed"
    return "went through"


def all_kinds_of_calls(safety, model, ask):
    """Calls with different policies and toggles; each gives something that can be compared."""
    two, one, three = ask(ROWS[0], ROWS[1]), ask(ROWS[5]), ask(ROWS[0], ROWS[2], ROWS[3])
    short = {"max_new_tokens": 2, "do_sample": False}
    refuse, allow = Policy.default().with_rule("illegal", action="refuse"), Policy.default().allow("illegal")

    def disabled():
        with safety.disabled():
            return model.generate(**two, **short)

    return [
        lambda: model.generate(**two, **short),
        lambda: model.generate(**two, **short, batch_mode="merged"),
        lambda: model.generate(**two, **short, policy=refuse),
        lambda: model.generate(**two, **short, policy=allow),
        lambda: model.generate(**two, **short, safety=False),
        lambda: model.generate(**three, **short, safety=[False, True, True]),
        lambda: model.generate(**one, **short),
        lambda: model.generate(**one, **short, num_beams=2),
        lambda: safety.generate(**three, **short, policy=refuse, batch_mode="merged").verdicts,
        lambda: safety.classify(pixel_values=two["pixel_values"], questions="why?"),
        lambda: greedy_by_hand(model, safety.prepare(**two), 2),
        lambda: failing(lambda: model.generate(**two, **short, prefix_allowed_tokens_fn=fail)),
        disabled,
    ]


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("calls", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_eight_threads_get_the_sequential_answers(guarded, model, tiny_base, ask, calls):
    kinds = all_kinds_of_calls(guarded, model, ask)
    expected = [call() for call in kinds]
    assert len({str(value) for value in expected[:6]}) > 3  # policies and toggles do matter here
    wrong, done = [], []

    def work(number):
        order = random.Random(number)
        for _ in range(calls):
            kind = order.randrange(len(kinds))
            try:
                if not same(kinds[kind](), expected[kind]):
                    wrong.append((number, kind))
            except Exception as error:
                wrong.append((number, kind, error))
            done.append(kind)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(done) == 8 * calls
    assert list(model.state_dict()) == list(tiny_base.state_dict())


class FailsLater(StoppingCriteria):
    """At the third token."""

    def __init__(self):
        self.steps = 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        return fail() if self.steps == 3 else torch.zeros(len(input_ids), dtype=torch.bool)


class FailingStreamer(Recorder):
    def put(self, value):
        super().put(value)
        if len(self.values) == 3:
            fail()


FAILURES = {
    "vision tower": lambda safety, patch: patch.setattr(safety.backbone.model.model.vision_tower, "forward", fail),
    "head": lambda safety, patch: patch.setattr(type(safety.modules), "forward", fail),
    "hint": lambda safety, patch: patch.setattr(safety.backbone, "insert_hint", fail),
    "one linear's LoRA": lambda safety, patch: patch.setattr(safety.lora._slots[-1].adapted, "forward", fail),
    "lm_head": lambda safety, patch: patch.setattr(safety.backbone.model.lm_head, "forward", fail),
    "stitching": lambda safety, patch: patch.setattr("safety_modules.defences.call.stitch", fail),
    "third token": lambda safety, patch: {"stopping_criteria": StoppingCriteriaList([FailsLater()])},
    "streamer": lambda safety, patch: {"streamer": FailingStreamer()},
}


@pytest.mark.parametrize("batch_mode", ["split", "merged"])
@pytest.mark.parametrize("where", FAILURES)
def test_a_call_that_fails_leaves_no_trace(guarded, model, tiny_base, ask, monkeypatch, where, batch_mode):
    inputs = ask(ROWS[0]) if where == "streamer" else ask(*ROWS)
    model.generate(**inputs, **NEW, batch_mode=batch_mode)  # transformers adds hooks of its own at the first call
    tree = [(name, id(part)) for name, part in model.named_modules()]
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules()]
    layers = [slot.adapted for slot in guarded.lora._slots]
    scales = [dict(layer.scaling) for layer in layers]
    with monkeypatch.context() as patch:
        options = FAILURES[where](guarded, patch) or {}
        with pytest.raises(Stop):
            model.generate(**inputs, **NEW, **options, batch_mode=batch_mode)
    assert [(name, id(part)) for name, part in model.named_modules()] == tree
    assert [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules()] == hooks
    assert [layer.scaling for layer in layers] == scales
    assert torch.is_grad_enabled()
    other = ask(ROWS[1])
    with torch.no_grad():  # neither LoRA nor planned features are left
        assert torch.equal(model(**other).logits, tiny_base(**other).logits)
    free = []

    def take_the_lock():
        free.append(guarded.backbone.lock.acquire(blocking=False))
        guarded.backbone.lock.release()

    thread = threading.Thread(target=take_the_lock)
    thread.start()
    thread.join()
    assert free == [True]


@pytest.mark.parametrize("where", ["head", "third token"])
def test_calls_after_a_failed_one_are_answered_as_before(guarded, model, tiny_base, ask, monkeypatch, where):
    inputs = ask(*ROWS)
    expected = model.generate(**inputs, **NEW)
    with monkeypatch.context() as patch:
        options = FAILURES[where](guarded, patch) or {}
        with pytest.raises(Stop):
            model.generate(**inputs, **NEW, **options)
    assert torch.equal(model.generate(**inputs, **NEW), expected)
    assert torch.equal(model.generate(**inputs, **NEW, safety=False), tiny_base.generate(**inputs, **NEW))
    assert list(model.state_dict()) == list(tiny_base.state_dict())
