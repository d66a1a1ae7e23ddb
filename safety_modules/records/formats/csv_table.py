"""CSV with a header, UTF-8: a table. An empty cell is nothing: no picture, no answer; a row of them is none."""

import csv
from collections.abc import Iterator

from safety_modules.errors import DataError
from safety_modules.records.entries import Entry
from safety_modules.records.formats.columns import Cells, Table, picture_columns
from safety_modules.records.formats.text import MARK, TextFormat, open_text
from safety_modules.records.source import Source

LIMIT = 1 << 28
"""Characters of a cell, which may be a picture in base64."""


class Csv(TextFormat, Table):
    name = "csv"
    rule = "a file named `*.csv`"

    def fits(self, source: Source, strict: bool) -> bool:
        return source.path.endswith(".csv") and not source.file.is_dir()

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
