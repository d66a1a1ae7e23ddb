"""What a check is: a function that says what it saw of its subject, and raises where something is not as promised."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from safety_modules.errors import SafetyModulesError

S = TypeVar("S")

REPORT = "Do not rely on it with these libraries: use the ones that were tried (below), and report it."
"""What to do where a promise of the package's own is not kept."""
Result = Literal["passed", "failed", "not applicable"]


class Failed(Exception):
    """Something is not as promised: what was expected, what was found, and what to do about it."""

    def __init__(self, expected: str, got: str, next_step: str) -> None:
        super().__init__(f"expected {expected}, got {got}. {next_step}")
        self.expected, self.got, self.next_step = expected, got, next_step


class NotApplicable(Exception):
    """Nothing to look at here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check.
        about: what it expects, a sentence.
        result: passed, failed or not applicable.
        seen: what it measured, or why it is not applicable.
        expected, got, next_step: of one that failed.
        seconds: it took.
    """

    name: str
    about: str
    result: Result
    seen: str = ""
    expected: str = ""
    got: str = ""
    next_step: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def look(check: Callable[[S], str], subject: S, name: str, about: str) -> Finding:
    """What a check finds. Whatever it raises is its finding: one that fails never hides the others."""
    began = time.perf_counter()
    found: dict[str, Any]
    try:
        found = {"result": "passed", "seen": check(subject)}
    except NotApplicable as reason:
        found = {"result": "not applicable", "seen": str(reason)}
    except Failed as failure:
        steps = {"expected": failure.expected, "got": failure.got, "next_step": failure.next_step}
        found = {"result": "failed", **steps}
    except SafetyModulesError as error:
        found = {"result": "failed", "expected": about, "got": str(error), "next_step": "See the message."}
    except Exception as error:
        step = "Nobody has foreseen this: report it with the versions below, or try the libraries that were tried."
        found = {"result": "failed", "expected": about, "got": f"{type(error).__name__}: {error}", "next_step": step}
    return Finding(name, about, seconds=time.perf_counter() - began, **found)
