import numpy as np
import pytest

from safety_modules.scores import rule_scores


def test_scores_are_of_the_type_and_the_less_probable_ones():
    risks = np.array([[0.1, 0.4, 0.2], [0.5, 0.0, 0.25]])
    assert rule_scores(risks) == pytest.approx(np.array([[0.1, 0.7, 0.3], [0.75, 0.0, 0.25]]))
    equal = rule_scores(np.array([0.25, 0.25, 0.25]))
    assert equal == pytest.approx([0.75, 0.5, 0.25])  # the first of equals counts as the most probable
