"""Which sample comes when: the whole order is drawn before the first step, from the recipe's seed.

So an interrupted run resumes at the very sample, in any number of processes, and no state has to be saved.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from safety_modules.errors import DataError
from safety_modules.records.record import Record
from safety_modules.training.recipe import Recipe

NEEDS_QUESTION = "needs_question"
"""Key of `Record.meta`: true where the label holds for the image with its question, not for the image alone."""

TEXT, CLEAN, RISKY = "text-only", "clean", "risky"
Group = tuple[str, ...]


class TrainingItem(NamedTuple):
    """One sample of the training order.

    Attributes:
        record: its index.
        asked: whether the head sees the question.
        hinted: whether the prompt holds the hint, if the record is risky.
    """

    record: int
    asked: bool
    hinted: bool


def training_order(records: Sequence[Record], recipe: Recipe) -> list[TrainingItem]:
    """The training order of a stage.

    Every group (text-only, clean, and each risk type or type and level) gets its exact share, and within a group
    every record comes once before one comes twice.
    Stage 1 passes over text-only records.

    Raises:
        DataError: the recipe wants samples of a kind the data does not hold.
    """
    count, rng = recipe.samples, np.random.default_rng(recipe.seed)
    groups: dict[Group, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(_group(record, recipe), []).append(index)
    if recipe.stage == 1:
        groups = {group: members for group, members in groups.items() if group[0] != TEXT}
    shares = _shares({group: len(members) for group, members in groups.items()}, recipe)

    order = np.empty(count, dtype=np.int64)
    slots = rng.permutation(count)
    for (group, _), part in zip(shares.items(), _split(slots, list(shares.values())), strict=True):
        order[part] = np.fromiter(_cycle(groups[group], len(part), rng), np.int64, len(part))
    asked = rng.random(count) >= recipe.no_question_rate
    hinted = rng.random(count) < recipe.hint_rate
    # Where only the question makes the risk, a row without it would carry a wrong label.
    asked |= np.array([bool(record.meta.get(NEEDS_QUESTION)) for record in records])[order]
    items = [TrainingItem(int(r), bool(a), bool(h)) for r, a, h in zip(order, asked, hinted, strict=True)]
    if recipe.length_window > 1:
        items = _by_length(items, records, recipe, rng)
    return items


def _group(record: Record, recipe: Recipe) -> Group:
    if record.image is None:
        return (TEXT,)
    if not record.is_risky:
        return (CLEAN,)
    return (RISKY, *{"level": (record.type, record.level), "type": (record.type,), "none": ()}[recipe.balance])


def _shares(sizes: dict[Group, int], recipe: Recipe) -> dict[Group, float]:
    kinds: Counter[str] = Counter()
    for group, size in sizes.items():
        kinds[group[0]] += size
    pictures = kinds[CLEAN] + kinds[RISKY]
    clean = kinds[CLEAN] / max(pictures, 1) if recipe.clean_share is None else recipe.clean_share
    text = recipe.text_only_share if recipe.stage == 2 else 0.0
    wanted = {TEXT: text, CLEAN: (1 - text) * clean, RISKY: (1 - text) * (1 - clean)}
    missing = [f"{share:.0%} {kind}" for kind, share in wanted.items() if share > 0 and not kinds[kind]]
    if missing or not kinds.total():
        held = ", ".join(f"{kinds[kind]} {kind}" for kind in wanted)
        without = {TEXT: "text_only_share=0", CLEAN: "clean_share=0", RISKY: "clean_share=1"}
        changes = [f"--set {without[kind]}" for kind, share in wanted.items() if share > 0 and not kinds[kind]]
        raise DataError(
            f"no training order in stage {recipe.stage}: expected samples for {', '.join(missing) or 'a stage'}, got "
            f"{held}. Add such records, or train without: change clean_share or text_only_share in the recipe"
            f"{f' ({changes[0]})' if len(changes) == 1 else ''}."
        )
    parts = Counter(group[0] for group in sizes)
    return {group: wanted[group[0]] / parts[group[0]] for group in sizes if wanted[group[0]] > 0}


def _split(slots: np.ndarray, shares: list[float]) -> list[np.ndarray]:
    """Cut into parts of these shares, each within one of exact."""
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * len(slots)).astype(int)
    return np.split(slots, ends[:-1])


def _cycle(members: list[int], count: int, rng: np.random.Generator) -> Iterator[int]:
    while count > 0:
        part = rng.permutation(members)[:count]
        count -= len(part)
        yield from part


def _by_length(
    items: list[TrainingItem], records: Sequence[Record], recipe: Recipe, rng: np.random.Generator
) -> list[TrainingItem]:
    """Batches of like lengths: sorted within a window of batches, whose batches are then shuffled."""

    def length(item: TrainingItem) -> tuple[bool, int]:
        record = records[item.record]
        if recipe.stage == 1:
            return item.asked, record.letters * item.asked
        hint = 100 if item.hinted and record.is_risky else 0  # letters, roughly
        return record.image is not None, record.letters + len(record.answer or "") + hint

    size, ordered = recipe.batch_size, []
    for start in range(0, len(items), size * recipe.length_window):
        window = sorted(items[start : start + size * recipe.length_window], key=length)
        batches = [window[at : at + size] for at in range(0, len(window), size)]
        for batch in rng.permutation(len(batches)):
            ordered += batches[batch]
    return ordered
