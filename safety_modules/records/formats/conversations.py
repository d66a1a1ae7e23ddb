"""Conversations as LLaVA writes them: turns of user and assistant, `<image>` where the picture goes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.formats.base import DataEntry, EntryContent, LabelledQuestion
from safety_modules.records.formats.text import TextFormat, json_lines, json_list
from safety_modules.records.source import Source, as_object
from safety_modules.taxonomy import CLEAN

TAGGED = "<image> inside the text: expected words only; the image has its own field."
_IMAGE_TAG = re.compile(r"\s*<image>\s*")
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")


def has_turns(item: Mapping[str, Any]) -> bool:
    """Whether an object or a table's row holds a conversation."""
    return _turns(item) is not None


def conversation(
    item: Mapping[str, Any], type: str | None, level: str | None, where: str, source: Source, folder: Any = None
) -> EntryContent:
    """What an object with `conversations` (or `messages`) says: pictures, and the question of every user's turn, with
    the exchanges before it.
    """
    turns = _turns(item)
    asked: list[LabelledQuestion] = []
    is_tagged = False
    for turn in turns if isinstance(turns, list) else ():
        turn = turn if isinstance(turn, dict) else {}
        speaker = str(turn.get("from", turn.get("role"))).lower()
        said = turn.get("value", turn.get("content"))
        is_tagged |= isinstance(said, str) and "<image>" in said
        if speaker in _USER:
            before = [(one.question, one.answer) for one in asked]
            history = tuple((question, answer) for question, answer in before if question and answer)
            asked.append(LabelledQuestion(words(said), None, type, level, history=history))
        elif speaker in _ASSISTANT and asked and asked[-1].answer is None:
            asked[-1] = asked[-1]._replace(answer=said if isinstance(said, str) else None)
    pictures = source.pictures(item, where, folder)
    if is_tagged and not pictures:
        got = item.get("image")
        pictures = [DataError(f"image: expected a file name, got {got!r}, though <image> stands in the words.")]
    return EntryContent(pictures, asked or [LabelledQuestion(type=type, level=level)])


def check_turns(item: Mapping[str, Any], has_picture: bool, needs_answer: bool) -> None:
    """DataError for turns that training does not take.

    Args:
        item: with `conversations`, as `Jsonl` shows them.
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
    if len(turns) % 2 and needs_answer:
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


class Jsonl(TextFormat):
    """The published safety data (arXiv 2405.13581): one JSON object a line, labels as class indices.

    `{"image": "x.jpg", "safe_type": 0..6, "safe_level": 0..3, "conversations": [{"from": "USER", "value":
    "<image>\\n..."}, {"from": "ASSISTANT", "value": "..."}]}`. The assistant's last turn may be missing.
    """

    name = "jsonl"
    rule = "a file named `*.jsonl`"
    suffix = ".jsonl"

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        return json_lines(source)

    def sample(self, value: Any, where: str, source: Source) -> EntryContent:
        return labelled(as_object(value), where, source)

    def check(self, value: Any, sample: EntryContent, source: Source) -> None:
        if not sample.pictures:
            raise DataError(f"image: expected a file name, got {value.get('image')!r}.")
        if value.get("safe_type") is None and value.get("safe_level") is not None:
            raise DataError(f"level without type: expected both, got safe_level {value['safe_level']!r} alone.")
        for key, names in (("safe_type", source.taxonomy.labels), ("safe_level", source.taxonomy.levels)):
            if _name(value.get(key), names) is None:
                raise DataError(f"{key}: expected an integer 0..{len(names) - 1}, got {value.get(key)!r}.")
        check_turns(value, has_picture=True, needs_answer=False)


def labelled(item: dict[str, Any], where: str, source: Source) -> EntryContent:
    """A conversation with the labels of its object, where it has any."""
    type = _name(item.get("safe_type"), source.taxonomy.labels)
    level = _name(item.get("safe_level"), source.taxonomy.levels)
    return conversation(item, type, level, where, source)


def _name(value: Any, names: Sequence[str]) -> str | None:
    # bool is an int: True must not read as 1
    return names[value] if type(value) is int and 0 <= value < len(names) else None


class JsonList(TextFormat):
    """One list of objects that all have a key, and none another."""

    separator = ","
    key: str
    not_key: str

    def fits(self, source: Source, strict: bool) -> bool:
        """An audit is content with the first object."""
        if not source.path.endswith(".json") or not source.file.is_file():
            return False
        items = (entry.value for entry in json_list(source) if entry.where)
        fit = (isinstance(item, dict) and self.key in item and self.not_key not in item for item in items)
        first = next(fit, False)
        return first and (not strict or all(fit))

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        return json_list(source)


class Llava(JsonList):
    """LLaVA's instruction data: one JSON list of objects with `conversations` and an optional `image`; all of it clean.

    An object with a `safe_type` or `safe_level` is refused: that file is mislabelled or misnamed.
    """

    name = "llava"
    rule = "a file named `*.json`; every object has `conversations`, none `instr-resp`"
    key, not_key = "conversations", "instr-resp"
    unlabelled = CLEAN

    def sample(self, value: Any, where: str, source: Source) -> EntryContent:
        return labelled(as_object(value), where, source)

    def check(self, value: Any, sample: EntryContent, source: Source) -> None:
        if "safe_type" in value or "safe_level" in value:
            raise DataError("expected clean data without labels, got safe_type or safe_level. Use .jsonl.")
        check_turns(value, has_picture=bool(sample.pictures), needs_answer=True)
