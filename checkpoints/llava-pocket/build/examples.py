"""What language.py trains on: pictures, conversations about them, and their token ids."""

from typing import NamedTuple

import numpy as np
import torch
from conversations import SYSTEM, Exchange, Talker
from labels import BACKGROUND, CLASS_INDEX, CLASSES, GRID, NUMBERS, render_labelled
from torch import Tensor
from transformers import LlavaProcessor

from safety_modules.pocket.scenes import COLOURS

PATCHES = GRID * GRID
NAMES = (*CLASSES, *COLOURS)


class Example(NamedTuple):
    """One conversation: token ids, which of them are trained on, and the row of its picture's features (-1: none)."""

    ids: list[int]
    trained: list[bool]
    picture: int


def encode(processor: LlavaProcessor, said: list[Exchange], picture: int, system: bool) -> Example:
    """Token ids of a conversation exactly as the chat template and processor give them; answers are trained on."""
    tokenizer = processor.tokenizer
    ids: list[int] = []
    trained: list[bool] = []
    for number, exchange in enumerate(said):
        before = (SYSTEM + " " if system and not number else "") + "USER: "
        before += "<image>\n" if picture >= 0 and not number else ""
        # Pieces are tokenised as they stand in the whole: only the first one starts a text.
        prompt = tokenizer(before + exchange.question + " ASSISTANT:", add_special_tokens=False).input_ids
        whole = tokenizer(
            before + exchange.question + " ASSISTANT: " + exchange.answer + "</s>", add_special_tokens=False
        ).input_ids
        if number:  # drop the leading metaspace that only a text's start gets
            prompt, whole = _after_end(tokenizer, prompt, before), _after_end(tokenizer, whole, before)
        image = tokenizer.convert_tokens_to_ids("<image>")
        for piece, answer in ((prompt, False), (whole[len(prompt) :], True)):
            for token in piece:
                repeat = PATCHES if token == image else 1
                ids += [token] * repeat
                trained += [answer] * repeat
    return Example(ids, trained, picture)


def _after_end(tokenizer, ids: list[int], before: str) -> list[int]:  # type: ignore[no-untyped-def]
    """The ids of a later turn, tokenised as after `</s>`."""
    first = tokenizer(before.strip(), add_special_tokens=False).input_ids
    later = tokenizer("</s>" + before.strip(), add_special_tokens=False).input_ids[1:]
    return later + ids[len(first) :]


class Drawn(NamedTuple):
    """Pictures (N, 96, 96, 3) uint8, what lies under each patch (N, 64) as indices into `NAMES`, and conversations."""

    pixels: np.ndarray
    patches: np.ndarray
    talks: list[list[Exchange]]


def draw(count: int, seed: int, style: str) -> Drawn:
    """Some pictures and a conversation of five turns about each."""
    rng = np.random.default_rng(seed)
    talker = Talker(rng, style=style)
    pixels, patches, talks = [], [], []
    for _ in range(count):
        scene, said = talker.about_picture(5)
        picture, labels = render_labelled(scene, rng, strong=bool(rng.random() < 0.5))
        colour = len(CLASSES) + list(COLOURS).index(scene.background)
        patches.append(np.where(labels == CLASS_INDEX[BACKGROUND], colour, labels))
        pixels.append(picture)
        talks.append(said)
    return Drawn(np.stack(pixels), np.stack(patches), talks)


def name_tokens(processor: LlavaProcessor) -> Tensor:
    """First token of each of `NAMES` as it stands inside a sentence; -100 for what has no name."""
    tokenizer = processor.tokenizer
    ids = [tokenizer(f"a {name.removeprefix('text: ')}", add_special_tokens=False).input_ids[1] for name in NAMES]
    ids[CLASS_INDEX[NUMBERS]] = ids[CLASS_INDEX[BACKGROUND]] = -100
    return torch.tensor(ids)


def batches(examples: list[Example], size: int, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Endless batches of conversations of similar length."""
    while True:
        order = rng.permutation(len(examples))
        for start in range(0, len(order) - size * 8 + 1, size * 8):
            part = sorted(order[start : start + size * 8], key=lambda index: len(examples[index].ids))
            for first in rng.permutation(8) * size:
                yield [examples[index] for index in part[first : first + size]]


def corpus(talks: list[list[Exchange]], texts: list[list[Exchange]]) -> list[str]:
    """What the tokenizer is made for; every name occurs often enough to become a token of its own."""
    lines = [f"USER: <image>\n{e.question} ASSISTANT: {e.answer}" for said in talks[::3] + texts[::2] for e in said]
    names = [f"a {name.removeprefix('text: ')}" for name in NAMES] * 200
    return [*lines, *[f"\n{line}" for line in lines], *[SYSTEM] * 50, *names]
