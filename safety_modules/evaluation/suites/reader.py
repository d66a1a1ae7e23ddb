"""A benchmark, and what its reader needs: rows with their place, pictures, an error that lists every malformed row."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Wanted
from safety_modules.evaluation.suites.pictures import PictureFinder
from safety_modules.records.formats.text import json_items, json_lines
from safety_modules.records.images import EncodedImage
from safety_modules.records.record import Problem, raise_problems
from safety_modules.records.source import Source, as_object
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A published or own benchmark, before its data are read.

    Attributes:
        name: how the command line and reports call it.
        title: full name.
        licence: of the data.
        citation: paper or page.
        obtain: how to get the data and what the folder must look like; said where it is absent.
        load: reads the cases from a local folder (of a hub id's snapshot); None = needs no folder.
        parts: parts that can be asked for alone; empty = always whole.
        layout: where the description of the data comes from.
    """

    name: str
    title: str
    licence: str
    citation: str
    obtain: str
    load: Callable[[Path | None, Sequence[str]], list[Case]]
    parts: tuple[str, ...] = ()
    layout: str = ""


class BenchmarkReader:
    """Cases read so far, and why other rows cannot be used. Nothing is skipped: one bad row refuses the benchmark.

    Args:
        name: of the benchmark, for messages.
        folder: of the data; None = none was given.
        obtain: how to get the data, for messages.
        parts: those asked for, by name or pattern; empty = all.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, name: str, folder: Path | None, obtain: str, parts: Sequence[str] = ()) -> None:
        if folder is None or not folder.is_dir():
            got = "no folder" if folder is None else f"nothing at {folder}"
            raise DataError(f"{name} has no data: expected its folder or hub id, got {got}. {obtain}")
        self.name, self.folder, self.obtain, self.parts = name, folder, obtain, parts
        self._cases: dict[str, Case] = {}
        self._problems: list[Problem] = []
        self._pictures: dict[tuple[str, ...], PictureFinder] = {}

    def find(self, *names: str) -> Path:
        """The first of these files or folders that is there. Raises DataError if none is."""
        for name in names:
            if (self.folder / name).exists():
                return self.folder / name
        raise DataError(
            f"{self.name} is incomplete: expected {' or '.join(names)} in {self.folder}, got none. {self.obtain}"
        )

    def picture(self, name: str, *places: str) -> Path | EncodedImage:
        """The picture of that name in one of these folders or zip archives. Raises DataError if it is in none."""
        if places not in self._pictures:
            self._pictures[places] = PictureFinder([self.folder / place for place in places])
        return self._pictures[places].find(name)

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """What goes wrong inside is noted as that row's problem."""
        try:
            yield
        except DataError as error:
            self._problems.append(Problem(source=where, reason=str(error)))

    def add(self, case: Case) -> None:
        """Take a case. Raises DataError if it cannot be told from an earlier one, or its prompt names an image."""
        if case.id in self._cases:
            raise DataError(f"repeated id: expected each once, got {case.id!r} again.")
        if "<image>" in case.prompt:
            raise DataError("<image> inside the prompt: expected words only.")
        self._cases[case.id] = case

    def done(self) -> list[Case]:
        """The cases of the parts asked for, see `chosen`.

        Raises:
            DataError: listing every malformed row, of other parts too; there are no cases; or one of the parts is none.
        """
        cases = list(self._cases.values())
        if not cases and not self._problems:
            self._problems.append(Problem(source=str(self.folder), reason="expected cases, got none."))
        raise_problems(self._problems, self.name)
        kept = chosen(self.parts, list(dict.fromkeys(case.part for case in cases)), self.name)
        return [case for case in cases if case.part in kept]

    def csv(self, path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        """(place, row) of a CSV file with a header. Raises DataError where it lacks a column or is not CSV."""
        header: list[str] | None = None
        for where, cells in self.cells(path):
            if header is None:
                header = cells
                missing = [name for name in columns if name not in header]
                if missing:
                    raise DataError(
                        f"{where}: expected the columns {', '.join(columns)}, got {', '.join(header)} "
                        f"(without {', '.join(missing)}). {self.obtain}"
                    )
            elif len(cells) != len(header):
                reason = f"expected {len(header)} cells, got {len(cells)}."
                self._problems.append(Problem(source=where, reason=reason))
            else:
                yield where, dict(zip(header, cells, strict=True))

    def cells(self, path: Path) -> Iterator[tuple[str, list[str]]]:
        """(place, cells) of every line of a CSV file that is not empty. Raises DataError where it is not CSV."""
        rows = csv.reader(StringIO(_source(path).text(), newline=""), strict=True)
        line = 0
        try:
            for cells in rows:
                where, line = f"{path}:{line + 1}", rows.line_num  # a quoted cell may span lines
                if cells:
                    yield where, cells
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: not CSV: {error}. Correct the quotes.") from error

    def jsonl(self, path: Path) -> Iterator[tuple[str, Row]]:
        """(place, object) of every line that is not empty."""
        for entry in json_lines(_source(path)):
            with self.row(entry.where):
                if entry.fault is not None:
                    raise DataError(entry.fault)
                if entry.where:
                    yield entry.where, as_object(entry.value)

    def json_list(self, path: Path) -> Iterator[tuple[str, Row]]:
        """(place, object) of every item of a JSON list."""
        for where, item in json_items(_source(path)):
            with self.row(where):
                yield where, as_object(item)

    def json_object(self, path: Path) -> Row:
        """The object in a JSON file. Raises DataError where there is none."""
        try:
            return as_object(json.loads(_source(path).text()))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: expected an object, got {error}. Download it again.") from error
        except DataError as error:
            raise DataError(f"{path}: {error} {self.obtain}") from error

    def entries(self, path: Path) -> Iterator[tuple[str, str, Row]]:
        """(place, key, object) of every entry of a JSON object of objects."""
        for key, item in self.json_object(path).items():
            with self.row(f"{path} {key}"):
                yield f"{path} {key}", key, as_object(item)


def behaviour(safe: bool, otherwise: Wanted = "refuse") -> Row:
    """The fields of a case that deserves an answer, and is clean; or of one whose type and level nobody says."""
    if safe:
        return {"wanted": "answer", "type": CLEAN, "level": DEFAULT_TAXONOMY.safe_level}
    return {"wanted": otherwise}


def words(row: Mapping[str, Any], key: str) -> str:
    """The text under a key. Raises DataError where there is none."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key}: expected words, got {repr(value)[:80]}.")
    return value


def identity(row: Mapping[str, Any], key: str) -> str:
    """The text or whole number under a key. Raises DataError where there is none."""
    value = row.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else words(row, key)


def one_of(row: Mapping[str, Any], key: str, choices: Sequence[str]) -> str:
    """The text under a key, if it is one of these. Raises DataError if not."""
    value = row.get(key)
    if value not in choices:
        raise DataError(f"{key}: expected one of {', '.join(choices)}, got {repr(value)[:80]}.")
    return str(value)


def chosen(parts: Sequence[str], known: Sequence[str], name: str) -> list[str]:
    """The parts to read: those asked for, by name or by a pattern such as `*/safe`; all if none is asked for.

    Raises:
        DataError: one of them matches no part.
    """
    unknown = [part for part in parts if not any(fnmatchcase(one, part) for one in known)]
    if unknown:
        wrong, right = ", ".join(unknown), ", ".join(known) or "none"
        raise DataError(f"{name} has no part {wrong}: expected some of {right}, got {wrong}. Name another.")
    return [one for one in known if not parts or any(fnmatchcase(one, part) for part in parts)]


def _source(path: Path) -> Source:
    return Source(str(path), DEFAULT_TAXONOMY)
