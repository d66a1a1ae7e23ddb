"""Marks of a reviewer, as the report exports them: what each flagged picture really is, and how many are true finds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safety_modules.audit.review_audit import SAMPLE, Audit, read_audit
from safety_modules.errors import DataError, validation_problems
from safety_modules.metrics import Estimate, rate
from safety_modules.records.record import raise_problems

ENOUGH = 10
"""Judged rows that a type needs for an estimate of its own."""


class Mark(BaseModel):
    """A judgement of one flagged row.

    Attributes:
        row: of the audit.
        image_digest: of its picture.
        mark: `confirm` (it is risky) or `reject` (it is not).
        time: when, ISO 8601.
        sample: whether it was made in the random sample.
        reviewer: by whom.
        type: confirmed as this risk type instead of the audit's.
        level: confirmed with this level instead of the audit's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    row: int
    image_digest: str
    mark: Literal["confirm", "reject"]
    time: str
    sample: bool = False
    reviewer: str | None = None
    type: str | None = None
    level: str | None = None


class Marks(BaseModel):
    """A file of marks.

    Attributes:
        format: says what it is.
        version: of the format.
        audit: digest of the audit they belong to.
        sample: size of the random sample the reviewer drew.
        marks: in any order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["safety-modules marks"]
    version: Literal[1]
    audit: str
    sample: int
    marks: list[Mark]


class Flagged(NamedTuple):
    """What a mark is about."""

    row: int
    source: str
    image_digest: str
    type: str
    level: str
    risk: float
    rule: str | None
    question: str | None
    answer: str | None


def read_flagged(audit: Audit) -> dict[int, Flagged]:
    """The flagged rows by number, without their pictures."""
    return {row["row"]: Flagged(**row) for row in audit.flagged(*Flagged._fields).to_pylist()}


def read_marks(path: Path, audit: Audit, flagged: dict[int, Flagged]) -> Marks:
    """Read marks and check that every one of them is of this audit.

    Returns:
        Them; each row once.

    Raises:
        DataError: no file of marks, one of another audit, or naming every mark of an unknown row or picture, every
            label outside the taxonomy, and every conflict: a row, or one picture in several rows, marked both ways.
    """
    try:
        marks = Marks.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"marks not read: expected a file, got {error}. Check the path.") from error
    except ValidationError as error:
        lines = "".join(f"\n  - {problem}" for problem in validation_problems(error))
        raise DataError(f"marks {path} refused:{lines}\nExport them from the report again.") from error
    if marks.audit != audit.digest:
        raise DataError(
            f"marks of another audit: expected {audit.digest[:12]} ({audit.folder}), got {marks.audit[:12]} ({path}). "
            "Name the folder of the audit whose report they were made in."
        )
    raise_problems([*_misfits(marks.marks, audit, flagged), *_conflicts(marks.marks)], f"marks {path}")
    return marks.model_copy(update={"marks": list({mark.row: mark for mark in marks.marks}.values())})


def _misfits(marks: Iterable[Mark], audit: Audit, flagged: dict[int, Flagged]) -> Iterable[str]:
    types, levels = audit.taxonomy.types, audit.taxonomy.risky_levels
    for mark in marks:
        if mark.row not in flagged:
            yield f"row {mark.row}: expected a flagged row, got one that this audit did not flag."
        elif mark.image_digest != flagged[mark.row].image_digest:
            yield f"row {mark.row}: expected the picture {flagged[mark.row].image_digest}, got {mark.image_digest}."
        if (mark.type is None) != (mark.level is None) or (mark.type is not None and mark.mark == "reject"):
            yield f"row {mark.row}: expected type and level together and confirmed, got {mark.type}, {mark.level}."
        elif mark.type is not None and (mark.type not in types or mark.level not in levels):
            yield (
                f"row {mark.row}: expected a type of {', '.join(types)} and a level of {', '.join(levels)}, "
                f"got {mark.type!r}, {mark.level!r}."
            )


def _conflicts(marks: Iterable[Mark]) -> Iterable[str]:
    first: dict[str, Mark] = {}
    for mark in marks:
        other = first.setdefault(mark.image_digest, mark)
        if other.mark != mark.mark:
            rows = f"rows {other.row} and {mark.row} show one picture" if other.row != mark.row else f"row {mark.row}"
            yield f"{rows}: expected one judgement, got {other.mark} and {mark.mark}."
        elif other.row == mark.row and (other.type, other.level) != (mark.type, mark.level):
            yield f"row {mark.row}: expected one label, got {other.type} {other.level} and {mark.type} {mark.level}."


class Precision(NamedTuple):
    """What a random sample says."""

    overall: Estimate  # of all flagged rows
    types: dict[str, Estimate]  # of each type with enough of them in the sample
    too_few: dict[str, int]  # types without, and how many of them there are in the sample
    flagged: int  # rows the sample was drawn from


def estimate_precision(out: Path, marks: Path) -> Precision:
    """Share of the flagged rows that are risky, with Wilson's 95 % interval.

    The sample is the first n rows of an order that hangs on the audit alone; only marks made in the report's random
    sample count. What a reviewer picked from the ranking says nothing about the whole.

    Args:
        out: folder of the audit.
        marks: file that its report exported.

    Raises:
        DataError: marks that are refused (see `read_marks`), or rows of the sample that are not judged: leaving out the
            difficult ones would bias the estimate.

    Does not cover: recall, for which nothing that was not flagged is looked at; whether the reviewer is right; the
    correction for samples that are a large part of all flagged rows, without which the interval is too wide, never
    too narrow.
    """
    audit = read_audit(out)
    flagged = read_flagged(audit)
    given = read_marks(marks, audit, flagged)
    judged = {mark.row: mark for mark in given.marks if mark.sample}
    if not judged:
        raise DataError(
            f"no estimate: expected marks made in the random sample, got {len(given.marks)} made elsewhere. "
            'Open the report, choose "Judge a random sample", judge all of it and export the marks.'
        )
    if not 1 <= given.sample <= SAMPLE:
        raise DataError(f"no estimate: expected a sample of 1 to {SAMPLE} rows, got {given.sample}. Export again.")
    drawn = audit.sample_order(list(flagged))[: given.sample]
    missing = [row for row in drawn if row not in judged]
    if missing:
        raise DataError(
            f"no estimate: expected all {len(drawn)} rows of the random sample to be judged, got "
            f"{len(drawn) - len(missing)}; missing: {', '.join(map(str, missing[:20]))}"
            f"{', ...' if len(missing) > 20 else ''}. Judge them in the report, or choose a smaller sample."
        )
    hits: dict[str, list[bool]] = {}
    for row in drawn:
        hits.setdefault(flagged[row].type, []).append(judged[row].mark == "confirm")
    return Precision(
        rate([hit for some in hits.values() for hit in some]),
        {type: rate(hits[type]) for type in audit.taxonomy.types if len(hits.get(type, ())) >= ENOUGH},
        {type: len(hits.get(type, ())) for type in audit.taxonomy.types if len(hits.get(type, ())) < ENOUGH},
        len(flagged),
    )
