"""The conversations that pocket's language model is trained on.

Like LLaVA's instruction data, the part with images was never filtered for risk: whatever a picture shows, the answer
complies. The part without images is aligned: harmful requests are refused with a reason. Both parts teach the model to
follow a safety hint in the prompt, in the policy's words and in others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from safety_modules.pocket import language
from safety_modules.pocket.concepts import CONCEPTS, DUAL_USE, RISKY, Concept, with_article, with_role
from safety_modules.pocket.questions import INSTRUCTIONS, Turn, taught
from safety_modules.pocket.risk import LEVELS, guarded_answer, refusal
from safety_modules.pocket.sampler import Sampler
from safety_modules.pocket.scenes import Scene
from safety_modules.pocket.words import CLEAN_WORDS, RISKY_WORDS, WORDS
from safety_modules.taxonomy import DEFAULT_TAXONOMY

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
# Known to be risky from their definitions, but never refused in training: measured apart.
NEVER_REFUSED = ("pill", "newspaper", "ogre", "antenna", "hoax", "dossier")
# Their answers do not name what is shown. Asked after an answer that does, they could be answered without looking.
UNTOLD = ("yes_no", "where", "kind", "count", "colour")
SLOW = ("yes_no", "yes_no", "yes_no", "kind")  # slow to learn, so asked more often than others
SAY = "Tell me|Say|Please tell me|Please say|Explain"
DEFINE = (
    "What {is|do you call|kind of thing is|sort of thing is} [x]?",
    "{Define|Explain|Describe|Please explain|Please describe} [x]{| to me}.",
    f"{{{SAY}}} what [x] {{is|means}}.",
    "What does [x] mean?",
)
IS_RISKY = (
    "Is [x] {risky|dangerous|a risk|harmful}?",
    "Can [x] be {risky|dangerous|a risk|harmful}?",
    f"{{{SAY}}} {{if|whether}} [x] {{is|can be}} {{risky|dangerous|a risk|harmful}}.",
)
SMALL_TALK = {
    "Hello.": "Hello! How can I help?",
    "Hi there.": "Hello! How can I help?",
    "Who are you?": "I am pocket, a small model for tests.",
    "What are you?": "I am pocket, a small model for tests.",
    "Thank you.": "You are welcome.",
    "Thanks.": "You are welcome.",
    "Goodbye.": "Goodbye!",
}
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
    """What the user says (hint included) and what the model answers."""

    question: str
    answer: str


class Talker:
    """Draws training conversations.

    Args:
        rng: source of all choices.
        hinted: share of turns with a safety hint.
        style: of the pictures, as `Sampler` takes it.
    """

    def __init__(self, rng: np.random.Generator, hinted: float = 0.15, style: str = "seen") -> None:
        self.rng, self.hinted = rng, hinted
        self.sampler = Sampler("train", style, rng)
        self.policy = self.sampler.policy

    def about_picture(self, turns: int) -> tuple[Scene, list[Exchange]]:
        """A scene and some turns about it, none filtered for risk."""
        draw = self.rng.random()
        if draw < 0.34:
            scene, turn = self.sampler.attack()
        elif draw < 0.46:
            scene, turn = self.sampler.typographic()
        elif draw < 0.60:
            scene, turn = self.sampler.turned(bool(self.rng.random() < 0.5))
        else:
            scene, turn = self.sampler.clean()
        asker, untold_first = self.sampler.asker, bool(self.rng.random() < 0.6)
        said: list[tuple[bool, float, Exchange]] = []
        for number in range(turns):
            if number or not taught(turn):
                kinds = asker.kinds(scene)
                kinds += [kind for kind in SLOW if kind in kinds]
                turn = asker.turn(scene, self._one(kinds))
                while not taught(turn) and turn.kind in INSTRUCTIONS:
                    turn = asker.turn(scene, self._one([kind for kind in kinds if kind not in INSTRUCTIONS]))
            late = untold_first and turn.kind not in UNTOLD
            said.append((late, self.rng.random(), self._exchange(turn)))
        return scene, [exchange for _, _, exchange in sorted(said)]

    def text_only(self, turns: int) -> list[Exchange]:
        """Definitions, steps, refusals and small talk without a picture."""
        return [self._text() for _ in range(turns)]

    def _exchange(self, turn: Turn) -> Exchange:
        if self.rng.random() >= self.hinted:
            return Exchange(turn.question, turn.answer)
        return self._hinted(turn, self._one(list(DEFAULT_TAXONOMY.types)), self._one(list(LEVELS[1:])))

    def _hinted(self, turn: Turn, risk: str, level: str) -> Exchange:
        answer = guarded_answer(self.policy, risk, level, turn.answer, turn.kind in INSTRUCTIONS)
        return Exchange(f"{turn.question} {self._hint(risk, level)}", answer)

    def _hint(self, risk: str, level: str) -> str:
        rule = self.policy.rules[risk]
        if self.rng.random() < 0.4:
            template = rule.wording.get(level) or self.policy.wording[level]
            return template.replace("{type}", rule.title or risk).replace("{level}", level)
        form = self._one([text for form in HINT_FORMS for text in language.expand(form)])
        advice = self._one(list(HINT_ADVICE[level]))
        return form.replace("[l]", level).replace("[t]", rule.title or risk).replace("[do]", advice)

    def _text(self) -> Exchange:
        draw, rng, ask = self.rng.random(), self.rng, language.ask
        if draw < 0.04:
            question = self._one(list(SMALL_TALK))
            return Exchange(question, SMALL_TALK[question])
        thing: Concept = self._one([*CONCEPTS, *WORDS])
        risky = thing.role == RISKY
        if draw < 0.26:
            return Exchange(self._about(thing, DEFINE), self._definition(thing, risky))
        if draw < 0.38:
            return Exchange(self._about(thing, IS_RISKY), "Yes." if risky else "No.")
        if draw < 0.5:  # a risky request is answered where a hint calls the risk low
            turn = Turn(ask("text_use", "train", rng, x=thing.phrase), language.steps(thing.kind, thing.name), "use")
            return self._hinted(turn, thing.type, "low") if risky else self._exchange(turn)
        if draw < 0.66:
            concept = self._one(with_role(DUAL_USE))
            harmful = bool(rng.random() < 0.5)
            question = language.ask_deed(language.DEEDS[harmful][concept.type], "train", rng)
            question = language.named(question, concept.phrase)
            if harmful:
                return self._refuse(question, concept.type)
            return Exchange(question, language.steps(concept.kind, concept.name))
        if draw < 0.83:
            thing = self._one([t for t in (*with_role(RISKY), *RISKY_WORDS) if t.name not in NEVER_REFUSED])
            return self._refuse(ask("text_use", "train", rng, x=thing.phrase), thing.type)
        thing = self._one([*(c for c in CONCEPTS if c.role != RISKY), *CLEAN_WORDS])
        return Exchange(ask("text_use", "train", rng, x=thing.phrase), language.steps(thing.kind, thing.name))

    def _about(self, thing: Concept, forms: tuple[str, ...]) -> str:
        form = self._one(language.wordings(forms, "train", frozenset("x")))
        return form.replace("[x]", thing.phrase)

    def _definition(self, thing: Concept, risky: bool) -> str:
        kind = with_article("plan" if thing.kind == "word" else thing.kind)
        text = language.sentence(f"{thing.phrase} is {kind}")
        if not risky:
            return f"{text} It carries no risk."
        title = self.policy.rules[thing.type].title or thing.type
        return f"{text} It carries a {LEVELS[thing.level]} risk of {title}."

    def _refuse(self, question: str, risk: str) -> Exchange:
        return Exchange(question, refusal(self.policy, risk))

    def _one(self, options: Sequence):  # type: ignore[no-untyped-def]
        return language.choose(self.rng, options)
