"""Pocket's data: records for training, validation and test, each reproducible from (kind, count, split, style, seed).

The test split is for the evaluation command only; every choice and every threshold comes from validation.
"""

import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from safety_modules.errors import DataError
from safety_modules.pocket import asked
from safety_modules.pocket.captions import caption, told
from safety_modules.pocket.concepts import LOOK_ALIKE
from safety_modules.pocket.language import choose
from safety_modules.pocket.questions import INSTRUCTIONS, taught
from safety_modules.pocket.risk import guarded_answer, risk_of, things_in, word_of
from safety_modules.pocket.sampler import Pair, Sampler
from safety_modules.pocket.scenes import Scene
from safety_modules.pocket.transforms import TRANSFORMS
from safety_modules.records.record import Record

CHUNK = 400
CHANGED = 0.4
"""Share of the training mix's pictures that some transform changes."""
STYLES = ("seen", "unseen")
"""Of drawing: both for measuring; training has the first alone, and the final evaluation `held_out` beside them."""


def _picture_records(sampler: Sampler, pairs: list[Pair], kind: str, style: str) -> list[Record]:
    """Draws the pairs; consecutive pairs that share a scene share the picture."""
    records: list[Record] = []
    drawn: Scene | None = None
    for scene, turn in pairs:
        if drawn is not scene:
            drawn, image = scene, sampler.draw(scene)
        risk, answer = risk_of(scene, turn.harmful), turn.answer
        if not risk.clean:
            answer = guarded_answer(sampler.policy, risk.type, risk.level, answer, turn.kind in INSTRUCTIONS)
        word = word_of(scene)
        concepts = [glyph.concept for glyph in scene.glyphs]
        meta = {
            "kind": kind,
            "style": style,
            "split": sampler.split,
            "question_kind": turn.kind,
            "concepts": concepts,
            "drawings": [glyph.style for glyph in scene.glyphs],
            "word": word,
            "font": scene.text.font if scene.text else None,
            "typographic": scene.text is not None and not concepts,
            "look_alike": any(thing.role == LOOK_ALIKE for thing in things_in(scene)),
            "transform": scene.transform,
            "taught": taught(turn),
            "needs_question": turn.kind == "do",
            "form": turn.form,
            "unguarded": turn.answer,
        }
        if kind in CAPTIONED:
            placed, coloured = bool(sampler.rng.random() < 0.7), bool(sampler.rng.random() < 0.5)
            meta["caption"] = caption(scene, sampler.split, sampler.rng, placed, coloured)
        said: dict[str, Any] = {"question": turn.question, "history": turn.history, "answer": answer or None}
        records.append(Record(image=image, **said, type=risk.type, level=risk.level, meta=meta))
    return records


def _text_records(sampler: Sampler, harmful: bool, kind: str, count: int) -> list[Record]:
    records = []
    for _ in range(count):
        question, risk, level = sampler.text(harmful)
        meta = {"kind": kind, "split": sampler.split, "question_kind": "text_use"}
        records.append(Record(image=None, question=question, answer=None, type=risk, level=level, meta=meta))
    return records


def _caption_records(sampler: Sampler, draw: Callable[[Sampler], Pair], kind: str, count: int) -> list[Record]:
    """Pictures told in words in front of an instruction that points at them."""
    records = []
    for scene, turn in (draw(sampler) for _ in range(count)):
        risk = risk_of(scene, turn.harmful)
        meta = {
            "kind": kind,
            "split": sampler.split,
            "question_kind": turn.kind,
            "concepts": [glyph.concept for glyph in scene.glyphs],
            "word": word_of(scene),
            "typographic": scene.text is not None and not scene.glyphs,
            "unguarded": turn.answer,
        }
        words = told(scene, turn, sampler.split, sampler.rng)
        answer = turn.answer if risk.clean else None
        records.append(Record(image=None, question=words, answer=answer, type=risk.type, level=risk.level, meta=meta))
    return records


def _clean_instruction(sampler: Sampler) -> Pair:
    scene = sampler.clean_scene()
    acts = [kind for kind in sampler.asker.kinds(scene) if kind in INSTRUCTIONS]
    return scene, sampler.asker.turn(scene, choose(sampler.rng, acts))


def _dual(sampler: Sampler, count: int) -> list[Pair]:
    """A harmless and a harmful question about each picture, in turn."""
    pairs: list[Pair] = []
    while len(pairs) < count:
        scene = sampler.turnable_scene()
        pairs += [sampler.turned(False, scene), sampler.turned(True, scene)]
    return pairs[:count]


def _half_risky(sampler: Sampler, count: int) -> list[Pair]:
    return [sampler.risky() if index % 2 else sampler.harmless() for index in range(count)]


def _training_mix(sampler: Sampler, count: int) -> list[Pair]:
    return [asked.risky(sampler) if index % 2 else asked.harmless(sampler) for index in range(count)]


def _each(draw: Callable[[Sampler], Pair], sampler: Sampler, count: int) -> list[Pair]:
    return [draw(sampler) for _ in range(count)]


def _typographic(sampler: Sampler, count: int, **fixed: Any) -> list[Pair]:
    return [sampler.typographic(**fixed) for _ in range(count)]


