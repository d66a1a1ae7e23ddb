"""Pictures unlike what was trained: what a policy does about them, and what many p-values say together."""

import numpy as np
import pytest

from safety_modules.errors import PolicyError
from safety_modules.policy import Policy
from safety_modules.policy.looser import looser
from safety_modules.policy.outside import LARGE, MOST, Calibrated, outsiders
from safety_modules.policy.scores import Judgements
from safety_modules.taxonomy import DEFAULT_TAXONOMY

LABELS = len(DEFAULT_TAXONOMY.labels)
CLEAN, RISKY = np.eye(LABELS)[-1], np.eye(LABELS)[1] * 0.98 + np.eye(LABELS)[-1] * 0.02
EDGE = 0.01
"""The default significance."""


def judged(*rows: tuple[np.ndarray, float], known: bool = True) -> Judgements:
    """Probabilities of the types and p-values of pictures, whose level is high."""
    types, levels = np.stack([types for types, _ in rows]), np.tile([0.0, 0.0, 0.0, 1.0], (len(rows), 1))
    p_values = np.array([p for _, p in rows]) if known else None
    return Judgements(types, levels, np.zeros((len(rows), 0, 4)), np.zeros((len(rows), 0, 0)), p_values)


def verdicts(policy: Policy, *rows: tuple[np.ndarray, float], **more: bool):
    decisions = policy.decisions(judged(*rows, **more), DEFAULT_TAXONOMY)
    found = [decisions.verdict(row) for row in range(len(rows))]
    assert decisions.severity.tolist() == [one.severity for one in found]
    return found


def test_a_picture_from_outside_is_said_to_be_one_and_nothing_else_follows_by_default():
    strange, known = verdicts(Policy.default(), (CLEAN, EDGE), (CLEAN, 0.011))
    assert (strange.outside, strange.is_outside, strange.action, strange.flagged) == (EDGE, True, "allow", False)
    assert strange.severity == 0 and "unlike what was trained (p = 0.010)" in str(strange)
    assert (known.is_outside, known.action) == (False, "allow") and "unlike" not in str(known)
    assert strange.to_dict()["is_outside"] is True and strange.to_dict()["outside"] == EDGE


def test_verdicts_of_adapters_without_the_part_know_nothing_of_it():
    policy = Policy.default().changed({"outside": "refuse", "outside_significance": 0.99})
    (one,) = verdicts(policy, (CLEAN, 0.0), known=False)
    assert (one.outside, one.is_outside, one.action) == (None, False, "allow")


@pytest.mark.parametrize("action", ["hint", "refuse"])
def test_a_policy_may_act_on_it_and_never_calls_it_a_risk(action):
    policy = Policy.default().changed({"outside": action})
    strange, known, unknown = verdicts(policy, (CLEAN, 0.001), (CLEAN, 0.5), (CLEAN, np.nan))
    assert strange.action == action and not strange.flagged and strange.rule is None and strange.type == "clean"
    assert known.action == unknown.action == "allow" and not unknown.is_outside
    assert strange.severity > known.severity == 0


@pytest.mark.parametrize("rule", ["allow", "log", "hint", "refuse"])
@pytest.mark.parametrize("outside", ["log", "hint", "refuse"])
def test_of_rule_and_outside_the_stronger_wins(rule, outside):
    rules = {type: {"action": rule} for type in DEFAULT_TAXONOMY.types}
    policy = Policy.default().changed({"rules": rules, "outside": outside})
    (one,) = verdicts(policy, (RISKY, 0.001))
    order = ["allow", "log", "hint", "refuse"]
    acts = "allow" if outside == "log" else outside
    assert one.action == max(rule, acts, key=order.index)
    assert one.flagged is (rule != "allow")


@pytest.mark.parametrize(
    "change",
    [{"outside": "allow"}, {"outside_significance": 0}, {"outside_significance": 1}, {"outside_hint": "{type}"}],
)
def test_other_settings_are_refused(change):
    with pytest.raises(PolicyError):
        Policy.default().changed(change)


