import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safety_modules.policy.scores import LIMIT, HeadOutput, judgements, log_odds, probability, rule_scores


def odds(*probabilities: float) -> list[float]:
    return [log_odds(p) for p in probabilities]


def test_scores_are_of_the_type_and_the_less_probable_ones():
    types = np.array([[0.1, 0.4, 0.2, 0.3], [0.5, 0.0, 0.25, 0.25]])
    assert rule_scores(types) == pytest.approx(np.array([odds(0.1, 0.7, 0.3), odds(0.75, 0.0, 0.25)]))
    equal = rule_scores(np.array([0.25, 0.25, 0.25, 0.25]))
    assert equal == pytest.approx(odds(0.75, 0.5, 0.25))  # the first of equals counts as the most probable


def test_an_added_type_has_a_score_of_its_own_and_changes_no_other():
    alone = rule_scores(np.array([0.1, 0.4, 0.5]))
    for own in (0.001, 0.5, 0.999):
        beside = rule_scores(np.array([0.1, 0.4, own, 0.5]), added=1)
        assert beside[:2].tolist() == alone.tolist()
        assert beside[2] == pytest.approx(log_odds(own))


@given(st.floats(0.5, 20))
def test_scores_stay_apart_where_probabilities_all_look_like_one(logit):
    near, far = (
        judgements(HeadOutput(torch.tensor([[x, -30.0, 0.0]]), torch.zeros(1, 4), torch.zeros(1, 2, 1))).scores[0, 0]
        for x in (logit, logit + 0.01)
    )
    assert near == pytest.approx(logit, abs=1e-4) and far - near == pytest.approx(0.01, abs=1e-4)


@given(st.floats(-40, 40))
def test_log_odds_and_probability_undo_each_other_within_the_limit(score):
    assert log_odds(probability(score)) == pytest.approx(max(-LIMIT, min(LIMIT, score)), abs=0.01)
    assert log_odds(0) == -LIMIT and log_odds(1) == LIMIT


def test_the_temperature_divides_the_first_types_and_no_branch():
    output = HeadOutput(
        torch.tensor([[2.0, -1.0, 3.0, 0.5]]), torch.zeros(1, 4), torch.zeros(1, 3, 1), torch.zeros(1, 1, 4)
    )
    warm, cold = judgements(output, 1.0), judgements(output, 0.5)
    assert warm.types[0, 2] == cold.types[0, 2] == pytest.approx(1 / (1 + math.exp(-3)))
    assert cold.types[0, 0] > warm.types[0, 0]
    assert warm.types[0, [0, 1, 3]].sum() == pytest.approx(1)
