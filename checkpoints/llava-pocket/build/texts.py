"""Conversations without a picture: aligned, so harmful requests are refused with a reason, whatever they look like.

Definitions, steps, small talk; and pictures told in words, with questions that point at what was told.
"""

import numpy as np
from hints import Exchange, Hinter

from safety_modules.pocket import asked, language, rewording
from safety_modules.pocket.asked import I_SEE
from safety_modules.pocket.captions import told
from safety_modules.pocket.concepts import (
    BENIGN,
    BY_NAME,
    CONCEPTS,
    DUAL_USE,
    EXCLUDING,
    LOOK_ALIKE,
    RISKY,
    SENSITIVE,
    Concept,
    with_article,
    with_role,
)
from safety_modules.pocket.questions import INSTRUCTIONS, TALK, Turn, in_reading_order
from safety_modules.pocket.rewording import Reworded
from safety_modules.pocket.risk import LEVELS, Risk, refusal, risk_among
from safety_modules.pocket.sampler import Sampler
from safety_modules.pocket.scenes import Scene
from safety_modules.pocket.sentences import free_text
from safety_modules.pocket.words import CLEAN_WORDS, RISKY_WORDS, WORD_BY_NAME, WORDS

# Known to be risky from their definitions, but never refused in training: measured apart.
NEVER_REFUSED = ("pill", "newspaper", "ogre", "antenna", "hoax", "dossier")
MOST_WORDS = 60
"""Around a question."""
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
KEEP_AWAY = (  # harmless questions about risky things
    "How {do|can|should} I {protect|save|keep} {myself|my family|my friends|others} from [x]?",
    "How {do|can|should} {I|we} {avoid|report|recognise|stop|prevent} [x]?",
    "What {helps|can I do|should I do} against [x]?",
    "{Why is it|Is it} {wrong|bad|forbidden} to {use|make|get} [x]?",
    "{Someone|A stranger|My neighbour} has [x]. {How do I stay safe|Whom do I tell|What should I do}?",
    "I do not want to {use|make|get|see} [x]. What can I do?",
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
TOLD = ("what", "colour", "count", "kind", "read")
"""Kinds of questions that a caption answers even where it says of one thing only that it is there."""
POINTERS = (  # to one of two things told one after the other
    "{How do|How can|How would} I use the {[n] one|[n] thing|[n] of them|[n]}?",
    "{Give|Show|Tell} me {the steps|three steps} for the {[n] one|[n] thing|[n]}.",
    "{Explain|Teach me} how to use the {[n] one|[n] thing|[n] of the two}.",
)


class Texts:
    """Draws conversations without pictures.

    Args:
        sampler: of scenes and questions; its random generator makes all choices.
        hinter: puts hints into some.
        reworded: share of questions that are put as people put them.
    """

    def __init__(self, sampler: Sampler, hinter: Hinter, reworded: float = 0.4) -> None:
        self.sampler, self.hinter, self.reworded = sampler, hinter, reworded
        self.rng: np.random.Generator = sampler.rng
        self.one = hinter.one

    def conversation(self, exchanges: int) -> list[Exchange]:
        """At least so many exchanges about one thing or another."""
        said: list[Exchange] = []
        while len(said) < exchanges:
            said += self._caption() if self.rng.random() < 0.5 else self._text()
        return said

    def _text(self) -> list[Exchange]:
        """Something about a thing that the question names."""
        draw, rng = self.rng.random(), self.rng
        if draw < 0.05:
            question = self.one(list(SMALL_TALK))
            return [Exchange(question, SMALL_TALK[question])]
        if draw < 0.1:
            return [Exchange(free_text(int(rng.integers(1, 25)), "train", rng), I_SEE)]
        thing: Concept = self.one([*CONCEPTS, *WORDS])
        risky = thing.role == RISKY
        if draw < 0.24:
            return [self._plain(Turn(self._about(thing, DEFINE), self._definition(thing, risky), TALK))]
        if draw < 0.33:
            return [self._plain(Turn(self._about(thing, IS_RISKY), "Yes." if risky else "No.", TALK))]
        if draw < 0.43:  # a risky request is answered where a hint calls the risk low
            turn = self._use(thing)
            return [self.hinter.under(turn, thing.type, "low") if risky else self.hinter.exchange(turn)]
        if draw < 0.5:
            thing = self.one([*with_role(RISKY), *RISKY_WORDS])
            answer = f"Keep away from the {thing.name} and ask somebody for help."
            return self._said(Turn(self._about(thing, KEEP_AWAY), answer, TALK))
        if draw < 0.66:
            return self._deed()
        if draw < 0.83:
            thing = self.one([t for t in (*with_role(RISKY), *RISKY_WORDS) if t.name not in NEVER_REFUSED])
            return self._said(self._use(thing)._replace(answer=self._refusal(thing.type)))
        return self._said(self._use(self.one([*(c for c in CONCEPTS if c.role != RISKY), *CLEAN_WORDS])))

    def _deed(self) -> list[Exchange]:
        """Something done with a dual-use thing that the question names."""
        concept, harmful = self.one(with_role(DUAL_USE)), bool(self.rng.random() < 0.5)
        deed = language.ask_deed(language.DEEDS[harmful][concept.type], "train", self.rng)
        answer = self._refusal(concept.type) if harmful else language.steps(concept.kind, concept.name)
        return self._said(Turn(language.named(deed, concept.phrase), answer, "do"))

    def _caption(self) -> list[Exchange]:
        """A picture told in words, and a question about it."""
        scene, turn = self._meant()
        risk = meant_risk(turn)
        if not risk.clean:
            turn = turn._replace(answer=self._refusal(risk.type))
        rng, draw = self.rng, self.rng.random()
        if turn.history:  # announced: told together with the picture, asked for a turn later
            (words, reply), *_ = turn.history
            first = Exchange(told(scene, turn._replace(question=words), "train", rng), reply, trained=False)
            return [first, self._plain(turn)]
        if draw < 0.66:
            return self._said(turn._replace(question=told(scene, turn, "train", rng)))
        if draw < 0.76:
            return self._said(
                turn._replace(question=f"{turn.question} {told(scene, turn._replace(question=''), 'train', rng)}")
            )
        if draw < 0.9 or not (other := self._other(scene)):
            words = told(scene, turn._replace(question=""), "train", rng).strip()
            first = Exchange(words, self.one((I_SEE, "OK.", "Yes.")), trained=False)
        else:
            first = Exchange(told(scene, other, "train", rng), other.answer)
        return [first, *self._said(turn)]

    def _other(self, scene: Scene) -> Turn | None:
        """A question that every caption answers."""
        kinds = [kind for kind in ("kind", "count", "read", "what") if kind in self.sampler.asker.kinds(scene)]
        return self.sampler.asker.turn(scene, self.one(kinds)) if kinds and len(scene.glyphs) < 2 else None

    def _meant(self) -> tuple[Scene, Turn]:
        """A scene with a question, nothing meant that must never be refused."""
        rng, sampler, asker = self.rng, self.sampler, self.sampler.asker
        while True:
            draw = rng.random()
            if draw < 0.24:
                scene, turn = sampler.attack()
            elif draw < 0.4:
                scene, turn = sampler.typographic()
            elif draw < 0.52:
                return self._turned()
            else:
                scene = self._clean()
                turn = asker.turn(scene, self.one([kind for kind in asker.kinds(scene) if kind in INSTRUCTIONS]))
            other = rng.random()
            if other < 0.12:
                told_of = TOLD if len(scene.glyphs) < 2 else (*TOLD, "where")
                turn = asker.turn(scene, self.one([kind for kind in asker.kinds(scene) if kind in told_of]))
            elif len(scene.glyphs) == 2 and not scene.text and other < 0.3:
                turn = self._pointed(scene)
            if meant_risk(turn).clean or not set(turn.about) & set(NEVER_REFUSED):
                return scene, turn

    def _clean(self) -> Scene:
        """A scene without risk: often a text, or two things of which one could be part of a risk."""
        compose, draw = self.sampler.compose, self.rng.random()
        if draw < 0.32:
            return compose.typographic(self.one(CLEAN_WORDS).name)
        if draw < 0.54:
            role = self.one((BENIGN, SENSITIVE, EXCLUDING, DUAL_USE))
            first = self.one(compose.drawable(role)).name
            return compose.pair(first, compose.partner(first, compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE)))
        return self.sampler.clean_scene() if draw < 0.85 else self.sampler.look_alike()[0]

    def _turned(self) -> tuple[Scene, Turn]:
        """A dual-use or sensitive thing and a harmful or harmless question, in the grammar's words or in others."""
        draw, harmful = self.rng.random(), bool(self.rng.random() < 0.5)
        if draw < 0.35:
            return self.sampler.turned(harmful)
        if draw < 0.55 and not harmful:
            return asked.harmless_talk(self.sampler)
        return asked.in_other_words(self.sampler, harmful, announced=draw > 0.9)

    def _pointed(self, scene: Scene) -> Turn:
        """About the first or the second of two things, or about the one at a place."""
        number = int(self.rng.integers(2))
        concept = BY_NAME[in_reading_order(scene)[number].concept]
        if self.rng.random() < 0.5:
            return self.sampler.asker.turn(scene, "use_place", concept.name)
        form = self.one(language.wordings(POINTERS, "train", frozenset("n")))
        question = form.replace("[n]", ("first", "second")[number])
        return Turn(question, language.steps(concept.kind, concept.name), "use", (concept.name,))

    def _said(self, turn: Turn) -> list[Exchange]:
        """The turn as it is, with a hint, or as people put it; what is asked for again is answered as before."""
        rng = self.rng
        if rng.random() >= self.reworded:
            return [self._plain(turn)]
        draw = rng.random()
        if draw < 0.12:
            again = turn._replace(question=rewording.follow_up("train", rng))
            return [self._plain(turn), self._plain(again)]
        if draw < 0.2:
            said = rewording.continued(turn.question, "train", rng)
        else:
            said = put(turn.question, rng)
        before = [Exchange(words, reply, trained=False) for words, reply in said.history]
        return [*before, self._plain(turn._replace(question=said.question))]

    def _plain(self, turn: Turn) -> Exchange:
        """A refusal stays one whatever a hint says; other answers follow hints."""
        if turn.answer.startswith("I'm sorry"):
            return Exchange(turn.question, turn.answer)
        return self.hinter.exchange(turn)

    def _use(self, thing: Concept) -> Turn:
        question = language.ask("text_use", "train", self.rng, x=thing.phrase)
        return Turn(question, language.steps(thing.kind, thing.name), "use")

    def _about(self, thing: Concept, forms: tuple[str, ...]) -> str:
        form = self.one(language.wordings(forms, "train", frozenset("x")))
        return form.replace("[x]", thing.phrase)

    def _definition(self, thing: Concept, risky: bool) -> str:
        kind = with_article("plan" if thing.kind == "word" else thing.kind)
        text = language.sentence(f"{thing.phrase} is {kind}")
        if not risky:
            return f"{text} It carries no risk."
        title = self.hinter.policy.rules[thing.type].title or thing.type
        return f"{text} It carries a {LEVELS[thing.level]} risk of {title}."

    def _refusal(self, risk: str) -> str:
        return refusal(self.hinter.policy, risk)


def put(question: str, rng: np.random.Generator, most_words: int = MOST_WORDS) -> Reworded:
    """A question as people put it, nothing longer around it than so many words."""
    draw, text = rng.random(), question
    if draw < 0.6:
        text = language.choose(rng, tuple(rewording.SURFACE.values()))(text, "train", rng).question
    if draw >= 0.45:
        words = int(rng.integers(3, most_words))
        form = language.choose(rng, (rewording.before, rewording.after, rewording.around, rewording.later, None))
        if form is None:
            return rewording.forged(text, "train", rng)
        if form is rewording.later:
            return rewording.later(text, "train", rng)
        return form(text, "train", rng, words // (2 if form is rewording.around else 1))
    return Reworded(text)


def meant_risk(turn: Turn) -> Risk:
    """The risk of what an instruction is about; other questions carry none."""
    things = [BY_NAME.get(name) or WORD_BY_NAME[name] for name in turn.about]
    return risk_among(things if turn.kind in INSTRUCTIONS else [], turn.harmful)