@pytest.mark.parametrize(
    ("before", "change", "found"),
    [
        ({}, {"outside": "hint"}, False),
        ({"outside": "hint"}, {"outside": "refuse"}, False),
        ({"outside": "hint"}, {"outside_significance": 0.05}, False),
        ({"outside": "hint"}, {"outside": "log"}, True),
        ({"outside": "refuse"}, {"outside": "hint"}, True),
        ({"outside": "refuse"}, {"outside_significance": 0.001}, True),
        ({}, {"outside_significance": 0.001}, False),
        ({"outside": "hint"}, {"outside": "refuse", "outside_significance": 0.001}, True),
        ({}, {"outside_refusal": "Sure."}, True),
        ({}, {"outside_hint": "Answer freely."}, True),
    ],
)
def test_what_does_less_about_it_is_looser(before, change, found):
    old = Policy.default().changed(before)
    assert bool(looser(old.changed(change), old, DEFAULT_TAXONOMY, {})) is found
    assert old.changed(change).digest != old.digest


LIMIT = 2.5
"""The lowest threshold, in units of the benign risks' spread below: few of them lie above it."""


def calibrated(rng: np.random.Generator, count: int = 500, risks: bool = True) -> Calibrated:
    return Calibrated(rng.random(count), rng.normal(size=count if risks else 0), LIMIT)


def chances(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def test_sets_of_the_same_kind_are_called_void_as_seldom_as_promised():
    rng = np.random.default_rng(0)
    for with_risks in (False, True):
        found = [
            outsiders(rng.random(300), EDGE, chances(rng.normal(size=300)), calibrated(rng, risks=with_risks))
            for _ in range(300)
        ]
        assert all(one is not None and one.calibrated == 500 for one in found)
        assert all((one.risk_p is not None) is with_risks for one in found if one is not None)
        assert sum(bool(one.void) for one in found if one is not None) <= 10  # 3 are expected


def test_another_set_is_called_void_and_says_what_that_means():
    rng = np.random.default_rng(0)
    found = outsiders(rng.random(200) ** 3, EDGE, chances(rng.normal(size=200)), calibrated(rng))
    assert found is not None and found.void and found.large
    first, second = found.lines()
    assert first.startswith(f"{found.share:.1%} of these pictures are unlike anything") and "not to be trusted" in first
    assert second.startswith("Promise void: these 200 pictures differ from those of the calibration (")
    assert "than those of the old one" in found._replace(p=1.0, risk_difference=0.5, risk_p=0.0).differs("the old one")


def test_a_set_that_looks_alike_but_is_judged_riskier_is_called_void_too():
    rng = np.random.default_rng(0)
    found = outsiders(rng.random(300), EDGE, chances(rng.normal(size=300) * 0.7 + 0.5), calibrated(rng))
    assert found is not None and found.void and found.p > 0.01 >= found.risk_p
    assert "300 pictures are, below every threshold, judged otherwise than those" in found.lines()[1]
    assert f"D = {found.risk_difference:.2f}" in found.lines()[1]


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_risky_pictures_among_them_void_no_promise_about_the_benign_ones(share):
    rng = np.random.default_rng(0)
    risky = round(300 * share)
    void = 0
    for _ in range(100):
        risks = np.concatenate([rng.normal(size=300 - risky), rng.normal(size=risky) * 2 + 6])  # 4 % of these below
        found = outsiders(rng.random(300), EDGE, chances(risks), calibrated(rng))
        assert found is not None and (found.risk_p is None) is (share > 0.1)
        void += bool(found.void)
    assert void <= 4  # 1 is expected


def test_without_p_values_nothing_is_known_and_without_a_calibration_nothing_is_compared():
    assert outsiders([], EDGE) is None and outsiders([np.nan], EDGE) is None
    found = outsiders([0.001, np.nan, 0.5], EDGE)
    assert found is not None and (found.pictures, found.share, found.void) == (2, 0.5, None)
    assert found.large and len(found.lines()) == 1 and LARGE < 0.5


def test_many_pictures_do_not_make_differences_count_that_change_nothing():
    rng = np.random.default_rng(0)
    many = rng.random(400_000)
    found = outsiders(np.where(many < 0.005, many + 0.5, many), EDGE, (), calibrated(rng, MOST))
    assert found is not None and not found.void


def test_risks_are_compared_as_an_adapter_of_16_bit_keeps_them():
    rng = np.random.default_rng(0)
    risks = rng.normal(size=1500) * 1e-4 - 8  # 16 bit tell three values apart here
    kept = Calibrated(rng.random(1500), risks.astype(np.float16).astype(np.float64), LIMIT)
    found = outsiders(rng.random(1500), EDGE, chances(risks), kept)
    assert found is not None and found.risk_difference == 0 and not found.void
