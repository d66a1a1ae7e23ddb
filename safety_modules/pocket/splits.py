"""Pocket's data: records for training, validation and test, each reproducible from (kind, count, split, style, seed).

The test split is for the evaluation command only; every choice and every threshold comes from validation.
"""

import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.pocket import language
from safety_modules.pocket.compose import Composer
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
)
from safety_modules.pocket.questions import INSTRUCTIONS, Asker, Turn, taught
from safety_modules.pocket.risk import guarded_answer, judge, word_of
from safety_modules.pocket.scenes import Scene, render
from safety_modules.pocket.words import WORD_BY_NAME, WORDS, Word
from safety_modules.policy import Policy
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

CHUNK = 400
Pair = tuple[Scene, Turn]


class Sampler:
    """Random (scene, question) pairs of one split and style; see the kinds at the bottom of this file."""

    def __init__(self, split: str, style: str, rng: np.random.Generator) -> None:
        styles = "train" if style == "seen" else split
        self.rng, self.split = rng, split
        self.policy = Policy.default()  # read once, not for every record
        self.compose, self.asker = Composer(split, styles, rng), Asker(split, rng)

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
        scene = self.clean_scene()
        kinds = self.asker.kinds(scene)
        acts = [kind for kind in kinds if kind in INSTRUCTIONS]
        wanted = acts if self.rng.random() < instructions else [kind for kind in kinds if kind not in INSTRUCTIONS]
        if wanted == acts and len(scene.glyphs) == 1 and self.rng.random() < 0.12:
            turn = self.asker.against(scene)
            if not turn.harmful:
                return scene, turn
        return scene, self.asker.turn(scene, self._one(wanted))

    def question(self) -> Pair:
        """A clean picture with a question of a uniformly drawn kind."""
        scene = self.clean_scene()
        return scene, self.asker.turn(scene, self._one(self.asker.kinds(scene)))

    def attack(self) -> Pair:
        """A risky picture that shows a risky thing, with an instruction about it."""
        compose, draw = self.compose, self.rng.random()
        if draw < 0.16:
            first = self._concept(SENSITIVE)
            scene = compose.pair(first, compose.partner(first, compose.drawable(EXCLUDING)))
            return scene, self.asker.turn(scene, "use_both")
        if draw < 0.26:
            scene = compose.captioned(self._concept(BENIGN, LOOK_ALIKE, DUAL_USE), self._word(True))
            return scene, self.asker.turn(scene, "follow")
        risky = self._concept(RISKY)
        if draw < 0.36:
            scene = compose.captioned(risky, self._word(False))
            return scene, self.asker.turn(scene, "use", risky)
        if draw < 0.66:
            scene = compose.single(risky)
            return scene, self.asker.turn(scene, "use", risky)
        scene = compose.pair(risky, compose.partner(risky, compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE)))
        return scene, self.asker.turn(scene, "use_place" if self.rng.random() < 0.6 else "use_both", risky)

    def typographic(self) -> Pair:
        """A risky instruction drawn as text, with a request to carry it out."""
        scene = self.compose.typographic(self._word(True))
        return scene, self.asker.turn(scene, "follow" if self.rng.random() < 0.75 else "use")

    def turned(self, harmful: bool, scene: Scene | None = None) -> Pair:
        """A dual-use or sensitive thing with a harmful or a harmless question."""
        scene = scene or self.turnable()
        dual = next(g.concept for g in scene.glyphs if BY_NAME[g.concept].role in (DUAL_USE, SENSITIVE))
        if harmful and BY_NAME[dual].role == DUAL_USE and len(scene.glyphs) == 1 and self.rng.random() < 0.4:
            return scene, self.asker.against(scene)
        return scene, self.asker.turn(scene, "do", dual, harmful)

    def turnable(self) -> Scene:
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
            turn = self.asker.turn(scene, self._one(kinds))
        return scene, turn

    def harmless(self) -> Pair:
        """The clean half of the training mix."""
        return self.turned(False) if self.rng.random() < 0.16 else self.clean()

    def text(self, harmful: bool) -> tuple[str, str, str]:
        """A question without a picture: (question, type, level); its answer is the language model's business."""
        draw = self.rng.random()
        if draw < 0.25:
            concept = self._one([c for c in CONCEPTS if c.role == DUAL_USE])
            deeds = (language.HARMFUL if harmful else language.HARMLESS)[concept.type]
            deed = language.deed(deeds, self.split, self.rng)
            question = language.ask("do", self.split, self.rng, d=deed)
            question = language.named(question, concept.phrase)
            return (
                (question, concept.type, DEFAULT_TAXONOMY.levels[concept.level])
                if harmful
                else (question, CLEAN, "safe")
            )
        thing: Concept | Word = self._text_thing(harmful)
        question = language.ask("text_use", self.split, self.rng, x=thing.phrase)
        return (
            question,
            thing.type if harmful else CLEAN,
            DEFAULT_TAXONOMY.levels[thing.level if harmful else 0],
        )

    def _text_thing(self, harmful: bool) -> Concept | Word:
        if harmful:
            return self._one([*(c for c in CONCEPTS if c.role == RISKY), *(w for w in WORDS if w.type)])
        clean_roles = (BENIGN, LOOK_ALIKE, DUAL_USE)
        return self._one([*(c for c in CONCEPTS if c.role in clean_roles), *(w for w in WORDS if not w.type)])

    def _concept(self, *roles: str) -> str:
        """A concept of one of the roles; the role is drawn first, benign ones as often as all the others."""
        role = BENIGN if BENIGN in roles and self.rng.random() < 0.45 else self._one(list(roles))
        return self._one(self.compose.drawable(role)).name

    def _word(self, risky: bool) -> str:
        if risky:
            return self._one([word.name for word in WORDS if word.type])
        alike = self.rng.random() < 0.3
        return self._one([word.name for word in WORDS if not word.type and word.look_alike == alike])

    def _one(self, options: list) -> Any:
        return language.choose(self.rng, options)


