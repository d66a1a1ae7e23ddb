"""What a policy makes of many judgements at once, as arrays; a `Verdict` of one is made when it is asked for."""

from typing import NamedTuple

import numpy as np
import torch

from safety_modules.errors import PolicyError
from safety_modules.policy.scores import Judgements
from safety_modules.policy.verdict import ACTIONS, Verdict
from safety_modules.taxonomy import Taxonomy


class Decisions(NamedTuple):
    """N judgements, decided by `Policy.decisions`: arrays with a row for each. `Verdict` says what the numbers mean."""

    found: Judgements
    taxonomy: Taxonomy
    limits: dict[str, float]  # the score from which each rule fires; types that are switched off have none
    level_threshold: float  # the policy's
    scores: np.ndarray  # (N, types), log-odds
    levels: np.ndarray  # probabilities (N, levels): the head's, or those of the branch of an added type that fired
    finite: np.ndarray  # whether all probabilities are numbers; where they are not, no rule fires
    flagged: np.ndarray  # whether a rule fired
    type: np.ndarray  # places among the taxonomy's labels
    level: np.ndarray  # places among its levels
    at_least: np.ndarray  # P(level or above | risky), where a rule fired
    action: np.ndarray  # places among `ACTIONS`: the rule's, or a stronger one for pictures from outside
    risk: np.ndarray
    is_outside: np.ndarray  # whether the picture is unlike those of the training, at the policy's significance

    @property
    def severity(self) -> np.ndarray:
        """As `Verdict.severity` (N,)."""
        return self.action * len(self.taxonomy.levels) + np.where(self.flagged, self.level, 0)

    def rule(self, row: int) -> str | None:
        """As `Verdict.rule`."""
        if not self.flagged[row]:
            return None
        place = self.type[row]
        name = self.taxonomy.types[place]
        return (
            f"{name}: score {self.scores[row, place]:.2f} >= {self.limits[name]:.2f} -> {ACTIONS[self.action[row]]}, "
            f"level {self.taxonomy.levels[self.level[row]]}: p={self.at_least[row]:.2f} >= {self.level_threshold:.2f}"
        )

    def check(self) -> "Decisions":
        """Itself. Raises PolicyError where a probability is not a number, which passes no threshold: as if clean."""
        if not self.finite.all():
            row = int(self.finite.argmin())
            found = (("type", self.found.types), ("level", self.found.levels), ("level", self.found.added_levels))
            what, values = next((what, part[row]) for what, part in found if not np.isfinite(part[row]).all())
            raise PolicyError(
                f"no verdict: expected finite {what} probabilities, got {values.tolist()}. "
                "Check the image and the adapter."
            )
        return self

    def verdict(self, row: int, attention: torch.Tensor | None = None, image_index: int = 0) -> Verdict:
        """One of the verdicts; attention (types, rows, columns) and the image's number are handed on."""
        taxonomy = self.taxonomy
        return Verdict(
            probabilities=dict(zip(taxonomy.labels, self.found.types[row].tolist(), strict=True)),
            level_probabilities=dict(zip(taxonomy.levels, self.levels[row].tolist(), strict=True)),
            type=taxonomy.labels[self.type[row]],
            level=taxonomy.levels[self.level[row]],
            risk=float(self.risk[row]),
            flagged=bool(self.flagged[row]),
            rule=self.rule(row),
            action=ACTIONS[self.action[row]],
            scores=dict(zip(taxonomy.types, self.scores[row].tolist(), strict=True)),
            limits=dict(self.limits),
            attention=attention,
            image_index=image_index,
            outside=None if self.found.outside is None else float(self.found.outside[row]),
            is_outside=bool(self.is_outside[row]),
        )
