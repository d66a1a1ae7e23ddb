"""Many verdicts as arrays are the verdicts one by one; and both are what the rules say, worked out in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_modules.errors import PolicyError
from safety_modules.policy import Policy, Rule, Verdict
from safety_modules.policy.scores import Judgements, rule_scores
from safety_modules.policy.verdict import ACTIONS
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

LEVELS = len(DEFAULT_TAXONOMY.levels)
probabilities = st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1)


def taxonomy_of(added: int) -> Taxonomy:
    names = tuple(f"new{number}" for number in range(added))
    return Taxonomy(types=(*DEFAULT_TAXONOMY.types, *names), levels=DEFAULT_TAXONOMY.levels)


def shares(draw: st.DrawFn, count: int) -> list[float]:
    """Probabilities that sum to 1; some may be 0, and some equal."""
    weights = np.array(draw(st.lists(probabilities, min_size=count, max_size=count)))
    return (weights / weights.sum()).tolist() if weights.sum() > 0 else np.eye(count)[0].tolist()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Policy, Judgements, Taxonomy, dict[str, float]]:
    added = draw(st.integers(0, 2))
    taxonomy = taxonomy_of(added)
    limits = st.none() | st.floats(-5, 5)
    rules = {name: Rule(action=draw(st.sampled_from(ACTIONS)), threshold=draw(limits)) for name in taxonomy.types}
    policy = Policy.default().model_copy(update={"rules": rules, "level_threshold": draw(probabilities)})
    thresholds = draw(st.dictionaries(st.sampled_from(taxonomy.types), st.floats(-5, 5)))
    types, levels, branches = [], [], []
    for _ in range(draw(st.integers(1, 5))):
        first = shares(draw, len(DEFAULT_TAXONOMY.labels))
        types.append([*first[:-1], *draw(st.lists(probabilities, min_size=added, max_size=added)), first[-1]])
        levels.append(shares(draw, LEVELS))
        branches.append([shares(draw, LEVELS) for _ in range(added)])
    of_added = np.array(branches).reshape(len(types), added, LEVELS)
    found = Judgements(np.array(types), np.array(levels), of_added, np.zeros((len(types), 0, 0)))
    return policy, found, taxonomy, thresholds


def one_by_one(policy: Policy, found: Judgements, taxonomy: Taxonomy, thresholds: dict[str, float]) -> list[Verdict]:
    rows = zip(found.types, found.levels, found.added_levels, strict=True)
    return [policy.decide(types, levels, taxonomy, thresholds, added_levels=added) for types, levels, added in rows]


@settings(deadline=None, max_examples=150)
@given(cases())
def test_the_arrays_hold_the_very_verdicts_that_each_image_gets_alone(case) -> None:
    decisions, alone = case[0].decisions(*case[1:]), one_by_one(*case)
    assert [decisions.verdict(row).to_dict() for row in range(len(alone))] == [verdict.to_dict() for verdict in alone]
    assert decisions.severity.tolist() == [verdict.severity for verdict in alone]
    assert decisions.finite.all() and decisions.check() is decisions


@settings(deadline=None, max_examples=150)
@given(cases())
def test_type_action_and_level_follow_the_rules(case) -> None:
    policy, found, taxonomy, thresholds = case
    for row, verdict in enumerate(one_by_one(*case)):
        types = dict(zip(taxonomy.labels, found.types[row].tolist(), strict=True))
        added = dict(zip(taxonomy.types[len(DEFAULT_TAXONOMY.types) :], found.added_levels[row].tolist(), strict=True))
        scores = rule_scores(found.types[row], len(added)).tolist()
        limits = policy.limits(taxonomy, thresholds)
        assert verdict.scores == dict(zip(taxonomy.types, scores, strict=True)) and verdict.limits == limits
        fired = [name for name, limit in limits.items() if verdict.scores[name] >= limit]
        assert verdict.flagged == bool(fired)
        if not fired:
            own = {name: value for name, value in types.items() if name not in added}
            assert (verdict.type, verdict.action, verdict.rule) == (max(own, key=own.__getitem__), "allow", None)
            continue
        strength = {name: ACTIONS.index(policy.rules[name].action) for name in fired}
        best = [
            max(part, key=key)
            for part, key in (
                ([name for name in fired if name not in added], types.__getitem__),
                ([name for name in fired if name in added], lambda name: (strength[name], types[name])),  # noqa: B023
            )
            if part
        ]
        winner = max(best, key=strength.__getitem__)
        assert (verdict.type, verdict.action) == (winner, policy.rules[winner].action)
        levels = added.get(winner, found.levels[row].tolist())
        assert [*verdict.level_probabilities.values()] == levels
        at_least = [sum(levels[:place:-1]) for place in range(LEVELS - 1)]  # of the risky levels, from the highest on
        if at_least[0] == 0:
            at_least = [1.0] * len(at_least)
        reached = [place for place, value in enumerate(at_least) if value >= policy.level_threshold * at_least[0]]
        assert verdict.level == taxonomy.risky_levels[reached[-1]]
        risk = 1 - types["clean"]
        assert verdict.risk == (max(risk, types[winner]) if winner in added else risk)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_row_that_is_no_number_fires_nothing_and_touches_no_other(part: int) -> None:
    taxonomy = taxonomy_of(1)
    policy = Policy.default().completed({"new0": Rule()})
    types = np.array([[0.9, 0, 0, 0, 0, 0, 0.9, 0.1]] * 2)
    found = Judgements(types, np.full((2, LEVELS), 0.25), np.full((2, 1, LEVELS), 0.25), np.zeros((2, 0, 0)))
    found[part][0].flat[0] = np.nan
    decisions = policy.decisions(found, taxonomy)
    assert decisions.flagged.tolist() == decisions.finite.tolist() == [False, True]
    assert decisions.severity[0] == 0 and decisions.rule(0) is None
    assert decisions.verdict(1) == policy.decide(
        types[1], found.levels[1], taxonomy, added_levels=found.added_levels[1]
    )
    with pytest.raises(PolicyError, match=r"expected finite .* probabilities, got"):
        decisions.check()


def test_arrays_of_another_taxonomy_are_refused() -> None:
    found = Judgements(np.full((2, 7), 1 / 7), np.full((2, 3), 1 / 3), np.zeros((2, 0, 4)), np.zeros((2, 0, 0)))
    with pytest.raises(PolicyError, match="expected 4 level probabilities, got 3"):
        Policy.default().decisions(found, DEFAULT_TAXONOMY)
