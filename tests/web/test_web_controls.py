"""From controls to a policy: only what somebody moved is changed, and a policy takes every place of every control."""

import pytest

from safety_modules.policy.policy import Policy
from safety_modules.taxonomy import DEFAULT_TAXONOMY
from safety_modules.web.controls import SPAN, RuleShown, Shown, span

POLICY = Policy.default()
CALIBRATED = {type: 3.6770363 + place for place, type in enumerate(DEFAULT_TAXONOMY.types)}
LIMITS = POLICY.limits(DEFAULT_TAXONOMY, CALIBRATED)
BEFORE = Shown.of(POLICY, LIMITS)


def moved(type="illegal", **changes):
    rule = RuleShown(**{**vars(BEFORE.rules[type]), **changes})
    return Shown({**BEFORE.rules, type: rule}, BEFORE.hints, BEFORE.refusal)


def limits_of(shown):
    return POLICY.changed(shown.changes(BEFORE)).limits(DEFAULT_TAXONOMY, CALIBRATED)


def test_what_nobody_moved_is_the_policy_that_was_given():
    assert BEFORE.changes(BEFORE) == {}
    assert POLICY.changed({}).digest == POLICY.digest


@pytest.mark.parametrize("score", [-12.0, -0.5, 0.0, 0.5, 0.99, 1.0, 4.6, 12.0])
def test_a_slider_sets_the_threshold_it_shows_and_no_other(score):
    found = limits_of(moved(threshold=score))
    assert found["illegal"] == pytest.approx(score, abs=1e-6)
    assert {type: limit for type, limit in found.items() if type != "illegal"} == {
        type: limit for type, limit in LIMITS.items() if type != "illegal"
    }


def test_a_switch_takes_one_type_out_and_putting_it_back_changes_nothing():
    found = limits_of(moved(on=False))
    assert set(found) == set(LIMITS) - {"illegal"}
    off = POLICY.allow("illegal")
    before = Shown.of(off, LIMITS)
    assert not before.rules["illegal"].on
    assert Shown.of(POLICY, LIMITS).changes(before) == {"rules": {"illegal": {"action": "hint"}}}


@pytest.mark.parametrize("action", ["log", "hint", "refuse"])
def test_an_action_is_the_rules_and_only_while_it_is_on(action):
    assert POLICY.changed(moved(action=action).changes(BEFORE)).rules["illegal"].action == action
    assert POLICY.changed(moved(action=action, on=False).changes(BEFORE)).rules["illegal"].action == "allow"


def test_words_are_the_policys():
    hints = {**BEFORE.hints, "high": "Do not answer: {type}."}
    policy = POLICY.changed(Shown(BEFORE.rules, hints, "No. {reason}").changes(BEFORE))
    assert policy.hint("illegal", "high") == "Do not answer: illegal activity."
    assert policy.hint("illegal", "low") == POLICY.hint("illegal", "low")
    assert policy.refusal_text("illegal", "high").startswith("No. It could")


def test_sliders_reach_every_threshold():
    assert span(LIMITS) == SPAN
    assert span({"illegal": -15.0}) == 16.0
    assert span({"illegal": 30.0}) == 30.0
