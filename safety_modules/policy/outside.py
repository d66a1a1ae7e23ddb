"""What p-values of many pictures say together: how many are unlike the training's, and whether a promise is about them.

Calibration promises how many benign pictures are flagged, of pictures drawn as its own were. Whether others are of that
kind can be asked of the p-values (`Verdict.outside`), which need no label: where theirs are distributed otherwise than
those of the calibration, it promises nothing about them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ks_2samp

LARGE = 0.05
"""Share of pictures from outside above which nothing said about the others comes before it."""
VOID = 0.01
"""p-value of the comparison up to which a promise is void: so often it is called void for pictures of its own kind."""
MOST = 2000
"""Pictures of either side that are compared: among more, differences would be found that change nothing."""


class Outsiders(NamedTuple):
    """What is known of a set of pictures beside those of training and calibration; plain JSON types.

    Attributes:
        pictures: how many.
        share: of them that are outside at the significance.
        significance: the policy's.
        calibrated: pictures of the calibration that they were compared with; 0 = none are known.
        difference: the largest difference of the two distributions of p-values (Kolmogorov and Smirnov's D); None = not
            compared.
        p: of the comparison; None = not compared.
        void: whether the promise of the calibration says nothing about these pictures; None = not compared.

    Does not cover: a difference in what is asked, or in what a mean over the patches does not show; sets of so few
    pictures that no difference can be seen. What is not void is not thereby promised.
    """

    pictures: int
    share: float
    significance: float
    calibrated: int
    difference: float | None = None
    p: float | None = None
    void: bool | None = None

    @property
    def large(self) -> bool:
        """Whether this has to be said before everything else."""
        return self.share > LARGE

    def lines(self) -> list[str]:
        """In words: what has to be known of these pictures' verdicts."""
        found = []
        if self.large:
            found.append(
                f"{self.share:.1%} of these pictures are unlike anything the head was trained on; its verdicts on them "
                "are not to be trusted."
            )
        else:
            found.append(f"{self.share:.1%} of these pictures are unlike what the head was trained on.")
        if self.void:
            found.append(
                f"Promise void: these {self.pictures} pictures differ from those of the calibration "
                f"(Kolmogorov-Smirnov, D = {self.difference:.2f}, p = {self.p:.2g}), so it says nothing about how many "
                "of them are flagged by mistake. Calibrate on pictures like these."
            )
        return found


def outsiders(
    p_values: Sequence[float] | np.ndarray, significance: float, calibrated: Sequence[float] | np.ndarray = ()
) -> Outsiders | None:
    """What is known of pictures by their p-values; None where none is known.

    Args:
        p_values: of different pictures; NaN where there is none.
        significance: the p-value up to which a picture is outside.
        calibrated: p-values of the pictures of the calibration.
    """
    known = np.asarray(p_values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    share, old = float((known <= significance).mean()), np.asarray(calibrated, np.float64)
    if not len(old):
        return Outsiders(len(known), share, significance, 0)
    found = ks_2samp(some(old), some(known))
    p = float(found.pvalue)
    return Outsiders(len(known), share, significance, len(old), float(found.statistic), p, p <= VOID)


def some(values: np.ndarray) -> np.ndarray:
    """At most `MOST` of them, by chance and always the same."""
    return values if len(values) <= MOST else np.random.default_rng(0).choice(values, MOST, replace=False)
