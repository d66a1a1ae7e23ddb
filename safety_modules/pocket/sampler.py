"""What pocket's splits are drawn from: random pictures, each with a question, clean or risky."""

from typing import Any

import numpy as np
from PIL import Image

from safety_modules.pocket import language
from safety_modules.pocket.compose import Composer
from safety_modules.pocket.concepts import (
    BENIGN,
    BY_NAME,
    DUAL_USE,
    EXCLUDING,
    LOOK_ALIKE,
    RISKY,
    SENSITIVE,
    with_role,
)
from safety_modules.pocket.language import choose
from safety_modules.pocket.questions import INSTRUCTIONS, Asker, Turn, answerable, turnable
from safety_modules.pocket.scenes import Scene, render
from safety_modules.pocket.words import CLEAN_WORDS, RISKY_WORDS
from safety_modules.policy.policy import Policy
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

Pair = tuple[Scene, Turn]


class Sampler:
    """Random (scene, question) pairs of one split and style: "seen", "unseen", "held_out", or "build" (see `glyphs`).

    Args:
        changed, transform: as `Composer` takes them.
    """

    def __init__(
        self, split: str, style: str, rng: np.random.Generator, changed: float = 0.0, transform: str | None = None
    ) -> None:
        styles = {"seen": "train", "unseen": split}.get(style, style)
        self.rng, self.split = rng, split
        self.policy = Policy.default()  # read once, not for every record
        self.compose, self.asker = Composer(split, styles, rng, changed, transform), Asker(split, rng)

    def draw(self, scene: Scene) -> Image.Image:
        """The scene's picture; most of the training split's are strongly varied."""
        strong = bool(self.split == "train" and self.rng.random() < 0.7)
        return Image.fromarray(render(scene, self.rng, strong=strong))

    def clean_scene(self) -> Scene:
        """A picture without risk, look-alikes and dual-use things well represented."""
        compose, draw = self.compose, self.rng.random()
        if draw < 0.40:
            return compose.single(self._concept(BENIGN, LOOK_ALIKE, LOOK_ALIKE, DUAL_USE, SENSITIVE, EXCLUDING))
        if draw < 0.65:
            first = self._concept(BENIGN, LOOK_ALIKE, DUAL_USE, SENSITIVE, EXCLUDING)
            # Only a sensitive thing beside an excluding sign is risky, so the second is neither.
            return compose.pair(first, compose.partner(first, compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE)))
        if draw < 0.72:
            names = self.rng.permutation([c.name for c in compose.drawable(BENIGN, LOOK_ALIKE)])[:3]
            return compose.corners([str(name) for name in names])
        if draw < 0.87:
            return compose.typographic(self._word(False))
        return compose.captioned(self._concept(BENIGN, LOOK_ALIKE, DUAL_USE), self._word(False))

    def clean(self, instructions: float = 0.4) -> Pair:
        """A clean picture with a harmless question."""
        return self.about_clean(self.clean_scene(), instructions)

    def about_clean(self, scene: Scene, instructions: float = 0.4) -> Pair:
        """A clean picture with a harmless question about it, an instruction in this share of cases."""
        kinds = self.asker.kinds(scene)
        acts = [kind for kind in kinds if kind in INSTRUCTIONS]
        wanted = acts if self.rng.random() < instructions else [kind for kind in kinds if kind not in INSTRUCTIONS]
        if wanted == acts and len(scene.glyphs) == 1 and self.rng.random() < 0.12:
            turn = self.asker.against(scene)
            if not turn.harmful:
                return scene, turn
        return scene, self.asker.turn(scene, choose(self.rng, wanted or kinds))

    def look_alike(self) -> Pair:
        """A clean picture of something that looks or reads like a risky thing, with a harmless question."""
        compose, draw = self.compose, self.rng.random()
        if draw < 0.45:
            return self.about_clean(compose.single(self._concept(LOOK_ALIKE)))
        if draw < 0.65:
            first = self._concept(LOOK_ALIKE)
            second = compose.partner(first, compose.drawable(BENIGN, LOOK_ALIKE))
            return self.about_clean(compose.pair(first, second))
        word = choose(self.rng, [word for word in CLEAN_WORDS if word.role == LOOK_ALIKE]).name
        if draw < 0.85:
            return self.about_clean(compose.typographic(word))
        return self.about_clean(compose.captioned(self._concept(BENIGN, LOOK_ALIKE), word))

    def question(self) -> Pair:
        """A clean picture with a question of a uniformly drawn kind."""
        scene = self.clean_scene()
        return scene, self.asker.turn(scene, choose(self.rng, self.asker.kinds(scene)))

    def attack(self) -> Pair:
        """A risky picture that shows a risky thing, with an instruction about it."""
        compose, draw = self.compose, self.rng.random()
        if draw < 0.16:
            first = self._concept(SENSITIVE)
            scene = compose.pair(first, compose.partner(first, compose.drawable(EXCLUDING)))
            return scene, self.asker.turn(scene, "use_both")
        if draw < 0.26:
            return self.mixture(True)
        if draw < 0.36:
            return self.mixture(False)
        risky = self._concept(RISKY)
        if draw < 0.66:
            scene = compose.single(risky)
            return scene, self.asker.turn(scene, "use", risky)
        scene = compose.pair(risky, compose.partner(risky, compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE)))
        placed = self.rng.random() < 0.6 and answerable("use_place", scene)
        return scene, self.asker.turn(scene, "use_place" if placed else "use_both", risky)

    def control(self) -> Pair:
        """An attack's benign control: its layouts and kinds of questions in its shares, with nothing risky."""
        compose, draw = self.compose, self.rng.random()
        first = self._concept(BENIGN, LOOK_ALIKE, DUAL_USE)
        if 0.16 <= draw < 0.36:
            scene = compose.captioned(first, self._word(False))
            return scene, self.asker.turn(scene, "follow" if draw < 0.26 else "use", first)
        if 0.36 <= draw < 0.66:
            scene = compose.single(first)
            return scene, self.asker.turn(scene, "use", first)
        scene = compose.pair(first, compose.partner(first, compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE)))
        placed = draw >= 0.66 and self.rng.random() < 0.6 and answerable("use_place", scene)
        return scene, self.asker.turn(scene, "use_place" if placed else "use_both", first)

    def large(self) -> Pair:
        """One risky thing that fills most of the picture, with an instruction about it."""
        scene = self.compose.single(risky := self._concept(RISKY), least=60)
        return scene, self.asker.turn(scene, "use", risky)

    def mixture(self, risky_word: bool) -> Pair:
        """A thing with a word under it, one of them risky, and an instruction about that one."""
        if risky_word:
            scene = self.compose.captioned(self._concept(BENIGN, LOOK_ALIKE, DUAL_USE), self._word(True))
            return scene, self.asker.turn(scene, "follow")
        risky = self._concept(RISKY)
        scene = self.compose.captioned(risky, self._word(False))
        return scene, self.asker.turn(scene, "use", risky)

    def typographic(self, **fixed: Any) -> Pair:
        """A risky instruction drawn as text, with a request to carry it out; `fixed` as `Composer.typographic`'s."""
        scene = self.compose.typographic(self._word(True), **fixed)
        return scene, self.asker.turn(scene, "follow" if self.rng.random() < 0.75 else "use")

    def typographic_control(self) -> Pair:
        """The benign control of a typographic attack: a harmless instruction drawn as text."""
        scene = self.compose.typographic(self._word(False))
        return scene, self.asker.turn(scene, "follow" if self.rng.random() < 0.75 else "use")

    def turned(self, harmful: bool, scene: Scene | None = None) -> Pair:
        """A dual-use or sensitive thing with a harmful or a harmless question."""
        scene = scene or self.turnable_scene()
        thing = turnable(scene)[0]
        if harmful and BY_NAME[thing].role == DUAL_USE and len(scene.glyphs) == 1 and self.rng.random() < 0.4:
            return scene, self.asker.against(scene)
        return scene, self.asker.turn(scene, "do", thing, harmful)

    def turnable_scene(self) -> Scene:
        """A dual-use or sensitive thing, alone or beside something benign."""
        thing = self._concept(DUAL_USE, DUAL_USE, SENSITIVE)
        if self.rng.random() < 0.6:
            return self.compose.single(thing)
        return self.compose.pair(thing, self.compose.partner(thing, self.compose.drawable(BENIGN)))

    def risky(self) -> Pair:
        """The risky half of the training mix: attacks, other questions about risky pictures, harmful questions."""
        draw = self.rng.random()
        if draw < 0.20:
            return self.turned(True)
        scene, turn = self.typographic() if draw < 0.45 else self.attack()
        if self.rng.random() < 0.3:
            kinds = [kind for kind in self.asker.kinds(scene) if kind not in INSTRUCTIONS]
            turn = self.asker.turn(scene, choose(self.rng, kinds))
        return scene, turn

    def harmless(self) -> Pair:
        """The clean half of the training mix."""
        return self.turned(False) if self.rng.random() < 0.16 else self.clean()

    def text(self, harmful: bool) -> tuple[str, str, str]:
        """A question without a picture: (question, type, level); its answer is the language model's business."""
        if self.rng.random() < 0.25:
            concept = choose(self.rng, with_role(DUAL_USE))
            deed = language.ask_deed(language.DEEDS[harmful][concept.type], self.split, self.rng)
            question, risk, level = language.named(deed, concept.phrase), concept.type, concept.level
        else:
            concepts = with_role(RISKY) if harmful else with_role(BENIGN, LOOK_ALIKE, DUAL_USE)
            thing = choose(self.rng, (*concepts, *(RISKY_WORDS if harmful else CLEAN_WORDS)))
            question = language.ask("text_use", self.split, self.rng, x=thing.phrase)
            risk, level = thing.type, thing.level
        return (question, risk, DEFAULT_TAXONOMY.levels[level]) if harmful else (question, CLEAN, "safe")

    def _concept(self, *roles: str) -> str:
        """A concept of one of the roles; the role is drawn first, benign ones as often as all the others."""
        role = BENIGN if BENIGN in roles and self.rng.random() < 0.45 else choose(self.rng, roles)
        return choose(self.rng, self.compose.drawable(role)).name

    def _word(self, risky: bool) -> str:
        if risky:
            return choose(self.rng, RISKY_WORDS).name
        role = LOOK_ALIKE if self.rng.random() < 0.3 else BENIGN
        return choose(self.rng, [word for word in CLEAN_WORDS if word.role == role]).name
