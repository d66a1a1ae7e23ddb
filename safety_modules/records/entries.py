"""What data consists of: entries as they lie there, what they say, and rows of one picture and one question."""

from pathlib import Path
from typing import Any, NamedTuple

from safety_modules.records.images import EncodedImage
from safety_modules.records.source import Picture


class Entry(NamedTuple):
    """A line, a JSON object, a table's row, a file, a sample of a tar.

    Attributes:
        where: its place, such as `data.jsonl:17`; empty for what is no entry, such as a header or a blank line.
        value: what stands there, in the format's own form; of a header its columns.
        fault: why nothing of it can be read.
        left_out: of what cannot hold a picture: what an audit counts it as; to training it is a fault.
        raw: its text, of a text file; bytes that are no UTF-8 stand in it as `surrogateescape` has them.
    """

    where: str = ""
    value: Any = None
    fault: str | None = None
    left_out: str | None = None
    raw: str = ""


class Asked(NamedTuple):
    """A question about an entry's pictures, with the data's label.

    Attributes:
        question: words, without `<image>`; None = there is none.
        answer: the data's.
        type: risk type or `clean`; None = none is given.
        level: None = none is given.
        left_out: what training counts it as instead of taking it.
        needs_question: whether the label holds for the picture with this question only.
    """

    question: str | None = None
    answer: str | None = None
    type: str | None = None
    level: str | None = None
    left_out: str | None = None
    needs_question: bool = False


class Sample(NamedTuple):
    """What an entry says.

    Attributes:
        pictures: none for words alone.
        asked: at least one; each holds for each picture.
    """

    pictures: list[Picture]
    asked: list[Asked]


class Row(NamedTuple):
    """One question about one picture, as an audit judges it.

    Attributes:
        source: where it was read, such as `data.jsonl:17`; several rows of one entry share it.
        image: where the picture is; None = a row of words alone, or a faulty one.
        question: what is asked about it, if anything.
        answer: the data's.
        label: the data's risk type or `clean`; None = none is given.
        fault: why the row cannot be read.
    """

    source: str
    image: Path | EncodedImage | None
    question: str | None
    answer: str | None
    label: str | None
    fault: str | None = None
