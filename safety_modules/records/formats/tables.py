"""Tables: rows with the columns `image`, `type`, `level`, `question`, `answer`, or `conversations` instead; and CSV."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safety_modules.errors import DataError
from safety_modules.records.formats.base import Asked, Entry, Format, Sample
from safety_modules.records.formats.conversations import TAGGED, conversation, has_turns, words
from safety_modules.records.formats.text import MARK, TextFormat, open_text
from safety_modules.records.source import Source
from safety_modules.taxonomy import CLEAN

LABELS = ("type", "level", "question", "answer")
READ = (*LABELS, "conversations", "messages")
"""Columns that are read beside those of the pictures."""
LIMIT = 1 << 28
"""Characters of a cell, which may be a picture in base64."""


class Cells(NamedTuple):
    """A row."""

    cells: Mapping[str, Any]  # by column
    folder: Path  # where relative names of pictures in it start


class Table(Format):
    """What all tables have in common; the value of an entry is its `Cells`."""

    def sample(self, value: Any, where: str, source: Source) -> Sample:
        cells = value.cells
        type, level, answer = (
            word if isinstance(word := cells.get(name), str) and word else None for name in ("type", "level", "answer")
        )
        if has_turns(cells):
            return conversation(cells, type, level, where, source, value.folder)
        pictures = source.pictures(cells, where, value.folder)
        return Sample(pictures, [Asked(words(cells.get("question")), answer, type, level)])

    def check(self, value: Any, sample: Sample, source: Source) -> None:
        cells = value.cells
        for name in LABELS:
            if not isinstance(word := cells.get(name), str | None):
                raise DataError(f"{name}: expected words, got {word!r}.")
        type, level, question = (cells.get(name) for name in ("type", "level", "question"))
        if not type:
            if level:
                raise DataError(f"level without type: expected both, got level {level!r} alone.")
            raise DataError(f"no type: expected one of {', '.join(source.taxonomy.labels)}, got nothing.")
        if not level and type != CLEAN:  # where no other level is possible
            raise DataError(f"no level: expected one of {', '.join(source.taxonomy.risky_levels)}, got nothing.")
        if not question or not question.strip():
            raise DataError("no question: expected words, got nothing.")
        if "<image>" in question:
            raise DataError(TAGGED)

    def check_header(self, columns: list[str], where: str) -> None:
        missing = [name for name in LABELS if name not in columns]
        if missing:  # a misspelt column must not read as an empty one
            raise DataError(
                f"{where}: expected the columns image, {', '.join(LABELS)}, got {', '.join(columns) or 'none'} "
                f"(without {', '.join(missing)}). Add or rename them; a column may be empty."
            )


def picture_columns(found: Iterable[str], where: str, source: Source) -> list[str]:
    """Those columns that name or hold pictures. Raises DataError where there is none, or not all that are asked for."""
    found = list(found)
    columns = [name for name in source.image_keys if name in found]
    if not columns or (source.options.image_key is not None and len(columns) < len(source.image_keys)):
        wanted = "image" if source.options.image_key is None else source.options.image_key
        raise DataError(
            f"{where}: expected a column {wanted}, got {', '.join(found) or 'none'}. Rename the pictures', or name it "
            "(ReadOptions.image_key, --image-key)."
        )
    return columns


class Csv(TextFormat, Table):
    name = "csv"
    rule = "a file named `*.csv`"
    suffix = ".csv"

    def entries(self, source: Source, pictures: bool = True) -> Iterator[Entry]:
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for number, line in enumerate(file):
                taken.append(line)
                yield line if number else line.removeprefix(MARK)

        with open_text(source) as file:
            header: list[str] | None = None
            rows = csv.reader(lines(), strict=True)
            line = 1
            for cells in _within_limit(rows, source.path):
                raw, where, line = "".join(taken), f"{source.path}:{line}", rows.line_num + 1
                taken.clear()
                if header is None:
                    header = [name.strip() for name in cells]
                    _check(header, where, source)
                    yield Entry(value=header, raw=raw)
                elif not any(cells):
                    yield Entry(raw=raw)
                elif len(cells) != len(header):
                    yield Entry(where, fault=f"expected {len(header)} cells, got {len(cells)}.", raw=raw)
                else:
                    row = {name: cell or None for name, cell in zip(header, cells, strict=True)}
                    yield Entry(where, Cells(row, source.folder), raw=raw)
            yield Entry(raw="".join(taken))


def _within_limit(rows: Iterator[list[str]], path: str) -> Iterator[list[str]]:
    """The rows, with a limit of cells that is set for each of them alone: it is the whole process's."""
    while True:
        before = csv.field_size_limit(LIMIT)
        try:
            row = next(rows, None)
        except csv.Error as error:
            line = getattr(rows, "line_num", 0)
            raise DataError(f"{path}:{line}: not CSV: {error}. Correct the quotes up to this line.") from error
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        yield row


def _check(header: list[str], where: str, source: Source) -> None:
    if len(set(header)) < len(header):
        raise DataError(f"{where}: expected each column once, got {', '.join(header)}. Rename one.")
    if len(header) == 1 and (sign := next((one for one in ";\t|" if one in header[0]), None)):
        raise DataError(
            f"{where}: expected commas between columns, got {header[0]!r}, which has {sign!r}. Save it with commas."
        )
    picture_columns(header, where, source)
