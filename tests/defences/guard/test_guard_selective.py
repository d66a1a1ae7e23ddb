"""Mode `selective`: the verdict says which rows the defences behind the guard answer."""

import pytest
import torch
from guard_cases import CLEAN, NEW, RISKY, ROWS, answers, rows_of

from safety_modules.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.cmrm import CmrmSettings
from safety_modules.defences.registry import make
from safety_modules.errors import ConfigError

LOGITS = NEW | {"return_dict_in_generate": True, "output_logits": True}
TEXTS = [2]


@pytest.fixture
def inner(guarded):
    return make(guarded.backbone, CmrmSettings(alpha=4))


@pytest.fixture
def safety(guarded, inner):
    guard, policy = guarded.guard, guarded.policy
    guarded.detach()
    guard.mode = "selective"
    safety = SafetyAttachment(guard.backbone, [guard, inner], policy)
    safety.install()
    return safety


@pytest.fixture
def alone(safety, inner, ask):
    """What the inner defence answers to all rows, without a guard in front."""
    with safety.disabled("guard"):
        return safety.generate(**ask(*ROWS), **LOGITS)


def test_clean_rows_are_the_bases_bit_for_bit_and_risky_ones_the_inner_defences(safety, tiny_base, alone, ask):
    inputs = ask(*ROWS)
    found = safety.generate(**inputs, **LOGITS)
    base = tiny_base.generate(**rows_of(inputs, CLEAN, [1, 4]), **LOGITS)
    for mine, theirs in zip(found.logits, base.logits, strict=False):
        assert torch.equal(mine[CLEAN], theirs)
    shown = [row for row in RISKY + CLEAN if row not in TEXTS]
    first = tiny_base.generate(**inputs, **LOGITS).logits[0]
    assert (alone.logits[0][shown] - first[shown]).abs().amax(1).min() > 1e-3, (
        "the inner defence acts where it is asked"
    )
    assert torch.allclose(found.logits[0][RISKY], alone.logits[0][RISKY], atol=1e-4)
    assert [found.verdicts[row].flagged for row in RISKY] == [True] * 4
    assert found.refusals == [None] * len(ROWS)


def test_a_risky_row_that_nothing_behind_it_is_on_for_gets_the_policys_refusal(safety, processor, alone, ask):
    inputs, off = ask(*ROWS), [row != RISKY[1] for row in range(len(ROWS))]
    found = safety.generate(**inputs, **LOGITS, safety={"cmrm": off})
    assert [row for row, text in enumerate(found.refusals) if text] == [RISKY[1]]
    others = [row for row in RISKY if row != RISKY[1]]
    assert torch.allclose(found.logits[0][others], alone.logits[0][others], atol=1e-4)
    with safety.disabled("cmrm"):
        none = safety.generate(**inputs, **LOGITS)
    assert [row for row, text in enumerate(none.refusals) if text] == RISKY
    texts = processor.batch_decode(answers(none.sequences, inputs)[RISKY], skip_special_tokens=True)
    assert all(
        refusal.startswith(text.strip()[:6]) for refusal, text in zip(filter(None, none.refusals), texts, strict=True)
    )


def test_a_row_that_the_guard_is_off_for_is_the_inner_defences(safety, alone, ask):
    judged = [row not in (1, 3) for row in range(len(ROWS))]
    found = safety.generate(**ask(*ROWS), **LOGITS, safety={"guard": judged})
    assert torch.allclose(found.logits[0][[1, 3]], alone.logits[0][[1, 3]], atol=1e-4)
    assert found.verdicts[1] is None and found.verdicts[0].flagged


def test_a_loop_of_ones_own_gets_the_same(safety, model, ask):
    inputs = ask(*ROWS)
    expected = safety.generate(**inputs, **LOGITS)
    prepared = safety.prepare(**inputs)
    with prepared.running():
        logits = model(**prepared.inputs).logits[:, -1]
    assert torch.allclose(logits, expected.logits[0], atol=1e-4)


def test_what_would_act_on_clean_rows_may_not_stand_in_front(tiny_base, processor):
    with pytest.raises(ConfigError, match="expected the selective guard first, got cmrm, guard"):
        attach_safety(tiny_base, processor, defence=["cmrm", "selective"])
