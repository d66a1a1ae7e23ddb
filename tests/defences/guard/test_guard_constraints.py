"""A risky row whose caller vetoes or forces tokens is answered by the policy, never by a model that may not refuse."""

import inspect

import pytest
import torch
from guard_cases import NEW, answers
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, WatermarkingConfig

from safety_modules.backbones.generation import CONSTRAINTS, UNCONSTRAINING, constraints
from safety_modules.policy import Policy

pytestmark = pytest.mark.matrix

RISKY, CLEAN = ("what is this?", [1]), ("what is that?", [5])
GIVEN = {
    "bad_words_ids": [[40]],
    "suppress_tokens": [40, 41],
    "begin_suppress_tokens": [40],
    "sequence_bias": [[[40], -5.0]],
    "logits_processor": LogitsProcessorList([lambda ids, scores: scores]),
    "prefix_allowed_tokens_fn": lambda row, ids: [50, 51],
    "watermarking_config": WatermarkingConfig(bias=50.0),
    "constraints": [object()],
    "force_words_ids": [[40]],
    "forced_bos_token_id": 40,
    "forced_eos_token_id": 40,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 0.2,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "penalty_alpha": 0.9,
    "min_length": 90,
    "min_new_tokens": 5,
    "exponential_decay_length_penalty": (1, 0.1),
    "length_penalty": 5.0,
    "num_beam_groups": 2,
    "diversity_penalty": 9.0,
    "typical_p": 0.1,
    "guidance_scale": 3.0,
    "dola_layers": "high",
    "assistant_ensemble_weight": 0.1,
    "token_healing": True,
    "eos_token_id": 41,
}
FIELDS = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
WAYS = ((True, FIELDS), (False, FIELDS | inspect.signature(GenerationMixin.generate).parameters.keys()))


@pytest.mark.parametrize(
    ("name", "as_config"), [(n, as_config) for as_config, names in WAYS for n in GIVEN if n in names]
)
def test_a_risky_row_is_answered_by_the_policy_and_a_clean_one_as_by_the_base(
    guarded, model, tiny_base, ask, text_runs, name, as_config
):
    value = {name: GIVEN[name]}
    options = NEW | ({"generation_config": GenerationConfig(**value)} if as_config else value)
    risky, clean = ask(RISKY), ask(CLEAN)
    text_runs.clear()
    output = guarded.generate(**risky, **options)
    words = guarded.backbone.answer_ids(Policy.default().refusal_text("illegal", "high"))
    assert answers(output.sequences, risky)[0].tolist() == words[:6] and text_runs == []
    assert constraints(model, options) == [name]
    try:
        wanted = tiny_base.generate(**clean, **options)
    except Exception:  # an option that needs others beside it: what is asked is only who answers
        return
    assert torch.equal(model.generate(**clean, **options), wanted)


def test_what_the_call_does_not_set_is_no_constraint(model, tiny_base):
    own = model.generation_config
    for given in ({}, NEW, {"generation_config": GenerationConfig(**NEW)}, {"generation_config": own}):
        assert constraints(model, given) == []
    assert constraints(model, {"repetition_penalty": 1.0, "suppress_tokens": [], "min_new_tokens": 0}) == []
    assert constraints(model, {"eos_token_id": [int(own.eos_token_id), 41]}) == []
    own.repetition_penalty = 1.2  # the base's own, whoever asks
    assert constraints(model, {"generation_config": own}) == constraints(model, {"repetition_penalty": 1.2}) == []
    assert constraints(model, {"repetition_penalty": 1.3}) == ["repetition_penalty"]


def test_every_option_of_this_transformers_is_known_and_a_new_one_counts_as_a_constraint(model, monkeypatch):
    known = CONSTRAINTS.keys() | UNCONSTRAINING | {"eos_token_id"}
    assert known >= FIELDS, f"decide what these can do to a refusal: {sorted(FIELDS - known)}"
    assert not CONSTRAINTS.keys() & UNCONSTRAINING and GIVEN.keys() == CONSTRAINTS.keys() | {"eos_token_id"}

    class Newer(GenerationConfig):
        def __init__(self, **options):
            super().__init__(**options)
            self.forbid_words = options.get("forbid_words")

    monkeypatch.setattr("safety_modules.backbones.generation.GenerationConfig", Newer)
    assert constraints(model, {"forbid_words": ["sorry"]}) == ["forbid_words"]


def test_a_risk_that_is_only_logged_or_switched_off_is_answered_as_by_the_base(guarded, model, tiny_base, ask):
    inputs, options = ask(RISKY), NEW | {"suppress_tokens": [40, 41]}
    for policy in (Policy.default().allow("illegal"), Policy.default().with_rule("illegal", action="log")):
        assert torch.equal(model.generate(**inputs, **options, policy=policy), tiny_base.generate(**inputs, **options))
