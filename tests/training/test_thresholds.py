"""The maths of the promise, on scores out of the air."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from safety_modules.errors import DataError
from safety_modules.policy.scores import LIMIT
from safety_modules.training.thresholds import images_needed, promised_limits

TYPES = 6
EACH = [[place] for place in range(TYPES)]


def draw(rng: np.random.Generator, images: int) -> np.ndarray:
    """Scores of benign images: cubes of uniform numbers, of one random type each."""
    scores = np.zeros((images, TYPES))
    scores[np.arange(images), rng.integers(TYPES, size=images)] = rng.random(images) ** 3
    return scores


@pytest.mark.parametrize("per_type", [False, True])
def test_promise_is_kept_in_at_least_nineteen_of_twenty_draws(per_type: bool) -> None:
    rng, limit, kept = np.random.default_rng(0), 0.05, 0
    for _ in range(200):
        scores = draw(rng, 600)
        limits = promised_limits(scores, limit, groups=EACH if per_type else None, minimum=0)
        # The scores are cubes of uniform numbers of one random type, so the true rate is known: no sampling needed.
        kept += 1 - np.mean(limits ** (1 / 3)) <= limit
        assert (scores >= limits).any(1).mean() <= limit
    assert kept >= 190


@pytest.mark.parametrize(("images", "rate", "confidence"), [(299, 0.01, 0.95), (1000, 0.01, 0.95), (700, 0.03, 0.99)])
def test_flagged_images_are_as_many_as_the_clopper_pearson_bound_lets_pass(
    images: int, rate: float, confidence: float
) -> None:
    scores = np.arange(1, images + 1)[:, None] / (images + 1)
    allowed = int((scores >= promised_limits(scores, rate, confidence, minimum=0)).sum())
    # Upper end of the one-sided Clopper-Pearson interval of the true rate, given so many flagged.
    assert beta.ppf(confidence, allowed + 1, images - allowed) <= rate
    assert beta.ppf(confidence, allowed + 2, images - allowed - 1) > rate


@pytest.mark.parametrize("parts", [1, 6])
def test_fewest_images_are_enough_and_one_less_is_not(parts: int) -> None:
    needed = images_needed(0.05, 0.95, parts)
    assert binom.cdf(0, needed, 0.05 / parts) <= 0.05 / parts < binom.cdf(0, needed - 1, 0.05 / parts)
    scores = draw(np.random.default_rng(1), needed)
    limits = promised_limits(scores, 0.05, groups=EACH if parts > 1 else None, minimum=0)
    assert not (scores >= limits).any()
    with pytest.raises(DataError, match=f"at least {needed} benign images for this promise, got {needed - 1}"):
        promised_limits(scores[1:], 0.05, groups=EACH if parts > 1 else None)


def test_images_at_the_highest_score_are_an_error() -> None:
    with pytest.raises(DataError, match="score below 30"):
        promised_limits(np.full((60, TYPES), LIMIT), 0.1)


def test_the_promise_holds_for_all_together_where_the_others_keep_their_thresholds() -> None:
    rng, limit, kept = np.random.default_rng(0), 0.05, 0
    for _ in range(300):
        scores = rng.random((600, 2))
        flagged = scores[:, 0] >= 0.99  # a fixed threshold, chosen before
        limits = promised_limits(scores, limit, groups=[[1]], minimum=0, flagged=flagged)
        assert np.isnan(limits[0])
        kept += 1 - 0.99 * limits[1] <= limit  # the true rate of either
        assert (flagged | (scores[:, 1] >= limits[1])).mean() <= limit
    assert 275 <= kept < 300, "kept in 95 %, and not because it is far too strict"


def test_others_that_flag_too_much_say_what_can_be_promised() -> None:
    scores = np.arange(600)[:, None] / 600
    flagged = np.arange(600) < 9
    with pytest.raises(DataError, match="at most 1 of 600 benign images flagged by the types that keep") as caught:
        promised_limits(scores, 0.01, groups=[[0]], flagged=flagged)
    least = float(str(caught.value).partition("Allow ")[2].split()[0])
    promised_limits(scores, least, groups=[[0]], minimum=0, flagged=flagged)
    with pytest.raises(DataError, match="keep their thresholds"):
        promised_limits(scores, least - 0.001, groups=[[0]], minimum=0, flagged=flagged)


@pytest.mark.parametrize(("rate", "confidence"), [(0, 0.95), (1, 0.95), (-0.1, 0.95), (0.1, 0), (0.1, 1)])
def test_impossible_promises_are_refused(rate: float, confidence: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        promised_limits(np.zeros((60, TYPES)), rate, confidence)
