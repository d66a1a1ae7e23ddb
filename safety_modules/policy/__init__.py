"""What to do about a verdict: scores, rules and their words; data, not code."""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.policy.policy import Policy, Rule
    from safety_modules.policy.verdict import Verdict

__all__ = ["Policy", "Rule", "Verdict"]

__getattr__, __dir__ = lazy_exports(globals(), {"Policy": "policy", "Rule": "policy", "Verdict": "verdict"})
