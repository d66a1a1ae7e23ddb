"""`prepare`: the guarded call up to the language model, for decoding loops of one's own."""

import threading
from pathlib import Path

import pytest
import torch
from guard_cases import CLEAN, IMAGES, NEW, RISKY, ROWS, answers, greedy_by_hand, rows_of

from safety_modules.errors import GuardError, PromptError
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

EIGHT = {"max_new_tokens": 8, "do_sample": False}


@pytest.mark.parametrize("leave_between", [False, True])
def test_a_greedy_loop_by_hand_equals_guarded_generate(guarded, model, ask, leave_between):
    inputs = ask(*ROWS)
    prepared = guarded.prepare(**inputs)
    got = greedy_by_hand(model, prepared, 6, leave_between)
    expected = guarded.generate(**inputs, **NEW, output_logits=True, batch_mode="merged")
    assert torch.equal(got, answers(expected.sequences, inputs))
    assert prepared.verdicts == expected.verdicts and prepared.image_verdicts == expected.image_verdicts
    assert prepared.rows == list(range(len(ROWS))) and prepared.refusals == {}
    assert [row for row, steered in zip(prepared.rows, prepared.steered, strict=True) if steered] == RISKY
    with prepared.running():
        first = model(**prepared.inputs).logits[:, -1]
    torch.testing.assert_close(first, expected.logits[0])  # generate computes the last position's alone


def test_embeddings_for_an_engine_elsewhere_are_what_the_language_model_sees(guarded, model, ask):
    prepared, seen = guarded.prepare(**ask(*ROWS)), []
    keep = lambda _module, _args, given: seen.append(given["inputs_embeds"])  # noqa: E731
    hook = guarded.backbone.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    with prepared.running():
        model(**prepared.inputs)
    hook.remove()
    for row, mask, own in zip(seen[0], prepared.attention_mask.bool(), prepared.embeddings, strict=True):
        assert torch.equal(row[mask], own)


def test_rows_may_be_repeated_as_for_beams(guarded, model, ask):
    prepared = guarded.prepare(**ask(*ROWS))
    with prepared.running():
        once = model(**prepared.inputs)
    with prepared.running(repeats=2):
        ids = {name: value.repeat_interleave(2, 0) for name, value in prepared.inputs.items() if name != "pixel_values"}
        ids["input_ids"], cache = once.logits[:, -1:].argmax(-1).repeat_interleave(2, 0), once.past_key_values
        cache.batch_repeat_interleave(2)
        ids["attention_mask"] = torch.cat([ids["attention_mask"], torch.ones_like(ids["input_ids"])], 1)
        ids["position_ids"] = ids["position_ids"][:, -1:] + 1
        twice = model(**ids, past_key_values=cache).logits
    assert torch.allclose(twice[::2], twice[1::2], atol=1e-5)  # rows of one batch agree up to rounding
    model.generation_config.min_new_tokens = 8
    expected = guarded.generate(**ask(*ROWS), **EIGHT, output_logits=True, batch_mode="merged").logits[1]
    assert torch.allclose(twice[::2, -1], expected, atol=1e-4)


def test_judging_runs_the_tower_once_and_no_language_model(guarded, model, ask, tower_runs, text_runs):
    tower_runs.clear(), text_runs.clear()
    prepared = guarded.prepare(**ask(*ROWS))
    assert tower_runs == [IMAGES] and text_runs == []
    greedy_by_hand(model, prepared, 2)
    assert tower_runs == [IMAGES] and len(text_runs) == 2


@pytest.mark.parametrize("off", [False, True])
def test_a_batch_without_risk_or_switched_off_is_the_bases_bit_for_bit(guarded, model, tiny_base, ask, off):
    inputs = ask(*ROWS) if off else ask(*(ROWS[row] for row in CLEAN))
    prepared = guarded.prepare(**inputs, safety=not off)
    assert torch.equal(prepared.input_ids, inputs["input_ids"]) and not any(prepared.steered)
    with prepared.running():
        got = model(**prepared.inputs).logits
    with torch.no_grad():
        assert torch.equal(got, tiny_base(**inputs, position_ids=prepared.position_ids).logits)


def test_switched_off_everywhere_is_switched_off_here(guarded, ask):
    inputs = ask(ROWS[0], ROWS[5])
    with guarded.disabled():
        assert guarded.prepare(**inputs).verdicts == [None, None]
    assert guarded.prepare(**inputs, safety=[False, True]).steered == [False, True]


def test_refused_rows_are_texts_and_not_in_the_batch(guarded, model, tiny_base, ask):
    inputs, policy = ask(ROWS[0], ROWS[1]), Policy.default().with_rule("illegal", action="refuse")
    prepared = guarded.prepare(**inputs, policy=policy)
    assert prepared.refusals == {0: policy.refusal_text("illegal", "high")} and prepared.rows == [1]
    with prepared.running():
        got = model(**prepared.inputs).logits
    with torch.no_grad():  # the padding of the caller's batch is kept
        expected = tiny_base(**rows_of(inputs, [1], [1]), position_ids=prepared.position_ids).logits
    assert torch.equal(got, expected)
    alone = guarded.prepare(**ask(ROWS[0]), policy=policy)
    assert alone.rows == [] and len(alone.input_ids) == 0 and list(alone.refusals) == [0]


def test_outside_the_block_the_model_is_the_base(guarded, model, tiny_base, ask):
    inputs = ask(ROWS[0])
    prepared = guarded.prepare(**inputs)
    with pytest.raises(RuntimeError, match="in the middle"), prepared.running():
        model(**prepared.inputs)
        raise RuntimeError("in the middle")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, tiny_base(**inputs).logits)


def test_other_guarded_calls_wait_until_the_block_is_left(guarded, model, ask):
    inputs, seen = ask(ROWS[0]), []
    expected = model.generate(**inputs, **NEW)
    thread = threading.Thread(target=lambda: seen.append(model.generate(**inputs, **NEW)))
    prepared = guarded.prepare(**ask(*ROWS))
    with prepared.running():
        thread.start()
        model(**prepared.inputs)
        assert seen == []
    thread.join()
    assert torch.equal(seen[0], expected)


def test_the_loop_in_the_documentation_gives_the_guarded_answers(guarded, model, processor, ask):
    page = (Path(__file__).parents[3] / "docs" / "guarded-calls.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    (code,) = [block for block in blocks if "safety.prepare(" in block]
    inputs, policy = ask(*ROWS), guarded.policy
    guarded.policy = policy.with_rule("illegal", action="refuse")
    names = {"safety": guarded, "model": model, "processor": processor, "inputs": inputs, "torch": torch}
    exec(compile(code, "guarded-calls.md", "exec"), names)  # noqa: S102 (our own page)
    expected = model.generate(**inputs, **EIGHT)
    texts = processor.batch_decode(answers(expected, inputs), skip_special_tokens=True)
    refusal = guarded.policy.refusal_text("illegal", "high")
    assert names["answers"] == {row: refusal if row in (0, 6) else text for row, text in enumerate(texts)}


def test_unclear_calls_are_refused(guarded, ask, model):
    inputs = ask(ROWS[0])
    with pytest.raises(GuardError, match=r"not prepared: .*max_new_tokens"):
        guarded.prepare(**inputs, max_new_tokens=3)
    with pytest.raises(PromptError, match="images and prompts"):
        guarded.prepare(input_ids=inputs["input_ids"])
    prepared = guarded.prepare(**inputs)
    guarded.detach()
    with pytest.raises(GuardError, match="detached"), prepared.running():
        model(**prepared.inputs)
