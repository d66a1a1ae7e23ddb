"""LLaVA's instruction data: one JSON list of objects with `conversations` and an optional `image`; all of it clean.

An object with a `safe_type` or `safe_level` is refused: that file is mislabelled or misnamed.
"""

from collections.abc import Iterator
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.entries import Entry, Sample
from safety_modules.records.formats.conversations import check_turns
from safety_modules.records.formats.jsonl import labelled
from safety_modules.records.formats.text import TextFormat, json_list
from safety_modules.records.source import Source, as_object
from safety_modules.taxonomy import CLEAN


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

    def entries(self, source: Source, pictures: bool = True) -> Iterator[Entry]:
        return json_list(source)


class Llava(JsonList):
    name = "llava"
    rule = "a file named `*.json`; every object has `conversations`, none `instr-resp`"
    key, not_key = "conversations", "instr-resp"
    unlabelled = CLEAN

    def sample(self, value: Any, where: str, source: Source) -> Sample:
        return labelled(as_object(value), where, source)

    def check(self, value: Any, sample: Sample, source: Source) -> None:
        if "safe_type" in value or "safe_level" in value:
            raise DataError("expected clean data without labels, got safe_type or safe_level. Use .jsonl.")
        check_turns(value, has_picture=bool(sample.pictures), needs_answer=True)
