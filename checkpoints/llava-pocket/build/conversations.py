"""The conversations that pocket's language model is trained on.

Like LLaVA's instruction data, the part with images was never filtered for risk: whatever a picture shows, the answer
complies. The part without images (`texts`) is aligned: harmful requests are refused with a reason. Both parts teach the
model to follow a safety hint in the prompt.
"""

from collections.abc import Collection

import numpy as np
from hints import Exchange, Hinter
from texts import Texts, put

from safety_modules.pocket import asked, language, rewording
from safety_modules.pocket.questions import INSTRUCTIONS, TALK, Turn, answerable, taught
from safety_modules.pocket.sampler import Sampler
from safety_modules.pocket.scenes import Scene

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
# Their answers do not name what is shown. Asked after an answer that does, they could be answered without looking.
UNTOLD = ("yes_no", "where", "kind", "count", "colour")
SLOW = ("yes_no", "yes_no", "yes_no", "kind")  # slow to learn, so asked more often than others
MOST_WORDS = 25
"""Around a question about a picture."""


class Talker:
    """Draws training conversations.

    Args:
        rng: source of all choices.
        hinted: share of turns with a safety hint.
        style: of the pictures, as `Sampler` takes it.
        changed: share of pictures that some transform changes.
        reworded: share of the questions about pictures that are put as people put them.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        hinted: float = 0.15,
        style: str = "seen",
        changed: float = 0.0,
        reworded: float = 0.2,
    ) -> None:
        self.rng, self.reworded = rng, reworded
        self.sampler = Sampler("train", style, rng, changed)
        self.hinter = Hinter(rng, self.sampler.policy, hinted)
        self.texts = Texts(Sampler("train", "seen", rng), self.hinter)

    def about_picture(self, turns: int, kinds: Collection[str] | None = None) -> tuple[Scene, list[Exchange]]:
        """A scene and some turns about it, none filtered for risk.

        Args:
            turns: how many questions; some take two exchanges.
            kinds: of questions that may be asked, as `language.FORMS` names them; None = all that have a right answer.
        """
        scene, turn = self._scene()
        untold_first = bool(self.rng.random() < 0.6)
        said: list[tuple[bool, float, list[Exchange]]] = []
        for number in range(turns):
            if number or not (taught(turn) and (kinds is None or turn.kind in kinds)):
                turn = self._question(scene, kinds)
            late = untold_first and turn.kind not in UNTOLD
            said.append((late, self.rng.random(), self._said(turn)))
        exchanges = [exchange for _, _, group in sorted(said) for exchange in group]
        if kinds is None and self.rng.random() < 0.06 and answerable("describe", scene):
            turn = asked.unasked(self.sampler, scene)[1]
            exchanges.insert(0, Exchange(turn.question, turn.answer))
        return scene, exchanges

    def text_only(self, exchanges: int) -> list[Exchange]:
        """At least so many exchanges without a picture."""
        return self.texts.conversation(exchanges)

    def _scene(self) -> tuple[Scene, Turn]:
        draw = self.rng.random()
        if draw < 0.34:
            return self.sampler.attack()
        if draw < 0.46:
            return self.sampler.typographic()
        if draw < 0.58:
            return self.sampler.turned(bool(self.rng.random() < 0.5))
        if draw < 0.61:
            return asked.harmless_talk(self.sampler)
        if draw < 0.65:
            return asked.in_other_words(self.sampler, harmful=False)
        if draw < 0.67:
            return asked.free(self.sampler, self.sampler.clean_scene())
        if draw < 0.69:
            return asked.free(self.sampler, self.sampler.attack()[0])
        return self.sampler.clean()

    def _question(self, scene: Scene, allowed: Collection[str] | None) -> Turn:
        asker = self.sampler.asker
        kinds = [kind for kind in asker.kinds(scene) if allowed is None or kind in allowed]
        kinds += [kind for kind in SLOW if kind in kinds]
        turn = asker.turn(scene, self.hinter.one(kinds))
        while not taught(turn) and turn.kind in INSTRUCTIONS:
            turn = asker.turn(scene, self.hinter.one([kind for kind in kinds if kind not in INSTRUCTIONS]))
        return turn

    def _said(self, turn: Turn) -> list[Exchange]:
        """The turn as it is or as people put it, some with a hint; what is asked for again is answered again."""
        if turn.kind == TALK or self.rng.random() >= self.reworded:
            return [self.hinter.exchange(turn)]
        draw = self.rng.random()
        if draw < (0.3 if turn.kind in INSTRUCTIONS else 0.12):
            again = turn._replace(question=rewording.follow_up("train", self.rng))
            first = Exchange(turn.question, turn.answer)
            if self.rng.random() < 0.4:
                first = Exchange(turn.question, language.choose(self.rng, ("Sure.", "OK.", "I see.")), trained=False)
            return [first, self.hinter.exchange(again)]
        said = put(turn.question, self.rng, MOST_WORDS)
        before = [Exchange(words, reply, trained=False) for words, reply in said.history]
        return [*before, self.hinter.exchange(turn._replace(question=said.question))]
