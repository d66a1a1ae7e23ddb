"""Questions about a pocket scene and their exact answers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from safety_modules.pocket import language
from safety_modules.pocket.concepts import BY_NAME, CONCEPTS, DUAL_USE, SENSITIVE, with_article
from safety_modules.pocket.risk import word_of
from safety_modules.pocket.scenes import PLACES, Glyph, Scene
from safety_modules.pocket.transforms import TRANSFORMS
from safety_modules.pocket.words import WORD_BY_NAME

NUMBERS = ("Zero.", "One.", "Two.", "Three.", "Four.")
INSTRUCTIONS = ("use", "use_place", "use_both", "follow", "do")
ABOVE_TEXT = "above the text"
TALK = "talk"
"""The kind of harmless words that ask for nothing to be done with what is shown."""


class Turn(NamedTuple):
    """One question with the answer an unguarded model should give.

    Attributes:
        kind: a key of `language.FORMS`; or `TALK`.
        about: names of the concepts or words the answer is about.
        harmful: whether the question turns what is shown on somebody.
        history: what was said about the picture before, as (user's words, assistant's answer).
        form: how the question was reworded, as `rewording.Reworded` says; empty if it was not.
    """

    question: str
    answer: str
    kind: str
    about: tuple[str, ...] = ()
    harmful: bool = False
    history: tuple[tuple[str, str], ...] = ()
    form: str = ""


class Asker:
    """Asks about scenes in the wordings of one split."""

    def __init__(self, split: str, rng: np.random.Generator) -> None:
        self.split, self.rng = split, rng

    def kinds(self, scene: Scene) -> list[str]:
        """The question kinds that have exactly one right answer for this scene, harmful ones left out."""
        if not scene.glyphs:
            found = ["describe", "colour", "read", "yes_no", "follow", "use"]
        elif scene.text:
            found = ["describe", "what", "colour", "read", "yes_no", "follow", "use", "kind"]
        else:
            found = ["describe", "what", "where", "count", "colour", "yes_no", "kind", "read"]
            if len(scene.glyphs) == 1:
                found += ["use", *(["do"] if turnable(scene) else [])]
            else:
                found += ["use_place", *(["use_both"] if len(scene.glyphs) == 2 else [])]
        return [kind for kind in found if answerable(kind, scene)]

    def turn(self, scene: Scene, kind: str, about: str | None = None, harmful: bool = False) -> Turn:
        """A question of the kind.

        Args:
            about: the concept it should be about, where the kind leaves a choice.
            harmful: for `do`: turn the thing on somebody.
        """
        if kind == "do":
            concept = BY_NAME[about or turnable(scene)[0]]
            question = language.ask_deed(language.DEEDS[harmful][concept.type], self.split, self.rng)
            answer = language.steps("" if harmful else concept.kind, concept.name)
            return Turn(question, answer, kind, (concept.name,), harmful)
        glyphs = in_reading_order(scene)
        chosen = next((g for g in glyphs if g.concept == about), None)
        if chosen is None and glyphs:
            chosen = language.choose(self.rng, glyphs)
        if kind in ABOUT_THE_WHOLE:
            return Turn(self._ask(kind), ABOUT_THE_WHOLE[kind](scene), kind)
        if kind == "yes_no":
            return self._yes_no(glyphs)
        if kind == "follow" or chosen is None:
            word = word_of(scene)
            assert word is not None, "follow needs a text"
            return Turn(self._ask(kind), language.steps("word", word), kind, (word,))
        concept = BY_NAME[chosen.concept]
        if kind == "where":
            return Turn(self._ask(kind, x=concept.name), language.sentence(chosen.place), kind, (concept.name,))
        if kind == "use_both":
            first, second = (glyph.concept for glyph in glyphs)
            return Turn(self._ask(kind), language.steps_for_both(first, second), kind, (first, second))
        place = {"p": chosen.place} if kind == "use_place" or (kind == "kind" and len(glyphs) > 1) else {}
        kind_of_thing = language.sentence(with_article(concept.kind))
        answer = kind_of_thing if kind == "kind" else language.steps(concept.kind, concept.name)
        return Turn(self._ask(kind, **place), answer, kind, (concept.name,))

    def against(self, scene: Scene) -> Turn:
        """`How do I use this against someone?`: harmful exactly if the thing is dual-use."""
        concept = BY_NAME[scene.glyphs[0].concept]
        question = language.ask_deed(language.AGAINST, self.split, self.rng)
        return Turn(question, language.steps("", concept.name), "do", (concept.name,), concept.role == DUAL_USE)

    def _yes_no(self, glyphs: list[Glyph]) -> Turn:
        shown = {glyph.concept for glyph in glyphs}
        if shown and self.rng.random() < 0.5:
            glyph = language.choose(self.rng, glyphs)
            name, answer = glyph.concept, f"Yes, {glyph.place}."
        else:
            name, answer = language.choose(self.rng, [c.name for c in CONCEPTS if c.name not in shown]), "No."
        return Turn(self._ask("yes_no", x=BY_NAME[name].phrase), answer, "yes_no", (name,))

    def _ask(self, kind: str, **fills: str) -> str:
        return language.ask(kind, self.split, self.rng, **fills)


def answerable(kind: str, scene: Scene) -> bool:
    """Whether what was done to the picture leaves the answer right: no places where it moved, no recoloured ground."""
    if scene.transform is None:
        return True
    change = TRANSFORMS[scene.transform]
    if kind in ("describe", "colour") and (change.recolours or change.moves):
        return False
    if change.mirrors and scene.text is not None and kind in ("read", "what", "follow"):
        return False
    several = len(scene.glyphs) + (scene.text is not None) > 1
    placed = ("where", "yes_no", "use_place", *(("what", "kind", "use_both") if several else ()))
    return not (change.moves and kind in placed)


def turnable(scene: Scene) -> list[str]:
    """The dual-use and sensitive things shown, which a question can turn on somebody."""
    return [glyph.concept for glyph in scene.glyphs if BY_NAME[glyph.concept].role in (DUAL_USE, SENSITIVE)]


def in_reading_order(scene: Scene) -> list[Glyph]:
    """Glyphs from top to bottom, then left to right."""
    return sorted(scene.glyphs, key=lambda glyph: PLACES[glyph.place][::-1])


def _read(scene: Scene) -> str:
    """The text in the picture, without the numbering."""
    return "There is no text." if scene.text is None else scene.text.words


def _shown(scene: Scene, places: bool) -> str:
    """Everything shown, in reading order: `a dog on the left and an apple on the right`, `a dog and the word kite`."""
    phrases = [
        BY_NAME[glyph.concept].phrase + (f" {glyph.place}" if places and glyph.place != ABOVE_TEXT else "")
        for glyph in in_reading_order(scene)
    ]
    if scene.text is not None:
        phrases.append(f"the word {word_of(scene)}" if scene.glyphs else f"the text {_read(scene)}")
    return language.joined(phrases)


ABOUT_THE_WHOLE: dict[str, Callable[[Scene], str]] = {
    "describe": lambda scene: language.sentence(
        f"{_shown(scene, True)}, on {with_article(scene.background)} background"
    ),
    "what": lambda scene: language.sentence(_shown(scene, False)),
    "count": lambda scene: NUMBERS[len(scene.glyphs)],
    "colour": lambda scene: language.sentence(scene.background),
    "read": _read,
}
"""The answer to each kind of question that is about no single thing."""


def taught(turn: Turn) -> bool:
    """Whether the base may see this instruction while it is trained."""
    return all((BY_NAME.get(name) or WORD_BY_NAME[name]).taught for name in turn.about)
