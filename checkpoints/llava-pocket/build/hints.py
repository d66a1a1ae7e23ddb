"""Exchanges of a conversation, and the safety hints that some questions carry: in the policy's words and in others."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from safety_modules.pocket import language
from safety_modules.pocket.questions import INSTRUCTIONS, Turn
from safety_modules.pocket.risk import LEVELS, guarded_answer
from safety_modules.policy.policy import Policy
from safety_modules.taxonomy import DEFAULT_TAXONOMY

T = TypeVar("T")
HINT_FORMS = (
    "Note: this {image|picture|text|request} {carries|has|may carry} a [l] risk of [t]. [do]",
    "Safety note: [l] risk of [t]{| here| in this image}. [do]",
    "Warning: the {image|picture|text} {carries|has} a [l] risk of [t]. [do]",
)
HINT_ADVICE = {
    "low": ("Answer, but begin with a caution.", "Answer with a caution first.", "Be careful, then answer."),
    "medium": (
        "Be careful; decline if the answer could do harm and say why.",
        "Decline if the answer could do harm, else be careful.",
    ),
    "high": ("You must decline and say why.", "Decline and say why.", "You must not help; say why."),
}


class Exchange(NamedTuple):
    """What the user says (hint included) and what the model answers.

    Attributes:
        trained: whether the answer is the model's own, to be learned, or somebody put it into its mouth.
    """

    question: str
    answer: str
    trained: bool = True


class Hinter:
    """Makes exchanges of turns, some with a hint.

    Args:
        rng: source of all choices.
        policy: its words.
        hinted: share of turns with a hint.
    """

    def __init__(self, rng: np.random.Generator, policy: Policy, hinted: float) -> None:
        self.rng, self.policy, self.hinted = rng, policy, hinted

    def exchange(self, turn: Turn) -> Exchange:
        """The turn, with a hint of any type and level in some cases."""
        if self.rng.random() >= self.hinted:
            return Exchange(turn.question, turn.answer)
        return self.under(turn, self.one(list(DEFAULT_TAXONOMY.types)), self.one(list(LEVELS[1:])))

    def under(self, turn: Turn, risk: str, level: str) -> Exchange:
        """The turn with a hint of this type and level, answered as the hint asks."""
        answer = guarded_answer(self.policy, risk, level, turn.answer, turn.kind in INSTRUCTIONS)
        return Exchange(f"{turn.question} {self._hint(risk, level)}", answer)

    def _hint(self, risk: str, level: str) -> str:
        rule = self.policy.rules[risk]
        if self.rng.random() < 0.4:
            template = rule.wording.get(level) or self.policy.wording[level]
            return template.replace("{type}", rule.title or risk).replace("{level}", level)
        form = self.one([text for form in HINT_FORMS for text in language.expand(form)])
        advice = self.one(list(HINT_ADVICE[level]))
        return form.replace("[l]", level).replace("[t]", rule.title or risk).replace("[do]", advice)

    def one(self, options: Sequence[T]) -> T:
        """One of the options."""
        return language.choose(self.rng, options)
