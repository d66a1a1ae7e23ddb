"""A risk that pocket does not have: concepts that are clean until a user's own data say otherwise.

Data for a new risk type, in the same splits as the rest of pocket: other wordings, pairs of things and seeds in each.
"""

import csv
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from safety_modules.errors import DataError
from safety_modules.pocket import splits
from safety_modules.pocket.concepts import BENIGN, BY_NAME, DUAL_USE, LOOK_ALIKE
from safety_modules.pocket.language import choose
from safety_modules.pocket.risk import risk_of
from safety_modules.pocket.sampler import Sampler
from safety_modules.pocket.words import CLEAN_WORDS
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN

ALLERGENS = ("cake", "doughnut", "strawberry")
"""The example used in docs and measurements: three foods of ten."""


def new_risk(
    name: str,
    concepts: tuple[str, ...],
    count: int,
    *,
    split: str,
    style: str = "seen",
    level: str = "high",
    seed: int = 0,
) -> list[Record]:
    """Pictures of these concepts, with instructions about them, labelled as a type of their own.

    Half show the concept alone, others beside something benign or above a word.

    Args:
        name: of the type.
        concepts: names of concepts without risk (`pocket.concepts`).
        count: how many records.
        split: train, validation or test.
        style: seen or unseen, as in `splits.make`.
        level: of all of them.
        seed: same arguments, same records.

    Raises:
        DataError: a concept that is unknown or carries a risk already.
    """
    unfit = [c for c in concepts if c not in BY_NAME or BY_NAME[c].role not in (BENIGN, LOOK_ALIKE)]
    if unfit or not concepts:
        raise DataError(
            f"no new risk: expected concepts without any risk, got {', '.join(unfit) or 'none'}. "
            "Choose some whose role is benign or look_alike."
        )
    names = [zlib.crc32(text.encode()) for text in (name, split, style, *concepts)]
    sampler = Sampler(split, style, np.random.default_rng([seed, *names]))
    return [_record(sampler, name, concepts, style, level) for _ in range(count)]


def write_example(folder: str | PathLike[str] = ".", name: str = "allergen") -> None:
    """Write the data of docs/fine-tuning.md: a new type to train on, and pictures to measure and to calibrate on.

    Writes `mine/` (a folder for each type: 100 pictures of the new one, 500 clean ones), `held-out.csv` (100 of the new
    type, 200 of the old ones, 200 clean) and `benign.csv` (600 clean ones), with the questions asked about each.

    Args:
        folder: the target.
        name: of the type.
    """
    target = Path(folder)
    _pictures(target / "mine" / name / "high", new_risk(name, ALLERGENS, 100, split="train"))
    _pictures(target / "mine" / CLEAN, clean_without(ALLERGENS, 500, split="train"))
    held_out = [
        *new_risk(name, ALLERGENS, 100, split="validation"),
        *without(ALLERGENS, splits.make("attack", 240, split="validation", seed=1))[:200],
        *clean_without(ALLERGENS, 200, split="validation", seed=1),
    ]
    _table(target / "held-out.csv", held_out)
    _table(target / "benign.csv", clean_without(ALLERGENS, 600, split="validation", seed=2))


def _pictures(folder: Path, records: Sequence[Record]) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        record.load_image().save(path)
    return paths


def _table(path: Path, records: Sequence[Record]) -> None:
    names = [f"{path.stem}/{place.name}" for place in _pictures(path.with_suffix(""), records)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "type", "level", "question", "answer"))
        writer.writerows((n, r.type, r.level, r.question, "") for n, r in zip(names, records, strict=True))


def without(concepts: tuple[str, ...], records: list[Record]) -> list[Record]:
    """The records that show none of these concepts."""
    return [record for record in records if not set(concepts) & set(record.meta.get("concepts", ()))]


def clean_without(
    concepts: tuple[str, ...], count: int, *, split: str, style: str = "seen", seed: int = 0
) -> list[Record]:
    """Benign records that show none of these concepts; reproducible, like `splits.make`."""
    found: list[Record] = []
    while len(found) < count:
        found += without(concepts, splits.make("benign", count, split=split, style=style, seed=seed))
        seed += 1000
    return found[:count]


def _record(sampler: Sampler, name: str, concepts: tuple[str, ...], style: str, level: str) -> Record:
    rng, compose = sampler.rng, sampler.compose
    drawable = [c.name for c in compose.drawable(BENIGN, LOOK_ALIKE) if c.name in concepts]
    if not drawable:
        raise DataError(f"no new risk: expected a concept that the style {style} can draw, got none. Choose others.")
    shown, draw, kind = choose(rng, drawable), rng.random(), "use"
    if draw < 0.5:
        scene = compose.single(shown)
    elif draw < 0.85:
        others = [c for c in compose.drawable(BENIGN, LOOK_ALIKE, DUAL_USE) if c.name not in concepts]
        scene, kind = compose.pair(shown, compose.partner(shown, others)), "use_place"
    else:
        scene = compose.captioned(shown, choose(rng, CLEAN_WORDS).name)
    assert risk_of(scene).clean
    question = sampler.asker.turn(scene, kind, shown).question
    meta = {"kind": "new_risk", "style": style, "split": sampler.split, "concepts": [g.concept for g in scene.glyphs]}
    return Record(image=sampler.draw(scene), question=question, answer=None, type=name, level=level, meta=meta)
