"""A data format, from which training's strict reading, an audit's lenient one and the cleaned copy follow.

Data consists of entries; an entry says pictures and questions; an audit's row is one picture with one question.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from safety_modules.errors import ConfigError, DataError, printable
from safety_modules.records.images import DatasetCell, EncodedImage, Held, Spool
from safety_modules.records.record import Problem, Record, half_character, label_problems
from safety_modules.records.source import Picture, Source
from safety_modules.taxonomy import CLEAN


class DataEntry(NamedTuple):
    """A line, a JSON object, a table's row, a file, a sample of a tar."""

    where: str = ""  # its place, such as `data.jsonl:17`; empty for what is no entry, such as a header or a blank line
    value: Any = None  # what stands there, in the format's own form; of a header its columns
    fault: str | None = None  # why nothing of it can be read
    left_out: str | None = None  # of what cannot hold a picture: what an audit counts it as; to training it is a fault
    raw: str = ""  # its text, of a text file; bytes that are no UTF-8 as `surrogateescape` has them


class LabelledQuestion(NamedTuple):
    """A question about an entry's pictures, with the data's label; None = none is given."""

    question: str | None = None  # words, without `<image>`
    answer: str | None = None
    type: str | None = None  # risk type or `clean`
    level: str | None = None
    left_out: str | None = None  # what training counts it as instead of taking it
    needs_question: bool = False  # whether the label holds for the picture with this question only
    history: tuple[tuple[str, str], ...] = ()  # the exchanges before it in the same conversation


class EntryContent(NamedTuple):
    """What an entry says."""

    pictures: list[Picture]  # none for words alone
    asked: list[LabelledQuestion]  # at least one; each holds for each picture


class DataRow(NamedTuple):
    """One question about one picture, as an audit judges it; None = there is none."""

    source: str  # where it was read, such as `data.jsonl:17`; several rows of one entry share it
    image: Path | EncodedImage | None  # None too where the row is faulty
    question: str | None
    answer: str | None
    label: str | None  # the data's risk type or `clean`
    fault: str | None = None  # why the row cannot be read


class Format(ABC):
    """One format. A format tells what its entries are and say, and what training demands of them; the rest is here."""

    name: ClassVar[str]
    rule: ClassVar[str]  # when a path is recognised as it, in words; also in docs/data.md
    suffix: ClassVar[str] = ""  # of its files, where that alone is the rule
    options: ClassVar[tuple[str, ...]] = ("image_dir", "image_key")  # of `ReadOptions`, those that mean something here
    unlabelled: ClassVar[str] = ""  # the type of what carries no label, in training
    unasked: ClassVar[str] = ""  # what training asks about a picture without a question
    names_files: ClassVar[bool] = True  # its data names picture files, which stay where they are when it is copied

    def fits(self, source: Source, strict: bool) -> bool:
        """Whether the rule fits; for training (strict), or for an audit, which needs no labels."""
        return bool(self.suffix) and source.path.endswith(self.suffix) and not source.file.is_dir()

    @abstractmethod
    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        """Everything in the source, one by one and in constant memory; without pictures, where it is only counted.

        Raises:
            DataError: the source as a whole cannot be read.
        """

    @abstractmethod
    def sample(self, value: Any, where: str, source: Source) -> EntryContent:
        """What an entry says, as far as it can be read. Raises DataError where nothing can."""

    @abstractmethod
    def check(self, value: Any, sample: EntryContent, source: Source) -> None:
        """Raises DataError where training demands more of an entry than is there."""

    def check_header(self, columns: list[str], where: str) -> None:
        """Raises DataError where training demands other columns."""
        assert not columns, "a format of tables says what it demands"

    @abstractmethod
    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """Write the same container into a folder, as `copied_name`, without some entries (from 0, without headers)."""

    def copy_without(self, source: Source, to: Path, rows: Set[int]) -> int:
        """As `copy`, without the entries that some rows of an audit are of. Returns how many rows all of these have."""
        first = number = dropped = 0
        entries: set[int] = set()
        for entry in self.entries(source):
            count = len(self.rows_of(entry, source))
            if not rows.isdisjoint(range(first, first + count)):
                entries.add(number)
                dropped += count
            first += count
            number += bool(entry.where)
        self.copy(source, to, entries)
        return dropped

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

    def _records(self, entry: DataEntry, where: str, source: Source, spool: Spool) -> list[Record]:
        if half := half_character(entry.raw):
            raise DataError(f"expected a UTF-8 file, got the byte {half}. Save it as UTF-8.")
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
        for asked, later in zip(sample.asked, [*sample.asked[1:], None], strict=True):
            if later is not None and later.history and (asked.type or self.unlabelled) != CLEAN:
                continue  # it is the whole conversation that is known to be risky, and this stands in its history
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
                history=asked.history,
                source=where,
                meta={"needs_question": True} if asked.needs_question else {},
            )
            found.append(record)
        return found

    def rows(self, source: Source, pictures: bool = True) -> Iterator[DataRow]:
        """Every row of an audit, in the order of the data; what cannot be read is a row with its fault."""
        for entry in self.entries(source, pictures):
            yield from self.rows_of(entry, source)

    def rows_of(self, entry: DataEntry, source: Source) -> list[DataRow]:
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
            return [DataRow(where, None, None, None, None, str(error))]
        return [_row(where, picture, asked) for picture in sample.pictures or (None,) for asked in sample.asked]


def _row(where: str, picture: Any, asked: LabelledQuestion) -> DataRow:
    fault = None
    if isinstance(picture, DatasetCell):  # of which a worker process would get a copy of the whole dataset
        try:
            picture = picture.found()
        except DataError as error:
            picture = error
    if isinstance(picture, DataError):
        picture, fault = None, str(picture)
    question, answer = (None if words is None else printable(words) for words in (asked.question, asked.answer))
    return DataRow(where, picture, question, answer, asked.type, fault)
