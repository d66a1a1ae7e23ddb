"""A data format, from which training's strict reading, an audit's lenient one and the cleaned copy follow."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, ClassVar

from safety_modules.errors import HALVES, ConfigError, DataError, printable
from safety_modules.records.entries import Asked, Entry, Row, Sample
from safety_modules.records.images import Spool
from safety_modules.records.record import Problem, Record, label_problems
from safety_modules.records.references import DatasetCell, Held
from safety_modules.records.source import Source
from safety_modules.taxonomy import CLEAN


class Format(ABC):
    """One format. A format tells what its entries are and say, and what training demands of them; the rest is here.

    Attributes:
        name: of the format.
        rule: when a path is recognised as it, in words; also in docs/data.md.
        options: of `ReadOptions`, those that mean something here.
        unlabelled: the type of what carries no label, in training.
        unasked: what training asks about a picture without a question.
        names_files: whether its data names picture files, which stay where they are when it is copied.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ("image_dir", "image_key")
    unlabelled: ClassVar[str] = ""
    unasked: ClassVar[str] = ""
    names_files: ClassVar[bool] = True

    @abstractmethod
    def fits(self, source: Source, strict: bool) -> bool:
        """Whether the rule fits; for training (strict), or for an audit, which needs no labels."""

    @abstractmethod
    def entries(self, source: Source, pictures: bool = True) -> Iterator[Entry]:
        """Everything in the source, one by one and in constant memory.

        Args:
            source: of the data.
            pictures: False = only to count: columns of pictures may be missing in the values.

        Raises:
            DataError: the source as a whole cannot be read.
        """

    @abstractmethod
    def sample(self, value: Any, where: str, source: Source) -> Sample:
        """What an entry says, as far as it can be read. Raises DataError where nothing can."""

    @abstractmethod
    def check(self, value: Any, sample: Sample, source: Source) -> None:
        """Raises DataError where training demands more of an entry than is there."""

    def check_header(self, columns: list[str], where: str) -> None:
        """Raises DataError where training demands other columns."""
        assert not columns, "a format of tables says what it demands"

    @abstractmethod
    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """Write the same container without some entries, counted from 0 without headers.

        Args:
            source: of the data.
            to: an existing folder; the copy stands in it under `copied_name`.
            drop: numbers of entries.
        """

    def records(self, source: Source) -> Iterator[Record | Problem]:
        """Every record that training can use, and a Problem for everything else."""
        spool = Spool()  # a record outlives its entry, so a picture in memory must not
        for entry in self.entries(source):
            where = printable(entry.where)
            if not where:
                if entry.value is not None:
                    self.check_header(entry.value, source.path)
                continue
            try:
                found = self._records(entry, where, source, spool)
            except (DataError, ConfigError) as error:
                yield Problem(source=where, reason=str(error))
                continue
            for record in found:
                reasons = label_problems(record, source.taxonomy)
                yield from (Problem(source=where, reason=reason) for reason in reasons)
                if not reasons:
                    yield record

    def _records(self, entry: Entry, where: str, source: Source, spool: Spool) -> list[Record]:
        if half := HALVES.search(entry.raw):
            near = printable(entry.raw[max(0, half.start() - 20) : half.start() + 20])
            raise DataError(
                f"expected a UTF-8 file, got the byte {printable(half.group())} in {near}. Save it as UTF-8."
            )
        if entry.fault is not None:
            raise DataError(entry.fault)
        sample = self.sample(entry.value, entry.where, source)
        picture = sample.pictures[0] if sample.pictures else None
        if isinstance(picture, DataError):
            raise picture
        self.check(entry.value, sample, source)
        if len(sample.pictures) > 1:
            raise DataError(f"image: expected one picture, got {len(sample.pictures)}.")
        if isinstance(picture, Held):
            picture = spool.add(picture.read(), str(picture))
        found = []
        for asked in sample.asked:
            if asked.left_out:
                source.left_out[asked.left_out] += 1
                continue
            type = asked.type or self.unlabelled
            record = Record(
                image=picture,
                question=asked.question or self.unasked,
                answer=asked.answer,
                type=type,
                level=asked.level or (source.taxonomy.safe_level if type == CLEAN else ""),
                source=where,
                meta={"needs_question": True} if asked.needs_question else {},
            )
            found.append(record)
        return found

    def rows(self, source: Source, pictures: bool = True) -> Iterator[Row]:
        """Every row of an audit, in the order of the data; what cannot be read is a row with its fault."""
        for entry in self.entries(source, pictures):
            yield from self.rows_of(entry, source)

    def rows_of(self, entry: Entry, source: Source) -> list[Row]:
        """The rows of an entry: each picture with each question."""
        where = printable(entry.where)
        if not where:
            return []
        if entry.left_out is not None:
            source.left_out[entry.left_out] += 1
            return []
        try:
            if entry.fault is not None:
                raise DataError(entry.fault)
            sample = self.sample(entry.value, entry.where, source)
        except DataError as error:
            return [Row(where, None, None, None, None, str(error))]
        return [_row(where, picture, asked) for picture in sample.pictures or (None,) for asked in sample.asked]


def _row(where: str, picture: Any, asked: Asked) -> Row:
    fault = None
    if isinstance(picture, DatasetCell):  # of which a worker process would get a copy of the whole dataset
        try:
            picture = picture.found()
        except DataError as error:
            picture = error
    if isinstance(picture, DataError):
        picture, fault = None, str(picture)
    question, answer = (None if words is None else printable(words) for words in (asked.question, asked.answer))
    return Row(where, picture, question, answer, asked.type, fault)
