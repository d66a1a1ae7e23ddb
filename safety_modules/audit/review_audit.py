"""A finished audit, as review reads it: the three files of its folder, and nothing else."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from safety_modules.audit.store import FLAGGED, SUMMARY, VERDICTS, parquet
from safety_modules.errors import DataError, validation_problems
from safety_modules.io.files import sha256_of
from safety_modules.policy.outside import Outsiders
from safety_modules.policy.verdict import Fit
from safety_modules.records.source import ReadOptions, Source
from safety_modules.taxonomy import CLEAN, Taxonomy

SAMPLE = 1_000
"""The largest random sample that a report offers."""


class _PartRecord(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Unreadable(_PartRecord):
    """A row without a verdict, and why."""

    row: int
    source: str
    reason: str


class Animations(_PartRecord):
    """Scored rows with a picture of several frames, how many frames these have, and how many were judged."""

    rows: int = 0
    frames: int = 0
    judged: int = 0


class Doubt(_PartRecord):
    """A row whose own label the verdict contradicts."""

    row: int
    source: str
    question: str | None
    label: str
    verdict: str
    probability: float


class Doubts(_PartRecord):
    """How many there are, and the first of them."""

    count: int
    rows: list[Doubt]


class Data(_PartRecord):
    """What was audited, and how it was read."""

    path: str
    format: str
    image_dir: str | None = None
    image_key: str | None = None
    question: str | None = None


class Summary(_PartRecord):
    """What of `summary.json` the review needs; docs/audit.md lists all of it."""

    rows: int
    scored: int
    duplicates: int
    unreadable: int
    text_only: int
    flagged: int
    histogram: list[int]
    thresholds: Any
    adapter: Any
    base: Any
    data: Data
    seconds: float
    images_per_second: float
    versions: dict[str, str]
    errors: list[Unreadable]
    notice: str | None = None
    fit: Fit = "crop"  # of heat maps: see `Verdict.overlay`
    label_disagreements: Doubts = Doubts(count=0, rows=[])
    animations: Animations = Animations()
    outside: Outsiders | None = None


@dataclass(frozen=True)
class Audit:
    """A folder that `safety-modules audit` wrote."""

    folder: Path
    summary: Summary
    taxonomy: Taxonomy  # of the adapter that judged

    @property
    def source(self) -> Source:
        """The data, to be read as the audit read it."""
        data = self.summary.data
        options = ReadOptions(data.format, data.image_dir, data.image_key, question=data.question)
        return Source(data.path, self.taxonomy, options, data.format)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the verdicts and the flagged rows: which audit a mark belongs to."""
        both = b"".join(bytes.fromhex(sha256_of(self.folder / name)) for name in (VERDICTS, FLAGGED))
        return hashlib.sha256(both).hexdigest()

    def flagged(self, *columns: str) -> Any:
        """These columns of the flagged rows, as an Arrow table."""
        return parquet().read_table(self.folder / FLAGGED, columns=list(columns))

    def batches(self, name: str, columns: list[str], rows: int = 65536) -> Iterator[Any]:
        """These columns of one of the two files, some rows at a time."""
        with parquet().ParquetFile(self.folder / name) as file:
            yield from file.iter_batches(rows, columns=columns)

    def sample_order(self, rows: list[int]) -> list[int]:
        """The flagged rows in random order: the first n of them are a random sample of n.

        The order hangs on the audit alone, so nobody can draw until a sample pleases, and a larger sample contains
        the smaller one.
        """
        return sorted(rows, key=lambda row: hashlib.sha256(f"{self.digest} {row}".encode()).digest())


def read_audit(folder: Path) -> Audit:
    """Open the folder of a finished audit.

    Raises:
        DataError: a file is missing, or is not what an audit writes.
    """
    missing = [name for name in (VERDICTS, FLAGGED, SUMMARY) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"no finished audit in {folder}: expected {VERDICTS}, {FLAGGED} and {SUMMARY}, got none of "
            f"{', '.join(missing)}. Run safety-modules audit DATA --out {folder} to its end first."
        )
    try:
        text = (folder / SUMMARY).read_bytes()
        try:
            found = json.loads(text)  # which takes names of files with bytes that are no UTF-8
        except ValueError as error:
            raise DataError(f"{folder / SUMMARY} refused: expected JSON, got {error}. Run the audit again.") from error
        summary = Summary.model_validate(found)
        names = parquet().read_schema(folder / VERDICTS).names
        parquet().read_schema(folder / FLAGGED)
    except ValidationError as error:
        lines = "".join(f"\n  - {problem}" for problem in validation_problems(error))
        raise DataError(f"{folder / SUMMARY} refused:{lines}\nRun the audit again.") from error
    except (OSError, ValueError) as error:  # Arrow's errors are of these kinds
        raise DataError(f"audit in {folder} not read: expected Parquet files, got {error}. Run it again.") from error
    types = [name.removeprefix("p_") for name in names if name.startswith("p_")]
    levels = [name.removeprefix("level_") for name in names if name.startswith("level_")]
    try:
        taxonomy = Taxonomy(types=tuple(name for name in types if name != CLEAN), levels=tuple(levels))
    except ValidationError as error:
        raise DataError(
            f"{folder / VERDICTS} refused: expected a column p_TYPE for each type and level_LEVEL for each level, "
            f"got {', '.join(names)}. Run the audit again."
        ) from error
    return Audit(folder, summary, taxonomy)
