"""Conversations as LLaVA writes them: turns of user and assistant, `<image>` where the picture goes."""

import re
from collections.abc import Mapping
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.entries import Asked, Sample
from safety_modules.records.source import Source

TAGGED = "<image> inside the text: expected words only; the image has its own field."
_IMAGE_TAG = re.compile(r"\s*<image>\s*")
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")


def has_turns(item: Mapping[str, Any]) -> bool:
    """Whether an object or a table's row holds a conversation."""
    return _turns(item) is not None


def conversation(
    item: Mapping[str, Any], type: str | None, level: str | None, where: str, source: Source, folder: Any = None
) -> Sample:
    """What an object with `conversations` (or `messages`) says: pictures, and the question of every user's turn."""
    turns = _turns(item)
    asked: list[Asked] = []
    is_tagged = False
    for turn in turns if isinstance(turns, list) else ():
        turn = turn if isinstance(turn, dict) else {}
        speaker = str(turn.get("from", turn.get("role"))).lower()
        said = turn.get("value", turn.get("content"))
        is_tagged |= isinstance(said, str) and "<image>" in said
        if speaker in _USER:
            asked.append(Asked(words(said), None, type, level))
        elif speaker in _ASSISTANT and asked and asked[-1].answer is None:
            asked[-1] = asked[-1]._replace(answer=said if isinstance(said, str) else None)
    pictures = source.pictures(item, where, folder)
    if is_tagged and not pictures:
        got = item.get("image")
        pictures = [DataError(f"image: expected a file name, got {got!r}, though <image> stands in the words.")]
    return Sample(pictures, asked or [Asked(type=type, level=level)])


def check_turns(item: Mapping[str, Any], has_picture: bool, needs_answer: bool) -> None:
    """DataError for turns that training does not take.

    Args:
        item: with `conversations`: `[{"from": "USER", "value": "<image>\\n..."}, {"from": "ASSISTANT", "value":
            "..."}, ...]`.
        has_picture: whether `<image>` must stand in it, once, in the first question.
        needs_answer: whether a single question must have an answer.
    """
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"conversations: expected a list of turns, got {turns!r}.")
    for index, turn in enumerate(turns):
        wanted = _ASSISTANT if index % 2 else _USER
        speaker = turn.get("from") if isinstance(turn, dict) else None
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker.lower() not in wanted or not isinstance(value, str):
            raise DataError(
                f"conversations: expected turn {index} to be {{'from': {wanted[0].upper()!r}, 'value': text}}"
                f", got {turn!r}."
            )
    if len(turns) % 2 and (needs_answer or len(turns) > 1):
        raise DataError("conversations: expected an answer to every question, got none for the last.")
    questions = [turn["value"] for turn in turns[::2]]
    tags = [question.count("<image>") for question in questions]
    expected = [int(has_picture)] + [0] * (len(questions) - 1)
    if tags != expected:
        raise DataError(
            f"<image> count: expected {expected} by question (one, in the first, if there is an image), got {tags}."
        )
    if not all(map(words, questions)):
        raise DataError("conversations: expected words in every question, got none.")


def words(value: Any) -> str | None:
    """Words without the picture's place; None where there are none."""
    if isinstance(value, list):  # of parts, as chat templates take them
        value = "\n".join(
            part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(value, str):
        return None
    return (_IMAGE_TAG.sub("\n", value) if "<image>" in value else value).strip() or None


def _turns(item: Mapping[str, Any]) -> Any:
    turns = item.get("conversations")
    return item.get("messages") if turns is None else turns
