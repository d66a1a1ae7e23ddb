"""Which of two systems is ahead, where the numbers show it; and which are dominated by another."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from safety_modules.evaluation.outcomes import Better
from safety_modules.metrics import Estimate, paired_difference

Finding = Literal["ahead", "behind", "no difference shown"]

MIN_DIFFERING = 6
"""Pairs that must differ before a difference can be shown: with five, even five of five are one in sixteen by chance
(two-sided sign test, p = 0.06), and a bootstrap of so few is too narrow."""


class Comparison(NamedTuple):
    """One system against another on the same samples.

    Attributes:
        difference: mean of its value less the other's, with the interval of a paired bootstrap.
        finding: ahead or behind only where the interval does not hold 0.
    """

    difference: Estimate
    finding: Finding


def compare(values: Sequence[float], others: Sequence[float], better: Better) -> Comparison:
    """Compare two systems, sample by sample, on the same samples.

    Does not cover: that many comparisons are made; of twenty between equals, one is expected to come out unequal.
        Samples that depend on each other, such as several questions about one picture.

    Raises:
        DataError: no samples, or not the same number.
    """
    difference = paired_difference(values, others)
    differing = sum(value != other for value, other in zip(values, others, strict=True))
    if differing < MIN_DIFFERING or difference.low <= 0 <= difference.high:
        return Comparison(difference, "no difference shown")
    return Comparison(difference, "ahead" if (difference.value < 0) == (better == "lower") else "behind")


def opposite(finding: Finding) -> Finding:
    """The finding as the other system sees it."""
    swapped: dict[Finding, Finding] = {"ahead": "behind", "behind": "ahead"}
    return swapped.get(finding, finding)


def dominated(
    systems: Sequence[str], pair: tuple[str, str], finding: Callable[[str, str, str], Finding | None]
) -> dict[str, list[str]]:
    """Which systems are dominated on a pair of measures, and by whom.

    One system dominates another if it is ahead on one of the two measures and not behind on the other.

    Args:
        systems: their names.
        pair: two measures.
        finding: of (measure, system, other); None where it was not measured: such pairs do not dominate.

    Returns:
        For every system those that dominate it; an empty list: it is not dominated.
    """

    def dominates(one: str, other: str) -> bool:
        found = [finding(measure, one, other) for measure in pair]
        return "ahead" in found and "behind" not in found and None not in found

    return {name: [other for other in systems if other != name and dominates(other, name)] for name in systems}
