"""Check data before any training: every record, every picture, and what lies between them."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from safety_modules.errors import ConfigError, printable
from safety_modules.records.examine import Seen, conflicts, examine, repeats
from safety_modules.records.perceptual_hash import BITS, DISTANCE, MAX_DISTANCE, distances, first_alike
from safety_modules.records.readers import DEFAULTS, Data, Options, named, open_sources, passed_over, read_all
from safety_modules.records.record import Problem, Record
from safety_modules.records.source import Source
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Taxonomy

Kind = Literal["record", "picture", "conflict", "repeat", "leak", "near-leak", "alike", "balance"]
SHOWN = 50
"""Rows of findings that are printed; all of them are in the object and in its JSON."""
RARE = 10
"""A type with fewer than one in this many of the records of the commonest type is called rare."""


class Finding(Problem):
    """A fault, or something to know.

    Attributes:
        kind: `record` (cannot be read), `picture` (cannot be decoded), `conflict` (of labels), `repeat` (the same
            record again), `leak` and `near-leak` (a test picture that is, or looks like, one of the training data),
            `alike` (pictures of one set that look the same), `balance` (of classes).
    """

    kind: Kind


class DataReport(BaseModel):
    """What `check_data` found.

    Attributes:
        data: files, folders or addresses that were checked.
        test: those of the test data.
        records: that can be read, in both.
        pictures: distinct ones that can be decoded, in both.
        errors: what must be mended.
        warnings: what may be meant.
        left_out: what a reader passed over because it was told to, and how often.
        balance: records of the data by type and level, every one of the taxonomy's.
        test_balance: the same of the test data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: list[str]
    test: list[str]
    records: int
    pictures: int
    errors: list[Finding]
    warnings: list[Finding]
    left_out: dict[str, int]
    balance: dict[str, dict[str, int]]
    test_balance: dict[str, dict[str, int]]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not self.errors

    def __rich__(self) -> RenderableType:
        """Tables of findings and of the balance, and a line that sums up."""
        parts: list[RenderableType] = [
            _findings_table(title, found)
            for title, found in (("errors", self.errors), ("warnings", self.warnings))
            if found
        ]
        parts.append(_balance_table(self.data, self.balance))
        if self.test:
            parts.append(_balance_table(self.test, self.test_balance))
        parts += [Text(f"left out: {count} {what}") for what, count in self.left_out.items()]
        parts.append(
            Text(
                f"{self.records} records, {self.pictures} pictures: {len(self.errors)} errors, "
                f"{len(self.warnings)} warnings. {'Ready to train on.' if self.ok else 'Mend the errors first.'}",
                style="green" if self.ok else "red",
            )
        )
        return Group(*parts)


