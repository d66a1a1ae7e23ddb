"""Benchmarks that are one table with a case in each row: what `benchmarks.yaml` says of them, and their reader."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from safety_modules.evaluation.cases import Case, Wanted
from safety_modules.evaluation.suites.reader import BenchmarkReader, Row, behaviour, identity, one_of, words
from safety_modules.records.source import as_object


class Choice(BaseModel):
    """Parts by the values of a column, such as `type`, or `metadata.over` for one of an object in the row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    values: dict[str, str]


class BenchmarkTable(BaseModel):
    """How the rows of one table become cases. `{column}` in a text is filled from the row.

    Attributes:
        files: where the table may be: CSV with these `columns`, a JSON list of objects, or, if `keyed`, a JSON object
            of objects, whose keys then stand in the column `key`.
        id, prompt, category, meta: of the case; the category `part` is the case's part.
        image: name of the picture; None = there is none.
        places: folders and archives it may be in.
        part: of the case.
        wanted: the right behaviour, of all cases or by part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[str, ...]
    columns: tuple[str, ...] = ()
    keyed: bool = False
    id: str
    prompt: str
    category: str
    meta: dict[str, str] = {}
    image: str | None = None
    places: tuple[str, ...] = ()
    part: str | Choice
    wanted: Wanted | dict[str, Wanted]

    def take(self, reading: BenchmarkReader) -> None:
        """Add a case for every row."""
        for where, row in self._rows(reading):
            with reading.row(where):
                cells, part = _Cells(row, words), self._part(row)
                wanted = self.wanted if isinstance(self.wanted, str) else self.wanted[part]
                image = () if self.image is None else (reading.picture(cells.fill(self.image), *self.places),)
                reading.add(
                    Case(
                        id=_Cells(row, identity).fill(self.id),
                        part=part,
                        prompt=cells.fill(self.prompt),
                        images=image,
                        category=part if self.category == "part" else cells.fill(self.category),
                        meta={name: cells.fill(text) for name, text in self.meta.items()},
                        **behaviour(wanted == "answer", wanted),
                    )
                )

    def _rows(self, reading: BenchmarkReader) -> Iterator[tuple[str, Row]]:
        path = reading.find(*self.files)
        if self.keyed:
            return ((where, row | {"key": key}) for where, key, row in reading.entries(path))
        return reading.csv(path, self.columns) if self.columns else reading.json_list(path)

    def _part(self, row: Row) -> str:
        if isinstance(self.part, str):
            return _Cells(row, words).fill(self.part)
        *objects, key = self.part.column.split(".")
        for name in objects:
            row = as_object(row.get(name))
        return self.part.values[one_of(row, key, tuple(self.part.values))]


class _Cells(dict[str, Any]):
    """A row to fill texts from; `read` refuses what is no words (or, for an id, no whole number) with a DataError."""

    def __init__(self, row: Row, read: Callable[[Row, str], str]) -> None:
        super().__init__(row)
        self._read = read

    def __getitem__(self, key: str) -> str:
        return self._read(dict(self), key)

    def fill(self, text: str) -> str:
        return text.format_map(self)
