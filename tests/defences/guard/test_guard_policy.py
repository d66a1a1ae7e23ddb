"""Policies at work: refuse, log, allow, templates, and which of several images drives a row."""

import pytest
import torch
from guard_cases import NEW, ROWS, answers

from safety_modules.defences.guard.guard import route
from safety_modules.errors import PolicyError
from safety_modules.policy import Policy
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pytestmark = pytest.mark.matrix


def test_policy_per_call_switches_one_type_off_and_no_other(guarded, model, tiny_base, ask):
    inputs = ask(ROWS[0], ROWS[5])
    base, both = tiny_base.generate(**inputs, **NEW), model.generate(**inputs, **NEW)
    got = model.generate(**inputs, **NEW, policy=Policy.default().allow("illegal"))
    assert torch.equal(got[0], base[0]) and torch.equal(got[1], both[1])
    with pytest.raises(PolicyError):
        model.generate(**inputs, **NEW, policy=Policy(rules={}))


def test_log_leaves_the_answer_and_flags_it(guarded, tiny_base, ask):
    inputs = ask(ROWS[0], ROWS[1])
    policy = Policy.default().with_rule("illegal", action="log")
    output = guarded.generate(**inputs, **NEW, policy=policy)
    assert torch.equal(output.sequences, tiny_base.generate(**inputs, **NEW))
    assert [v.flagged for v in output.verdicts] == [True, False] and output.verdicts[0].action == "log"


def test_refuse_answers_without_the_language_model(guarded, model, ask, processor, text_runs, tower_runs):
    inputs = ask(ROWS[0])
    policy = Policy.default().with_rule("illegal", action="refuse")
    text_runs.clear(), tower_runs.clear()
    sequences = model.generate(**inputs, max_new_tokens=80, policy=policy)
    assert text_runs == [] and tower_runs == [1]
    answer = processor.decode(answers(sequences, inputs)[0], skip_special_tokens=True).strip()
    assert answer == policy.refusal_text("illegal", "high")
    assert sequences[0, -1] == processor.tokenizer.eos_token_id


def test_a_refused_row_adds_no_run_of_the_language_model(guarded, model, ask, text_runs):
    policy = Policy.default().with_rule("illegal", action="refuse")
    counts = []
    for rows in ([ROWS[1]], [ROWS[0], ROWS[1]]):
        text_runs.clear()
        model.generate(**ask(*rows), max_new_tokens=3, min_new_tokens=3, policy=policy)
        counts.append(len(text_runs))
    assert counts == [3, 3]


def test_refusal_keeps_to_the_callers_limit_and_joins_the_batch(guarded, model, ask, tiny_base, processor):
    inputs = ask(ROWS[0], ROWS[1])
    policy = Policy.default().with_rule("illegal", action="refuse")
    got = answers(model.generate(**inputs, **NEW, policy=policy), inputs)
    words = guarded.backbone.answer_ids(policy.refusal_text("illegal", "high"))
    assert got[0].tolist() == words[:6]
    assert torch.equal(got[1:], answers(tiny_base.generate(**inputs, **NEW), inputs)[1:])
    long = model.generate(**inputs, max_new_tokens=100, do_sample=False, policy=policy)
    assert answers(long, inputs)[0, : len(words)].tolist() == words
    assert set(answers(long, inputs)[0, len(words) :].tolist()) <= {processor.tokenizer.pad_token_id}


def test_sentences_name_type_level_and_probability(guarded, ask, processor):
    policy = Policy.default().with_rule("illegal", action="refuse", refusal="{type}, {level}, p = {probability}.")
    inputs = ask(ROWS[0])
    output = guarded.generate(**inputs, max_new_tokens=80, policy=policy)
    probability = output.verdicts[0].probabilities["illegal"]
    answer = processor.decode(answers(output.sequences, inputs)[0], skip_special_tokens=True).strip()
    assert answer == f"illegal activity, high, p = {probability:.2f}."


def verdict(policy, index=0, level="low", **types):
    types["clean"] = 1 - sum(types.values())
    return policy.decide(
        [types.get(name, 0.0) for name in DEFAULT_TAXONOMY.labels],
        [float(name == level) for name in DEFAULT_TAXONOMY.levels],
        DEFAULT_TAXONOMY,
        image_index=index,
    )


def test_the_most_severe_image_drives_the_row():
    policy = Policy.default().with_rule("privacy", action="refuse").with_rule("fairness", action="log")
    clean, logged = verdict(policy), verdict(policy, fairness=0.99, level="high")
    hinted, refused = verdict(policy, illegal=0.9, level="high"), verdict(policy, privacy=0.6)
    for order in (1, -1):
        assert route([clean, logged, hinted, refused][::order], policy, "gated").verdict is refused
        assert route([clean, logged, hinted][::order], policy, "gated").verdict is hinted
        assert route([clean, logged][::order], policy, "gated").verdict is logged
    assert route([clean, refused], policy, "gated").by == "policy"
    assert route([clean, hinted], policy, "gated").steer.tokens == (False, True)
    assert route([clean, logged], policy, "gated").by == "base"
    assert route([], policy, "always").by == "base"


def test_a_surer_image_of_a_lower_level_does_not_soften_the_words_for_a_higher_one():
    policy = Policy.default()
    mild, severe = verdict(policy, 0, "low", privacy=0.99), verdict(policy, 1, "high", illegal=0.6)
    for order in (1, -1):
        plan = route([mild, severe][::order], policy, "gated")
        assert plan.verdict.image_index == 1
        assert plan.steer.hint == policy.hint("illegal", "high")


def test_of_two_images_of_one_level_the_riskier_drives():
    policy = Policy.default()
    first, second = verdict(policy, 0, "high", privacy=0.7), verdict(policy, 1, "high", illegal=0.9)
    assert route([first, second], policy, "gated").verdict.type == "illegal"
