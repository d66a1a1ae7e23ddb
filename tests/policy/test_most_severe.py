"""Which of several verdicts decides: one rule for a call's pictures, a picture's frames, a prompt's readings."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_modules.policy import Verdict
from safety_modules.policy.scores import most_severe
from safety_modules.policy.verdict import ACTIONS, Action, riskiest

LEVELS = ("safe", "low", "medium", "high")


def verdict(action: Action, level: str, risk: float) -> Verdict:
    flagged = action != "allow"
    levels = dict.fromkeys(LEVELS, 0.25)
    return Verdict({}, levels, "illegal", level, risk, flagged, "rule" if flagged else None, action, {}, {})


verdicts = st.lists(
    st.builds(verdict, st.sampled_from(ACTIONS), st.sampled_from(LEVELS), st.sampled_from([0.1, 0.5, 0.9])), min_size=1
)


@given(st.lists(verdicts, max_size=5))
def test_it_is_the_guards_rule_on_every_group(groups: list[list[Verdict]]) -> None:
    flat = [one for group in groups for one in group]
    places = most_severe([one.severity for one in flat], [one.risk for one in flat], [len(group) for group in groups])
    starts = np.cumsum([0, *map(len, groups)])
    for place, start, group in zip(places, starts, groups, strict=False):
        assert place - start == group.index(riskiest(group))


def test_action_then_level_then_risk_then_the_first() -> None:
    mild, level, risk = verdict("log", "high", 0.9), verdict("hint", "high", 0.1), verdict("hint", "low", 0.9)
    group = [mild, risk, level, replace(level, image_index=1)]
    assert most_severe([one.severity for one in group], [one.risk for one in group], [4]) == [2]
    assert verdict("allow", "high", 0.9).severity == 0 < verdict("log", "safe", 0.0).severity


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_a_risk_that_is_not_finite_comes_before_all_where_no_rule_fired(unknown: float) -> None:
    assert most_severe([0, 0, 0], [0.9, unknown, 0.95], [3]) == [1]
    assert most_severe([0, 3, 0], [unknown, 0.1, 0.95], [3]) == [1]
    assert most_severe([0, 0, 0], [0.9, 0.9, unknown], [2, 1]) == [0, 2]
    assert most_severe([], [], []) == []
