"""What many verdicts say together: how many pictures are unlike the training's, and whether a promise is about them.

Calibration promises how many benign pictures are flagged, of pictures drawn as its own were. Whether others are of that
kind can be asked of the p-values (`Verdict.outside`) and of the risks below every threshold, which need no label: where
either are distributed otherwise than those of the calibration, it promises nothing about these pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ks_2samp

from safety_modules.policy.scores import log_ratio

LARGE = 0.05
"""Share of pictures from outside above which nothing said about the others comes before it."""
VOID = 0.01
"""p-value of the comparison up to which a promise is void: so often it is called void for pictures of its own kind."""
FEW = 0.05
"""Share of pictures above the lowest threshold up to which risks are compared: among more, too many risky ones lie
below it to tell these from benign ones of another kind."""
MOST = 1250
"""Pictures of either side that are compared, and kept of a calibration: among more, differences would be found that
change nothing, and an adapter would grow."""


class Calibrated(NamedTuple):
    """What is kept of the pictures of a calibration.

    Attributes:
        p_values: `Verdict.outside`, (n,).
        risks: log-odds of `Verdict.risk`, (n,); empty where they were not kept.
        limit: the lowest threshold.
    """

    p_values: np.ndarray
    risks: np.ndarray
    limit: float


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
        risk_difference, risk_p: as `difference` and `p`, of the risks below every threshold; None = not compared.

    Does not cover: sets of so few pictures that no difference can be seen. What is not void is not thereby promised.
    """

    pictures: int
    share: float
    significance: float
    calibrated: int
    difference: float | None = None
    p: float | None = None
    void: bool | None = None
    risk_difference: float | None = None
    risk_p: float | None = None

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
                f"Promise void: these {self.pictures} pictures {self.differs()}, so it says nothing about how many of "
                "them are flagged by mistake. Calibrate on pictures like these."
            )
        return found

    def differs(self, calibration: str = "the calibration") -> str:
        """In which way they do, where the promise is void."""
        what = {
            "differ from": (self.difference, self.p),
            "are, below every threshold, judged otherwise than": (self.risk_difference, self.risk_p),
        }
        verb, (d, p) = min(what.items(), key=lambda one: 1.0 if one[1][1] is None else one[1][1])
        return f"{verb} those of {calibration} (Kolmogorov-Smirnov, D = {d:.2f}, p = {p:.2g})"


def outsiders(
    p_values: Sequence[float] | np.ndarray,
    significance: float,
    risks: Sequence[float] | np.ndarray = (),
    calibrated: Calibrated | None = None,
) -> Outsiders | None:
    """What is known of pictures by their p-values and risks; None where no p-value is known.

    Args:
        p_values: of different pictures (N,); NaN where there is none.
        significance: the p-value up to which a picture is outside.
        risks: `Verdict.risk` of the same (N,); none = not compared.
        calibrated: the pictures of the calibration; None = nothing is compared.
    """
    known = np.asarray(p_values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    share = float((known <= significance).mean())
    if calibrated is None or not len(calibrated.p_values):
        return Outsiders(len(known), share, significance, 0)
    found = [_differ(calibrated.p_values, known), _below(calibrated, log_ratio(np.asarray(risks, np.float64)))]
    made = [one for one in found if one is not None]
    void = any(p <= VOID / len(made) for _, p in made)  # Bonferroni
    (difference, p), (risk_difference, risk_p) = (one or (None, None) for one in found)
    count = len(calibrated.p_values)
    return Outsiders(len(known), share, significance, count, difference, p, void, risk_difference, risk_p)


def _below(calibrated: Calibrated, risks: np.ndarray) -> tuple[float, float] | None:
    """How the risks below the limit differ: few of the risky pictures have such a one. None = they are not compared."""
    limit, risks = calibrated.limit, risks[~np.isnan(risks)]
    low, old = risks[risks < limit], calibrated.risks[calibrated.risks < limit]
    if not len(low) or not len(old) or len(low) < (1 - FEW) * len(risks):
        return None
    # Both as they are kept in an adapter of 16 bit: else the ones would have ties where the others have none.
    return _differ(*(part.astype(np.float16).astype(np.float64) for part in (old, low)))


def _differ(old: np.ndarray, new: np.ndarray) -> tuple[float, float] | None:
    """Kolmogorov and Smirnov's D, and its p-value."""
    found = ks_2samp(some(old), some(new))
    return float(found.statistic), float(found.pvalue)


def some(values: np.ndarray) -> np.ndarray:
    """At most `MOST` of them, by chance and always the same."""
    return values if len(values) <= MOST else np.random.default_rng(0).choice(values, MOST, replace=False)
