"""The published safety data (arXiv 2405.13581): one JSON object a line, labels as class indices.

`{"image": "x.jpg", "safe_type": 0..6, "safe_level": 0..3, "conversations": [{"from": "USER", "value":
"<image>\\n..."}, {"from": "ASSISTANT", "value": "..."}]}`. The assistant's turn may be missing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.entries import Entry, Sample
from safety_modules.records.formats.conversations import check_turns, conversation
from safety_modules.records.formats.text import TextFormat, json_lines
from safety_modules.records.source import Source, as_object


class Jsonl(TextFormat):
    name = "jsonl"
    rule = "a file named `*.jsonl`"

    def fits(self, source: Source, strict: bool) -> bool:
        return source.path.endswith(".jsonl") and not source.file.is_dir()

    def entries(self, source: Source, pictures: bool = True) -> Iterator[Entry]:
        return json_lines(source)

    def sample(self, value: Any, where: str, source: Source) -> Sample:
        return labelled(as_object(value), where, source)

    def check(self, value: Any, sample: Sample, source: Source) -> None:
        if not sample.pictures:
            raise DataError(f"image: expected a file name, got {value.get('image')!r}.")
        if value.get("safe_type") is None and value.get("safe_level") is not None:
            raise DataError(f"level without type: expected both, got safe_level {value['safe_level']!r} alone.")
        for key, names in (("safe_type", source.taxonomy.labels), ("safe_level", source.taxonomy.levels)):
            if _name(value.get(key), names) is None:
                raise DataError(f"{key}: expected an integer 0..{len(names) - 1}, got {value.get(key)!r}.")
        check_turns(value, has_picture=True, needs_answer=False)


def labelled(item: dict[str, Any], where: str, source: Source) -> Sample:
    """A conversation with the labels of its object, where it has any."""
    type = _name(item.get("safe_type"), source.taxonomy.labels)
    level = _name(item.get("safe_level"), source.taxonomy.levels)
    return conversation(item, type, level, where, source)


def _name(value: Any, names: Sequence[str]) -> str | None:
    # bool is an int: True must not read as 1
    return names[value] if type(value) is int and 0 <= value < len(names) else None
