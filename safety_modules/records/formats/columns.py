"""Rows with the columns `image`, `type`, `level`, `question`, `answer`: what tables and samples have in common."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.images import EncodedImage
from safety_modules.records.record import Record
from safety_modules.records.source import Source
from safety_modules.taxonomy import CLEAN

LABELS = ("type", "level", "question", "answer")
COLUMNS = ("image", *LABELS)


@dataclass(frozen=True)
class Row:
    """A row: its picture (a file's name, or the picture) and its words by column; None where there is nothing."""

    image: str | Path | EncodedImage | None
    words: Mapping[str, Any]


def require_columns(found: Iterable[str], where: str) -> None:
    """DataError if a column is missing: a misspelt one must not read as an empty one."""
    found = list(found)
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise DataError(
            f"{where}: expected the columns {', '.join(COLUMNS)}, got {', '.join(found) or 'none'} "
            f"(without {', '.join(missing)}). Add or rename them; a column may be empty."
        )


def records(row: Row, where: str, source: Source) -> list[Record]:
    for name, value in row.words.items():
        if value is not None and not isinstance(value, str):
            raise DataError(f"{name}: expected words, got {value!r}.")
    type, level, question = (row.words.get(name) for name in ("type", "level", "question"))
    if not type:
        if level:
            raise DataError(f"level without type: expected both, got level {level!r} alone.")
        raise DataError(f"no type: expected one of {', '.join(source.taxonomy.labels)}, got nothing.")
    if not level:
        if type != CLEAN:
            raise DataError(f"no level: expected one of {', '.join(source.taxonomy.risky_levels)}, got nothing.")
        level = source.taxonomy.safe_level  # no other level is possible
    if not question or not question.strip():
        raise DataError("no question: expected words, got nothing.")
    return [
        Record(
            image=source.image_file(row.image) if isinstance(row.image, str) else row.image,
            question=question.strip(),
            answer=row.words.get("answer"),
            type=type,
            level=level,
            source=where,
        )
    ]
