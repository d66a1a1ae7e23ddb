"""A prompt's text in the parts that are judged one by one: turns, sentences, windows. Knows no tokenizer."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WINDOW, STEP = 24, 6
"""Tokens of a window, and from one to the next: a sentence longer than a window is also judged window by window."""

# Behind the mark, so that "3.5" and "e.g." within a word stay whole; Chinese and Japanese have no space there.
_ENDS = re.compile(r"(?<=[.!?;\n])\s+|(?<=[。！？；])")


class Part(NamedTuple):
    """A part of what is said: its text, whether it is judged as a whole, whether also window by window."""

    text: str
    whole: bool
    in_windows: bool


def parts(text: str, user: str, assistant: str) -> Iterator[Part]:
    """Turns where there are several, and sentences of a turn that has several.

    An answer is not cut into sentences: it is long, and mostly the model's own. A user may type one, too, so that it
    is judged like any turn, and in windows.

    Args:
        text: without the prompt's first role marker.
        user: marker of a user's turn.
        assistant: marker of an answer.
    """
    said = re.split(f"({user}|{assistant})", user + text)[1:]
    turns = [(role, turn.strip()) for role, turn in zip(said[::2], said[1::2], strict=True) if turn.strip()]
    for role, turn in turns:
        sentences = [one for one in _ENDS.split(turn) if any(map(str.isalpha, one))] if role == user else []
        several = len(sentences) > 1
        yield Part(turn, len(turns) > 1, not several)
        if several:
            yield from (Part(sentence, True, True) for sentence in sentences)


def windows(ids: Sequence[int]) -> list[list[int]]:
    """Overlapping windows over ids that are longer than one; their ends are always in one."""
    if len(ids) <= WINDOW:
        return []
    starts = [*range(0, len(ids) - WINDOW, STEP), len(ids) - WINDOW]
    return [list(ids[start : start + WINDOW]) for start in starts]
