"""Training records: a question about an image, with its risk label; and what is known of many from reading."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, field_validator

from safety_modules.errors import HALVES, DataError, printable
from safety_modules.pictures import open_picture, read_bytes
from safety_modules.records.images import EncodedImage
from safety_modules.taxonomy import CLEAN, Taxonomy


class Record(BaseModel):
    """One question, its image, what was said before it, and the risk label of all that.

    Attributes:
        image: a file, a picture inside a larger file (read on demand), a decoded picture, or None for a text-only
            record.
        question: the user's words, without `<image>` and without a hint.
        history: the exchanges before it, oldest first: the user's words and the assistant's answer. The picture stands
            in the first turn of all.
        answer: the wanted answer; None = from the policy's wording (risky records) or from the base (clean ones).
        type: `clean` or a risk type of the taxonomy.
        level: a level of the taxonomy; the safe one exactly if the type is `clean`.
        source: where the record was read, such as `data.jsonl:17`; for messages.
        meta: whatever else is known; kept. One key means something here: `needs_question` (the label holds for the
            image with this question, not for the image alone, so training never drops the question).

    Does not cover: several images in one record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    image: Path | Image.Image | EncodedImage | None
    question: str
    answer: str | None
    type: str
    level: str
    history: tuple[tuple[str, str], ...] = ()
    source: str | None = None
    meta: dict[str, Any] = {}

    @property
    def is_risky(self) -> bool:
        """Whether the label is a risk type."""
        return self.type != CLEAN

    @property
    def letters(self) -> int:
        """How much is said up to the answer."""
        return len(self.question) + sum(len(words) for exchange in self.history for words in exchange)

    def load_image(self, digest: str | None = None) -> Image.Image:
        """The picture as `open_picture` makes it; of an animation the first frame, which is what a model is shown.

        Args:
            digest: of the file, if it must still be the one it was.

        Raises:
            DataError: there is none, `open_picture` refuses it, or it has changed.
        """
        if self.image is None:
            raise DataError("no image: expected a record with an image, got a text-only one. Skip it here.")
        if isinstance(self.image, Image.Image):
            return open_picture(self.image)
        data = read_bytes(self.image)
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise DataError(f"image changed: expected {self.image} as it was a moment ago, got another. Start again.")
        return open_picture(data, self.image)

    def image_digest(self) -> str:
        """Digest of the picture: of the file's bytes, or of size and pixels of a decoded one, upright and in RGB.

        Raises:
            DataError: there is no image, or it cannot be read.
        """
        if self.image is None:
            raise DataError("no image: expected a record with an image, got a text-only one. Skip it here.")
        if isinstance(self.image, Image.Image):
            picture = open_picture(self.image)
            digest = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
            digest.update(picture.tobytes())
            return digest.hexdigest()
        return hashlib.sha256(read_bytes(self.image)).hexdigest()


class Problem(BaseModel):
    """Why a record cannot be used.

    Attributes:
        source: where it was read, such as `data.jsonl:17`.
        reason: one sentence or two.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    reason: str

    _printable = field_validator("source", "reason")(printable)

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def label_problems(record: Record, taxonomy: Taxonomy) -> list[str]:
    """What is wrong with a record's label or words; empty if it can be used."""
    problems = []
    if record.type not in taxonomy.labels:
        problems.append(f"unknown type: expected one of {', '.join(taxonomy.labels)}, got {record.type!r}.")
    if record.level not in taxonomy.levels:
        problems.append(f"unknown level: expected one of {', '.join(taxonomy.levels)}, got {record.level!r}.")
    if not problems and record.is_risky == (record.level == taxonomy.safe_level):
        problems.append(
            f"type and level disagree: expected level {taxonomy.safe_level!r} exactly for {CLEAN!r}, "
            f"got type {record.type!r} with level {record.level!r}."
        )
    if record.answer is not None and not record.answer.strip():
        problems.append("empty answer: expected words, or none at all (null).")
    before = [words for exchange in record.history for words in exchange]
    if not all(words.strip() for words in before):
        problems.append("empty turn in the history: expected words of user and assistant in each exchange.")
    said = (*before, record.question, record.answer or "")
    if any("<image>" in words for words in said):
        problems.append("<image> inside the text: expected words only; the image has its own field.")
    found = filter(None, map(half_character, said))
    return problems + [f"half a character: expected words, got {half}." for half in found]


def half_character(text: str) -> str | None:
    """The first half of a character (a byte that is no UTF-8) in a text, and what stands around it; or None."""
    if half := HALVES.search(text):
        return f"{printable(half.group())} in {printable(text[max(0, half.start() - 20) : half.start() + 20])}"
    return None


def check_records(records: Iterable[Record], taxonomy: Taxonomy) -> list[Record]:
    """The records, if every one of them fits the taxonomy.

    Raises:
        DataError: there are none, or naming every bad one by its source, else by its position.
    """
    checked = list(records)
    problems = [
        f"{record.source or f'record {index}'}: {problem}"
        for index, record in enumerate(checked)
        for problem in label_problems(record, taxonomy)
    ]
    if not checked:
        problems = ["expected at least one record, got none."]
    raise_problems(problems, "records")
    return checked


def raise_problems(problems: Sequence[str | Problem], where: str, limit: int = 50) -> None:
    """DataError listing the problems, if there are any."""
    if problems:
        shown = [str(problem) for problem in problems[:limit]]
        if len(problems) > limit:
            shown.append(f"... and {len(problems) - limit} more.")
        lines = "".join(f"\n  - {line}" for line in shown)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{where} refused, {count}:{lines}\nCorrect or remove these records.")


@dataclass(frozen=True)
class GoodRecords:
    """What `read_good_records` found; `train_safety` and `extend_safety` take it as data.

    Attributes:
        records: the good ones.
        left_out: a Problem for everything that is not among them.
        passed_over: what a reader left out because it was told to, and how often.
        digests: of the records' pictures, as `Record.image_digest`, None without one; or None: not known.
        pictures: some of them, decoded, by digest; emptied as training takes them.
    """

    records: list[Record]
    left_out: list[Problem] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    digests: list[str | None] | None = field(default=None, repr=False)
    pictures: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    def with_images(self) -> "GoodRecords":
        """Without text-only records."""
        places = [place for place, record in enumerate(self.records) if record.image is not None]
        digests = None if self.digests is None else [self.digests[place] for place in places]
        return replace(self, records=[self.records[place] for place in places], digests=digests)


def good_records(data: "GoodRecords | Iterable[Record]", taxonomy: Taxonomy) -> GoodRecords:
    """Records as what is known of them, if every one fits the taxonomy. Raises DataError if not."""
    good = data if isinstance(data, GoodRecords) else GoodRecords([*data])
    check_records(good.records, taxonomy)
    return good
