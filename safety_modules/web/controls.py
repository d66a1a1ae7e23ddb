"""From what the controls of the page show to a policy. What nobody moved stays as it was, calibrated thresholds too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import LIMIT, probability

SPAN = 12.0
"""Sliders, and the bars of a verdict, go from -SPAN to SPAN, or further where a threshold lies beyond."""


@dataclass(frozen=True)
class RuleShown:
    """The controls of one type: whether its rule is on, what it then does, and from which score."""

    on: bool
    action: str
    threshold: float


@dataclass(frozen=True)
class Shown:
    """All controls of a policy.

    Attributes:
        rules: of each type.
        hints: words per level.
        refusal: words.
    """

    rules: Mapping[str, RuleShown]
    hints: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""

    @classmethod
    def of(cls, policy: Policy, limits: Mapping[str, float]) -> "Shown":
        """How a policy looks.

        Args:
            policy: with a rule for each of the types.
            limits: the score from which each type's rule fires; its types are shown.
        """
        rules = {}
        for type, limit in limits.items():
            action = policy.rules[type].action
            rules[type] = RuleShown(action != "allow", "hint" if action == "allow" else action, round(limit, 2))
        return cls(rules, dict(policy.wording), policy.refusal)

    def changes(self, before: "Shown") -> dict[str, Any]:
        """What was changed, in the form of a policy file."""
        rules = {type: _changes(rule, before.rules[type]) for type, rule in self.rules.items()}
        found: dict[str, Any] = {"rules": {type: changes for type, changes in rules.items() if changes}}
        if self.hints != before.hints:
            found["wording"] = dict(self.hints)
        if self.refusal != before.refusal:
            found["refusal"] = self.refusal
        return {name: changes for name, changes in found.items() if changes != {}}


def _changes(now: RuleShown, before: RuleShown) -> dict[str, Any]:
    found: dict[str, Any] = {}
    action = now.action if now.on else "allow"
    if action != (before.action if before.on else "allow"):
        found["action"] = action
    if now.threshold != before.threshold:
        # As a probability: between 0 and 1 a policy takes no bare number, which could be either.
        found["threshold"] = f"{100 * probability(now.threshold)!r} %"
    return found


def span(limits: Mapping[str, float]) -> float:
    """How far sliders and bars reach to both sides of 0."""
    return min(LIMIT, max([SPAN, *(abs(limit) + 1 for limit in limits.values())]))
