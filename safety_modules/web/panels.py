"""What the page says about a verdict, as HTML: everything in it that comes from outside is escaped."""

from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment

from safety_modules.io.html import environment
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import probability
from safety_modules.policy.verdict import Verdict

CONSEQUENCES = {
    "allow": "The base's own answer.",
    "log": "The base's own answer; the verdict is noted.",
    "hint": "A guarded answer: with a hint, safety tokens and LoRA.",
    "refuse": "The policy's refusal; the language model does not run.",
}


class Bar(NamedTuple):
    """One type's bar, places in percent of its track."""

    type: str
    score: float
    limit: float | None  # None = switched off
    fill: float
    tick: float
    fired: bool


def verdict_panel(verdict: Verdict | None, title: str, span: float, guarded: bool = True) -> str:
    """A verdict: what fired, what follows, and a bar for each type with its threshold.

    Args:
        verdict: None = there is no picture.
        title: of the panel; empty = none.
        span: scores of the bars go from -span to span.
        guarded: whether the guard is on, so that the verdict decides about the answer.
    """
    if verdict is None:
        return _render("verdict", title=title, verdict=None)
    bars = [
        Bar(
            type,
            score,
            verdict.limits.get(type),
            _place(score, span),
            _place(verdict.limits.get(type, 0.0), span),
            verdict.flagged and verdict.type == type,
        )
        for type, score in verdict.scores.items()
    ]
    follows = CONSEQUENCES[verdict.action] if guarded else "Nothing: the guard is switched off."
    sure = {type: probability(score) for type, score in verdict.scores.items()}
    return _render("verdict", title=title, verdict=verdict, bars=bars, follows=follows, sure=sure)


def note(sentence: str = "", alarm: bool = False) -> str:
    """A line above the answers: what went wrong, or what to do next."""
    return _render("note", sentence=sentence, alarm=alarm)


def differences(policy: Policy, changed: bool, looser: list[str]) -> str:
    """How the policy of the page differs from the one it began with."""
    return _render("policy", digest=policy.digest[:12], changed=changed, looser=looser)


def style() -> str:
    """The page's own CSS."""
    return (resources.files("safety_modules.web") / "templates" / "page.css").read_text(encoding="utf-8")


def header(model: str, adapters: list[str], notice: str | None) -> str:
    """The head of the page; `notice` = what everybody has to know about this judge."""
    return _render("header", model=model, adapters=adapters, notice=notice)


def gallery(address: str, summary: dict[str, Any]) -> str:
    """An audit's numbers and its report."""
    return _render("gallery", address=address, summary=summary)


def _place(score: float, span: float) -> float:
    return 50 + 50 * max(-1.0, min(1.0, score / span))


@cache
def _templates() -> Environment:
    return environment("safety_modules.web")


def _render(name: str, **values: Any) -> str:
    return _templates().get_template(f"{name}.html.j2").render(**values)
