"""What language.py trains on: pictures, conversations about them and without any, and their token ids."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from conversations import SYSTEM, Talker
from hints import Exchange
from labels import BACKGROUND, CLASS_INDEX, CLASSES, GRID, NUMBERS, render_labelled, under_patches
from torch import Tensor
from transformers import LlavaProcessor

from safety_modules.pocket import rewording
from safety_modules.pocket.scenes import COLOURS, Scene
from safety_modules.pocket.sentences import free_text
from safety_modules.pocket.transforms import TRANSFORMS

PATCHES = GRID * GRID
NAMES = (*CLASSES, *COLOURS)
CHANGED = 0.35
"""Share of the pictures that some transform changes."""
TURNS = 5
SORTED = 256
"""Conversations that are sorted by length before they are cut into batches."""


class Example(NamedTuple):
    """One conversation: token ids, which of them are trained on, and the row of its picture's features (-1: none)."""

    ids: np.ndarray
    trained: np.ndarray
    picture: int


def encode(processor: LlavaProcessor, said: Sequence[Exchange], picture: int, system: bool) -> Example:
    """Token ids of a conversation exactly as the chat template and processor give them; answers are trained on.

    Args:
        picture: row of its features; -1 for a conversation without one.
        system: whether a system message comes first.
    """
    text, spans = SYSTEM + " " if system else "", []
    for number, exchange in enumerate(said):
        text += "USER: " + ("<image>\n" if picture >= 0 and not number else "") + exchange.question + " ASSISTANT:"
        begin = len(text)
        text += f" {exchange.answer}</s>"
        if exchange.trained:
            spans.append((begin, len(text)))
    found = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(found.input_ids, np.int32)
    starts = np.array([start for start, _ in found.offset_mapping])
    trained = np.zeros(len(ids), bool)
    for begin, end in spans:
        trained |= (starts >= begin) & (starts < end)
    repeats = np.where(ids == processor.tokenizer.convert_tokens_to_ids("<image>"), PATCHES, 1)
    return Example(ids.repeat(repeats), trained.repeat(repeats), picture)


class Talks(NamedTuple):
    """Scenes, a conversation about each, and conversations without any."""

    scenes: list[Scene]
    about: list[list[Exchange]]
    texts: list[list[Exchange]]


def talks(count: int, seed: int, style: str) -> Talks:
    """So many scenes, some turns about each, and twice as many conversations without a picture."""
    rng = np.random.default_rng(seed)
    talker = Talker(rng, style=style, changed=CHANGED)
    pairs = [talker.about_picture(TURNS) for _ in range(count)]
    texts = [talker.text_only(int(rng.integers(2, 7))) for _ in range(2 * count)]
    return Talks([scene for scene, _ in pairs], [said for _, said in pairs], texts)


def draw(scenes: Sequence[Scene], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each scene its picture, (96, 96, 3) uint8, and what lies under each patch, (64,) indices into `NAMES`.

    Where a transform moved it, nobody knows what lies where: background, which has no name.
    """
    rng = np.random.default_rng(seed)
    unknown = CLASS_INDEX[BACKGROUND]
    for scene in scenes:
        picture, classes = render_labelled(scene, rng, strong=bool(rng.random() < 0.5))
        labels = under_patches(torch.from_numpy(classes)[None])[0].numpy()
        change = TRANSFORMS[scene.transform] if scene.transform else None
        if change and (change.moves or change.cuts):
            labels = np.full(PATCHES, unknown)
        elif not (change and change.recolours):
            labels = np.where(labels == unknown, len(CLASSES) + list(COLOURS).index(scene.background), labels)
        yield picture, labels


def name_tokens(processor: LlavaProcessor) -> Tensor:
    """First token of each of `NAMES` as it stands inside a sentence; -100 for what has no name."""
    tokenizer = processor.tokenizer
    ids = [tokenizer(f"a {name.removeprefix('text: ')}", add_special_tokens=False).input_ids[1] for name in NAMES]
    ids[CLASS_INDEX[NUMBERS]] = ids[CLASS_INDEX[BACKGROUND]] = -100
    return torch.tensor(ids)


def batches(examples: Sequence[Example], tokens: int, seed: Sequence[int], skipped: int) -> Iterator[list[Example]]:
    """Endless batches of conversations of similar length, each of at most so many tokens with its padding.

    Args:
        seed: the same seed gives the same batches.
        skipped: batches that were had before; the next one comes first.
    """
    epoch, left = 0, skipped
    lengths = np.array([len(example.ids) for example in examples])
    while True:
        rng = np.random.default_rng([*seed, epoch])
        order = rng.permutation(len(examples))
        parts: list[list[int]] = []
        for start in range(0, len(order), SORTED):
            found: list[int] = []
            for index in sorted(order[start : start + SORTED], key=lambda index: lengths[index]):
                if found and lengths[index] * (len(found) + 1) > tokens:
                    parts.append(found)
                    found = []
                found.append(index)
            parts.append(found)
        for place in rng.permutation(len(parts)):
            if left:
                left -= 1
            else:
                yield [examples[index] for index in parts[place]]
        epoch += 1


def corpus(found: Talks, rng: np.random.Generator) -> list[str]:
    """What the tokenizer is made for: all that is said, much of it in capitals or mistyped, and every name often."""
    about = [f"USER: <image>\n{e.question} ASSISTANT: {e.answer}" for said in found.about[::3] for e in said]
    lines = [*about, *(f"USER: {e.question} ASSISTANT: {e.answer}" for said in found.texts[::3] for e in said)]
    free = [free_text(40, "train", rng) for _ in range(1500)]
    names = [f"a {name.removeprefix('text: ')}" for name in NAMES]
    loud = [line.upper() for line in (*lines[::6], *free[::3], *names * 40)]
    wrong = [rewording.mistyped(line, "train", rng).question for line in lines[::8]]
    return [*lines, *[f"\n{line}" for line in lines], *free, *loud, *wrong, *[SYSTEM] * 50, *names * 200]