def check_data(
    data: Data,
    test: Data | None = None,
    options: Options = DEFAULTS,
    taxonomy: Taxonomy = DEFAULT_TAXONOMY,
    *,
    test_options: Options | None = None,
    jobs: int | None = None,
    max_distance: int = DISTANCE,
    progress: bool = True,
) -> DataReport:
    """Read everything once and report every fault; nothing is changed.

    Errors: records that cannot be read; pictures that cannot be decoded; labels that conflict on the same picture and
    question; repeated records; test pictures that are, or look like, training pictures, and test questions without a
    picture that are training ones. Warnings: pictures of one set that look alike; types that are missing or rare.

    "Looks like": the perceptual hashes (pHash: 64 signs of the low frequencies of the picture in 32 x 32 grey levels)
    differ in at most `max_distance` bits.

    Args:
        data: as in `read_records`; several files are one set.
        test: test or validation data; None = there is none.
        options: as in `read_records`.
        taxonomy: names of types and levels.
        test_options: of the test data; None = those of the data.
        jobs: threads that decode; None = one a core.
        max_distance: in bits, 0 to 8.
        progress: show a bar.

    Raises:
        DataError: a format is not clear, an option means nothing to it, a source as a whole cannot be read, or a
            library is missing.
        ConfigError: max_distance out of range.

    Does not cover: whether labels are true; pictures that look alike turned, mirrored or strongly cropped; plain
    pictures, which have no perceptual hash; differences of colour alone, which it does not see.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ConfigError(f"max_distance refused: expected 0 to {MAX_DISTANCE} bits, got {max_distance}. Choose one.")
    sets: list[tuple[list[Source], list[Record], list[Problem]]] = []
    for place, how in ((data, options), (test, options if test_options is None else test_options)):
        if place is not None:
            sources = open_sources(place, how, taxonomy)
            sets.append((sources, *read_all(sources)))
    records = [record for _, some, _ in sets for record in some]
    is_test = [number > 0 for number, (_, some, _) in enumerate(sets) for _ in some]
    seen = examine(records, jobs, progress, perceptual=True)
    leaks, (near_leaks, alike) = _leaks(records, seen, is_test), _alike(records, seen, is_test, max_distance)

    def findings(kind: Kind, faults: dict[int, str]) -> list[Finding]:
        return [Finding(kind=kind, source=str(records[at].source), reason=faults[at]) for at in sorted(faults)]

    errors = [Finding(kind="record", **dict(problem)) for _, _, problems in sets for problem in problems]
    errors += findings("picture", {at: look.fault for at, look in enumerate(seen) if look.fault is not None})
    errors += findings("conflict", conflicts(records, seen, is_test))
    errors += findings("repeat", repeats(records, seen, is_test))
    errors += findings("leak", leaks)
    errors += findings("near-leak", {at: reason for at, reason in near_leaks.items() if at not in leaks})
    warnings = findings("alike", alike)
    balances = [_count(some, taxonomy) for _, some, _ in sets]
    for (sources, _, _), balance in zip(sets, balances, strict=True):
        warnings += [Finding(kind="balance", source=named(sources), reason=why) for why in _imbalance(balance)]
    return DataReport(
        data=[printable(source.path) for source in sets[0][0]],
        test=[printable(source.path) for sources, _, _ in sets[1:] for source in sources],
        records=len(records),
        pictures=len({look.digest for look in seen if look.digest is not None}),
        errors=errors,
        warnings=warnings,
        left_out=passed_over([source for sources, _, _ in sets for source in sources]),
        balance=balances[0],
        test_balance=balances[1] if test is not None else {},
    )


def _findings_table(title: str, found: list[Finding]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("kind", "where", "what"):
        table.add_column(column, overflow="fold")
    for finding in found[:SHOWN]:
        table.add_row(finding.kind, escape(finding.source), escape(finding.reason))
    if len(found) > SHOWN:
        table.add_row("", "", f"... and {len(found) - SHOWN} more (--json FILE has all)")
    return table


def _balance_table(places: list[str], balance: Mapping[str, Mapping[str, int]]) -> Table:
    levels = list(next(iter(balance.values())))
    table = Table(title=f"records in {escape(', '.join(places))}", title_justify="left", header_style="bold")
    table.add_column("type")
    for level in (*levels, "all"):
        table.add_column(level, justify="right")
    for type, counts in balance.items():
        table.add_row(type, *(str(counts[level] or "") for level in levels), str(sum(counts.values())))
    return table


def _leaks(records: Sequence[Record], seen: Sequence[Seen], is_test: Sequence[bool]) -> dict[int, str]:
    """Test records whose very picture, or without one whose question, is in the training data."""
    first: dict[tuple[object, ...], int] = {}
    found = {}
    for index, (record, one) in enumerate(zip(records, seen, strict=True)):
        if one.fault is None:
            what = (one.digest,) if one.digest else (None, record.history, record.question)
            if not is_test[index]:
                first.setdefault(what, index)
            elif what in first:
                found[index] = f"leak: expected data unseen in training, got that of {records[first[what]].source}."
    return found


def _alike(
    records: Sequence[Record], seen: Sequence[Seen], is_test: Sequence[bool], max_distance: int
) -> tuple[dict[int, str], dict[int, str]]:
    """Test records whose picture looks like a training picture; and, once for each picture, first records whose
    picture looks like one before in their own set.
    """
    indices = [index for index, one in enumerate(seen) if one.look is not None]
    hashes = np.array([seen[index].look for index in indices], dtype=np.uint64)
    tested = np.array([is_test[index] for index in indices], bool)
    training = first_alike(hashes, ~tested, max_distance)
    own = np.where(tested, first_alike(hashes, tested, max_distance), training)

    def likeness(place: int, found: int) -> str | None:
        if found >= place or seen[indices[found]].digest == seen[indices[place]].digest:
            return None
        bits = int(distances(hashes[[found]], hashes[[place]])[0])
        return f"looks like the picture of {records[indices[found]].source}: {bits} of {BITS} bits differ."

    near: dict[int, str] = {}
    alike: dict[int, str] = {}
    told = set()
    for place, index in enumerate(indices):
        if tested[place] and (reason := likeness(place, int(training[place]))):
            near[index] = reason
        picture = (bool(tested[place]), seen[index].digest)
        if picture not in told and (reason := likeness(place, int(own[place]))):
            alike[index] = reason
        told.add(picture)
    return near, alike


def _count(records: Sequence[Record], taxonomy: Taxonomy) -> dict[str, dict[str, int]]:
    counts = {type: dict.fromkeys(taxonomy.levels, 0) for type in taxonomy.labels}
    for record in records:
        counts[record.type][record.level] += 1
    return counts


def _imbalance(balance: dict[str, dict[str, int]]) -> list[str]:
    sizes = {type: sum(counts.values()) for type, counts in balance.items()}
    largest = max(size for type, size in sizes.items() if type != CLEAN)
    missing = [type for type, size in sizes.items() if not size]
    found = [f"no records of {', '.join(missing)}."] if missing else []
    return found + [
        f"type {type} is rare: {size} records, {largest} of the commonest risk type."
        for type, size in sizes.items()
        if 0 < size * RARE < largest
    ]
