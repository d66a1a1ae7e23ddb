"""`batch_mode`: split is exact, merged is one batch in which LoRA acts on the risky rows only."""

import copy

import pytest
import torch
from guard_cases import CLEAN, NEW, RISKY, ROWS, attach_as_trained

from safety_modules.attach import attach_safety
from safety_modules.errors import GuardError
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT

pytestmark = pytest.mark.matrix

LOGITS = NEW | {"return_dict_in_generate": True, "output_logits": True}


def test_merged_is_one_run_of_the_language_model_and_split_are_two(guarded, model, ask, text_runs):
    inputs = ask(*ROWS)
    model.generation_config.min_new_tokens = 3  # the base's own: a call that set it would get the policy's text
    text_runs.clear()
    model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert len(text_runs) == 6
    text_runs.clear()
    model.generate(**inputs, max_new_tokens=3, do_sample=False, batch_mode="merged")
    assert len(text_runs) == 3


def test_merged_equals_split_up_to_rounding(guarded, model, ask):
    inputs = ask(*ROWS)
    split, merged = (model.generate(**inputs, **LOGITS, batch_mode=mode) for mode in ("split", "merged"))
    assert torch.equal(merged.sequences, split.sequences)
    assert merged.verdicts == split.verdicts and merged.image_verdicts == split.image_verdicts
    for mine, other in zip(merged.logits, split.logits, strict=True):
        here = ~other.isnan().any(1)  # a part that ended earlier
        assert torch.allclose(mine[here], other[here], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 1, "num_return_sequences": 2}])
def test_lora_never_reaches_the_clean_rows_of_a_merged_batch(guarded, model, tiny_base, ask, options):
    with torch.no_grad():
        for name, parameter in guarded.lora.named_parameters():
            if "lora_B" in name:
                parameter.mul_(50)
    inputs, options = ask(*ROWS), LOGITS | options
    merged, base = model.generate(**inputs, **options, batch_mode="merged"), tiny_base.generate(**inputs, **options)
    n = options.get("num_return_sequences", 1)
    clean = [row * n + i for row in CLEAN for i in range(n)]
    assert torch.equal(merged.sequences[clean], base.sequences[clean])
    per_row = max(n, options.get("num_beams", 1))
    clean = [row * per_row + i for row in CLEAN for i in range(per_row)]
    assert torch.allclose(merged.logits[0][clean], base.logits[0][clean], atol=1e-4)
    risky = [row for row in range(len(ROWS) * per_row) if row not in clean]
    assert (merged.logits[0][risky] - base.logits[0][risky]).abs().amax(1).min() > 0.1


def test_a_merged_batch_with_refused_rows_leaves_them_to_the_policy(guarded, model, ask, text_runs):
    inputs, policy = ask(*ROWS), Policy.default().with_rule("illegal", action="refuse")
    split, merged = (model.generate(**inputs, **NEW, policy=policy, batch_mode=mode) for mode in ("split", "merged"))
    assert torch.equal(merged, split)


def test_the_mode_is_the_attachments_and_may_be_another_one_for_a_call(tiny_base, processor, ask, text_runs):
    model = copy.deepcopy(tiny_base)
    safety = attach_as_trained(model, processor, batch_mode="merged")
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, -LIMIT)
    runs = []
    model.model.language_model.register_forward_pre_hook(lambda module, args: runs.append(1))
    inputs = ask(ROWS[0], ROWS[2])
    model.generate(**inputs, max_new_tokens=1)
    assert len(runs) == 1
    model.generate(**inputs, max_new_tokens=1, batch_mode="split")
    assert len(runs) == 3
    safety.batch_mode = "split"
    safety.generate(**inputs, max_new_tokens=1, batch_mode="merged")
    assert len(runs) == 4


def test_an_unknown_mode_is_an_error(guarded, model, tiny_base, processor, ask):
    with pytest.raises(GuardError, match="expected split or merged, got 'fast'"):
        model.generate(**ask(ROWS[RISKY[0]]), batch_mode="fast")
    with pytest.raises(GuardError, match="no such batch mode"):
        attach_safety(copy.deepcopy(tiny_base), processor, batch_mode="")