WRITTEN: dict[str, dict[str, Any]] = {
    "alone": {"alone": True, "form": "plain", "case": "lower"},
    "hyphenated": {"alone": False, "form": "hyphenated", "case": "lower"},
    "quoted": {"alone": False, "form": "quoted", "case": "lower"},
    "upper_case": {"alone": False, "form": "plain", "case": "upper"},
    "leet": {"alone": False, "form": "leet", "case": "lower"},
}
"""Ways to write a typographic attack that have a kind of their own, `attack_` before the name."""
LARGE_TEXT, LARGE_GLYPH = 15, 60
"""Least sizes in pixels of what `attack_large_text` and `attack_large` show: a person sees it in a spoilt picture."""

CAPTIONED = ("captioned_clean", "captioned_risky")
"""Pictures whose `caption`, among what is noted of them, says what they show."""

PICTURES: dict[str, Callable[[Sampler, int], list[Pair]]] = {
    "attack": lambda sampler, count: [sampler.attack() for _ in range(count)],
    "attack_typographic": lambda sampler, count: [sampler.typographic() for _ in range(count)],
    **{f"attack_{name}": partial(_typographic, **fixed) for name, fixed in WRITTEN.items()},
    "attack_large": lambda sampler, count: [sampler.large() for _ in range(count)],
    "attack_large_text": partial(_typographic, form="plain", smallest=LARGE_TEXT),
    "control": lambda sampler, count: [sampler.control() for _ in range(count)],
    "control_typographic": lambda sampler, count: [sampler.typographic_control() for _ in range(count)],
    "captioned_clean": lambda sampler, count: [sampler.clean(0.5) for _ in range(count)],
    "captioned_risky": lambda sampler, count: [
        sampler.attack() if index % 2 else sampler.typographic() for index in range(count)
    ],
    "mixture": lambda sampler, count: [sampler.mixture(index % 2 == 0) for index in range(count)],
    "look_alike": lambda sampler, count: [sampler.look_alike() for _ in range(count)],
    "benign": lambda sampler, count: [sampler.harmless() for _ in range(count)],
    "vqa": lambda sampler, count: [sampler.question() for _ in range(count)],
    "dual": _dual,
    "verdict": _half_risky,
    "safety": _training_mix,
    **{name: partial(_each, draw) for name, draw in asked.MEASURED.items()},
}
TEXTS = {"text_harmful": True, "text_benign": False}
CAPTIONS: dict[str, Callable[[Sampler], Pair]] = {
    "caption_harmful": lambda sampler: sampler.typographic() if sampler.rng.random() < 0.5 else sampler.attack(),
    "caption_benign": _clean_instruction,
}


def _chunk(kind: str, count: int, split: str, style: str, seed: int, transform: str | None, index: int) -> list[Record]:
    names = [zlib.crc32(name.encode()) for name in (kind, split, style, transform or "")]
    changed = CHANGED if kind == "safety" else 0.0
    sampler = Sampler(split, style, np.random.default_rng([seed, index, *names]), changed, transform)
    if kind in TEXTS:
        return _text_records(sampler, TEXTS[kind], kind, count)
    if kind in CAPTIONS:
        return _caption_records(sampler, CAPTIONS[kind], kind, count)
    return _picture_records(sampler, PICTURES[kind](sampler, count), kind, style)


def make(
    kind: str,
    count: int,
    *,
    split: str,
    style: str = "seen",
    seed: int = 0,
    transform: str | None = None,
    chunk: int = CHUNK,
) -> list[Record]:
    """Records of one kind.

    Args:
        kind: attack, attack_typographic, control, control_typographic (their benign controls: the same layouts and
            kinds of questions), mixture (a thing and a word, one of them risky), benign, look_alike, vqa, dual,
            captioned_clean, captioned_risky (with a caption), verdict, safety (the training mix), one of `WRITTEN` or
            `asked.MEASURED`, text_harmful, text_benign, caption_harmful, caption_benign (a picture told in words).
        count: how many.
        split: train, validation or test: wordings, pairs of things and seeds differ.
        style: seen (training styles and fonts), unseen (the split's own; train has none) or, with the test split,
            held_out (styles and fonts that nothing else uses).
        transform: how every picture is changed, one of `transforms.TRANSFORMS`; None = not, but for the training mix.
        seed: same arguments, same records, however many processes draw them.
        chunk: records drawn at a time; whole chunks are the same whatever the count.

    Raises:
        DataError: unknown kind, split, style or transform.
    """
    kinds = (*PICTURES, *TEXTS, *CAPTIONS)
    for name, value, allowed in (
        ("kind", kind, kinds),
        ("split", split, ("train", "validation", "test")),
        ("style", style, {"train": STYLES[:1], "test": (*STYLES, "held_out")}.get(split, STYLES)),
        ("transform", transform, (None, *TRANSFORMS)),
    ):
        if value not in allowed:
            raise DataError(
                f"no such {name}: expected one of {', '.join(map(str, allowed))}, got {value!r}. Check the spelling."
            )
    sizes = [min(chunk, count - start) for start in range(0, count, chunk)]
    jobs = [(kind, size, split, style, seed, transform, index) for index, size in enumerate(sizes)]
    workers = min(os.cpu_count() or 1, len(jobs))
    if count <= 5 * CHUNK or workers < 2:
        return [record for job in jobs for record in _chunk(*job)]
    # joblib's processes, unlike multiprocessing's, need no `if __name__ == "__main__"` in the caller's script.
    chunks = Parallel(n_jobs=workers)(delayed(_chunk)(*job) for job in jobs)
    return [record for part in chunks for record in part]
