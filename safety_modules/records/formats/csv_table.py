"""CSV with a header, UTF-8: a table of `columns`. An empty cell is nothing: no picture, no answer."""

import csv
from collections.abc import Iterator
from io import StringIO

from safety_modules.errors import DataError
from safety_modules.records.formats.columns import LABELS, Row, require_columns
from safety_modules.records.record import Problem
from safety_modules.records.source import Source


def items(source: Source) -> Iterator[tuple[str, Row] | Problem]:
    rows = csv.reader(StringIO(source.text(), newline=""), strict=True)
    header: list[str] | None = None
    line = 0
    try:
        for cells in rows:
            where, line = f"{source.path}:{line + 1}", rows.line_num  # a quoted cell may span lines
            if header is None:
                header = cells
                require_columns(header, where)
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: expected each column once, got {', '.join(header)}. Rename one.")
            elif cells and len(cells) != len(header):
                yield Problem(source=where, reason=f"expected {len(header)} cells, got {len(cells)}.")
            elif cells:
                row = {name: cell or None for name, cell in zip(header, cells, strict=True)}
                yield where, Row(row["image"], {name: row[name] for name in LABELS})
    except csv.Error as error:
        raise DataError(f"{source.path}:{rows.line_num}: not CSV: {error}. Correct the quotes.") from error