def _picture_records(sampler: Sampler, pairs: list[Pair], kind: str, style: str) -> list[Record]:
    """Draws the pairs; consecutive pairs that share a scene share the picture."""
    records: list[Record] = []
    previous: tuple[Scene, Image.Image] | None = None
    for scene, turn in pairs:
        if previous is None or previous[0] is not scene:
            strong = sampler.split == "train" and sampler.rng.random() < 0.7
            previous = scene, Image.fromarray(render(scene, sampler.rng, strong=strong)[0])
        records.append(_record(sampler, previous[1], scene, turn, kind, style))
    return records


def _record(sampler: Sampler, image: Image.Image, scene: Scene, turn: Turn, kind: str, style: str) -> Record:
    risk = judge(scene, turn.harmful)
    instruction = turn.kind in INSTRUCTIONS
    answer = turn.answer
    if not risk.clean:
        answer = guarded_answer(sampler.policy, risk.type, risk.level, turn.answer, instruction)
    word = WORD_BY_NAME.get(word_of(scene) or "")
    look_alike = any(BY_NAME[g.concept].role == LOOK_ALIKE for g in scene.glyphs) or bool(word and word.look_alike)
    return Record(
        image=image,
        question=turn.question,
        answer=answer,
        type=risk.type,
        level=risk.level,
        meta={
            "kind": kind,
            "style": style,
            "split": sampler.split,
            "question_kind": turn.kind,
            "concepts": [glyph.concept for glyph in scene.glyphs],
            "word": word.name if word else None,
            "typographic": scene.text is not None and not scene.glyphs,
            "look_alike": look_alike,
            "taught": taught(turn),
            "needs_question": turn.kind == "do",
            "unguarded": turn.answer,
        },
    )


def _text_records(sampler: Sampler, harmful: bool, kind: str, count: int) -> list[Record]:
    records = []
    for _ in range(count):
        question, risk, level = sampler.text(harmful)
        meta = {"kind": kind, "split": sampler.split, "question_kind": "text_use"}
        records.append(Record(image=None, question=question, answer=None, type=risk, level=level, meta=meta))
    return records


def _dual(sampler: Sampler, count: int) -> list[Pair]:
    """A harmless and a harmful question about each picture, in turn."""
    pairs: list[Pair] = []
    while len(pairs) < count:
        scene = sampler.turnable()
        pairs += [sampler.turned(False, scene), sampler.turned(True, scene)]
    return pairs[:count]


def _half_risky(sampler: Sampler, count: int) -> list[Pair]:
    return [sampler.risky() if index % 2 else sampler.harmless() for index in range(count)]


PICTURES: dict[str, Callable[[Sampler, int], list[Pair]]] = {
    "attack": lambda sampler, count: [sampler.attack() for _ in range(count)],
    "attack_typographic": lambda sampler, count: [sampler.typographic() for _ in range(count)],
    "benign": lambda sampler, count: [sampler.harmless() for _ in range(count)],
    "vqa": lambda sampler, count: [sampler.question() for _ in range(count)],
    "dual": _dual,
    "verdict": _half_risky,
    "safety": _half_risky,
}
TEXTS = {"text_harmful": True, "text_benign": False}


def _chunk(kind: str, count: int, split: str, style: str, seed: int, index: int) -> list[Record]:
    names = [zlib.crc32(name.encode()) for name in (kind, split, style)]
    sampler = Sampler(split, style, np.random.default_rng([seed, index, *names]))
    if kind in TEXTS:
        return _text_records(sampler, TEXTS[kind], kind, count)
    return _picture_records(sampler, PICTURES[kind](sampler, count), kind, style)


def make(kind: str, count: int, *, split: str, style: str = "seen", seed: int = 0) -> list[Record]:
    """Records of one kind.

    Args:
        kind: attack, attack_typographic, benign, vqa, dual, verdict, safety (the training mix), text_harmful,
            text_benign.
        count: how many.
        split: train, validation or test: wordings, pairs of things and seeds differ.
        style: seen (training styles and fonts) or unseen (the split's own; train has none).
        seed: same arguments, same records, however many processes draw them.

    Raises:
        DataError: unknown kind, split or style.
    """
    kinds = (*PICTURES, *TEXTS)
    for name, value, allowed in (
        ("kind", kind, kinds),
        ("split", split, ("train", "validation", "test")),
        ("style", style, ("seen",) if split == "train" else ("seen", "unseen")),
    ):
        if value not in allowed:
            raise DataError(f"no such {name}: expected one of {', '.join(allowed)}, got {value!r}. Check the spelling.")
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    jobs = [(kind, size, split, style, seed, index) for index, size in enumerate(sizes)]
    workers = min(os.cpu_count() or 1, len(jobs))
    if len(jobs) < 6 or workers < 2:
        return [record for job in jobs for record in _chunk(*job)]
    # joblib's processes, unlike multiprocessing's, need no `if __name__ == "__main__"` in the caller's script.
    chunks = Parallel(n_jobs=workers)(delayed(_chunk)(*job) for job in jobs)
    return [record for chunk in chunks for record in chunk]
