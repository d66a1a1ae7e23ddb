"""Whether a policy is looser than another, against what both do to every head output there may be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_modules.errors import PolicyError
from safety_modules.policy import Policy
from safety_modules.policy.looser import looser
from safety_modules.policy.scores import Judgements
from safety_modules.policy.verdict import ACTIONS
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

TYPES = ("illegal", "privacy", "insults")
LEVELS = ("safe", "low", "high")
TAXONOMY = Taxonomy(types=TYPES, levels=LEVELS)
CALIBRATED = {"illegal": -0.5, "privacy": 0.0, "insults": 0.4}
WORDS = {"low": "Careful.", "high": "Decline."}
CUTS = (-1.0, 0.0, 1.0, None)  # None = the adapter's calibrated threshold


def policy(rules, **more):
    given = {type: {"action": action, "threshold": cut} for type, (action, cut) in zip(TYPES, rules, strict=True)}
    return Policy.model_validate({"rules": given, "wording": WORDS, **more})


def pictures(added=0):
    """Head outputs of all kinds: one sure type, several, equal ones with any share of clean, none.

    The last type is beside them if it was added later.
    """
    draw = np.random.default_rng(0)
    types = np.concatenate([draw.dirichlet([share] * 3 + [clean], 400)
                            for share, clean in ((0.2, 0.2), (1, 1), (30, 3), (200, 1e-3))])  # fmt: skip
    risky = draw.random((3000, 1))
    types = np.concatenate([types, np.concatenate([draw.dirichlet([2000] * 3, 3000) * risky, 1 - risky], 1)])
    if added:
        rest = types[:, [0, 1, 3]]
        types[:, [0, 1, 3]] = rest / rest.sum(1, keepdims=True)
        types[:, 2] = draw.random(len(types))
    levels = np.tile([0.2, 0.3, 0.5], (len(types), 1))
    return Judgements(types, levels, np.repeat(levels[:, None], added, 1), np.zeros((len(types), 3, 0)))


PICTURES = {added: pictures(added) for added in (0, 1)}
rule = st.tuples(st.sampled_from(ACTIONS), st.sampled_from(CUTS))
rules = st.tuples(rule, rule, rule)


def actions(one, added):
    return one.decisions(PICTURES[added], TAXONOMY, CALIBRATED).action


@settings(max_examples=150, deadline=None)
@given(rules, rules, st.sampled_from([0, 1]))
def test_what_is_not_looser_never_does_less(asked, operators, added):
    """The promise: no picture is treated more mildly than the operator's policy treats it."""
    new, old = policy(asked), policy(operators)
    if not looser(new, old, TAXONOMY, CALIBRATED, len(TYPES) - added):
        assert (actions(new, added) >= actions(old, added)).all()


@settings(max_examples=150, deadline=None)
@given(rules, rules)
def test_what_is_looser_does_less_to_some_picture(asked, operators):
    """No policy is called looser for nothing: some picture shows it."""
    new, old = policy(asked), policy(operators)
    if looser(new, old, TAXONOMY, CALIBRATED):
        assert (actions(new, 0) < actions(old, 0)).any()


def test_a_rule_that_begins_to_fire_may_take_a_picture_from_a_stronger_one():
    """Every rule alone is at least as strict, and yet a refusal becomes a line in a log."""
    old = policy([("allow", None), ("refuse", 0.0), ("refuse", 0.0)])
    new = policy([("log", -1.0), ("refuse", 0.0), ("refuse", 0.0)])
    assert (actions(new, 0) < actions(old, 0)).any()
    assert any("may win over privacy" in reason for reason in looser(new, old, TAXONOMY, CALIBRATED))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"rules": {"privacy": {"action": "refuse"}}}, False),
        ({"rules": {"privacy": {"threshold": -3}}}, False),
        ({"rules": {type: {"action": "refuse", "threshold": "1 %"} for type in DEFAULT_TAXONOMY.types}}, False),
        ({"level_threshold": 0.25}, False),
        ({"default_threshold": -2.0}, False),
        ({"default_threshold": 2.0}, True),
        ({"level_threshold": 0.75}, True),
        ({"rules": {"privacy": {"action": "log"}}}, True),
        ({"rules": {"privacy": {"threshold": "99 %"}}}, True),
        ({"rules": {"privacy": {"reason": "Nothing."}}}, True),
        ({"rules": {"privacy": {"wording": {"high": "Answer freely."}}}}, True),
        ({"refusal": "Sure."}, True),
        ({"wording": {**Policy.default().wording, "high": "Answer freely."}}, True),
        ({}, False),
    ],
)
def test_changes_of_the_default_policy(change, found):
    old = Policy.default()
    assert bool(looser(old.changed(change), old, DEFAULT_TAXONOMY, {})) is found


@pytest.mark.parametrize(
    "change",
    [
        {"rules": {"nothing": {"action": "hint"}}},
        {"rules": {"privacy": {"action": "shout"}}},
        {"rules": {"privacy": {"threshold": 0.5}}},
        {"rules": {"privacy": []}},
        {"rules": None},
        {"rules": {"privacy": {"threshold": float("nan")}}},
        {"default_threshold": 0.5},
        {"level_threshold": 2},
        {"unknown": 1},
        {"wording": {"high": "{0.__class__}"}},
    ],
)
def test_changes_that_are_no_policy_are_refused(change):
    with pytest.raises(PolicyError):
        Policy.default().changed(change)


def test_a_changed_policy_has_another_digest_and_leaves_the_first_as_it_was():
    old = Policy.default()
    before = old.digest
    new = old.changed({"rules": {"privacy": {"action": "refuse"}}})
    assert new.rules["privacy"].action == "refuse" and new.rules["privacy"].title == old.rules["privacy"].title
    assert new.rules["illegal"] == old.rules["illegal"]
    assert old.digest == before != new.digest
    assert Policy.default().digest == before
