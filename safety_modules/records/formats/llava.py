"""LLaVA's instruction data: one JSON list of objects with `conversations` and an optional `image`; all of it clean.

An object with a `safe_type` or `safe_level` is refused: that file is mislabelled or misnamed.
"""

from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.formats.conversations import conversation_records
from safety_modules.records.record import Record
from safety_modules.records.source import Source, as_object, json_items
from safety_modules.taxonomy import CLEAN

items = json_items


def records(item: Any, where: str, source: Source) -> list[Record]:
    item = as_object(item)
    if "safe_type" in item or "safe_level" in item:
        raise DataError("expected clean data without labels, got safe_type or safe_level. Use .jsonl.")
    return conversation_records(
        item.get("conversations"),
        needs_answer=True,
        image=None if item.get("image") is None else source.image_file(item["image"]),
        type=CLEAN,
        level=source.taxonomy.safe_level,
        where=where,
    )
