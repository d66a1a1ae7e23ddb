"""Check data before any training: every record, every picture, and what lies between them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from safety_modules.errors import ConfigError, printable
from safety_modules.records.alike import BITS, MAX_DISTANCE, distances, first_alike
from safety_modules.records.examine import Seen, examine
from safety_modules.records.faults import conflicts, repeats
from safety_modules.records.readers import DEFAULTS, Data, Options, named, open_sources, passed_over, read_all
from safety_modules.records.record import Problem, Record
from safety_modules.records.report import DataReport, Finding, Kind
from safety_modules.records.source import Source
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Taxonomy

DISTANCE = 4
"""Bits, of 64, in which the perceptual hashes of two pictures that look the same may differ."""
RARE = 10
"""A type with fewer than one in this many of the records of the commonest type is called rare."""


class _Set(NamedTuple):
    """One of the two sets."""

    sources: list[Source]
    records: list[Record]
    problems: list[Problem]


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
    sets = []
    for place, how in ((data, options), (test, options if test_options is None else test_options)):
        if place is not None:
            sources = open_sources(place, how, taxonomy)
            sets.append(_Set(sources, *read_all(sources)))
    records = [record for one in sets for record in one.records]
    is_test = np.repeat([False, True][: len(sets)], [len(one.records) for one in sets])
    seen = examine(records, jobs, progress, perceptual=True)
    errors = [_finding("record", problem.source, problem.reason) for one in sets for problem in one.problems]

    def note(kind: Kind, faults: dict[int, str], to: list[Finding]) -> None:
        to.extend(_finding(kind, str(records[index].source), faults[index]) for index in sorted(faults))

    warnings: list[Finding] = []
    note("picture", {index: look.fault for index, look in enumerate(seen) if look.fault is not None}, errors)
    note("conflict", _within(conflicts, records, seen, is_test), errors)
    note("repeat", _within(repeats, records, seen, is_test), errors)
    leaks = _leaks(records, seen, is_test)
    near_leaks, alike = _alike(records, seen, is_test, max_distance)
    note("leak", leaks, errors)
    note("near-leak", {index: reason for index, reason in near_leaks.items() if index not in leaks}, errors)
    note("alike", alike, warnings)
    balances = [_balance(one.records, taxonomy) for one in sets]
    for one, balance in zip(sets, balances, strict=True):
        warnings += [_finding("balance", named(one.sources), reason) for reason in _imbalance(balance)]
    return DataReport(
        data=[printable(source.path) for source in sets[0].sources],
        test=[printable(source.path) for one in sets[1:] for source in one.sources],
        records=len(records),
        pictures=len({look.digest for look in seen if look.digest is not None}),
        errors=errors,
        warnings=warnings,
        left_out=passed_over([source for one in sets for source in one.sources]),
        balance=balances[0],
        test_balance=balances[1] if test is not None else {},
    )


def _finding(kind: Kind, source: str, reason: str) -> Finding:
    return Finding(kind=kind, source=source, reason=reason)


def _within(
    find: Callable[[Sequence[Record], Sequence[Seen]], dict[int, str]],
    records: Sequence[Record],
    seen: Sequence[Seen],
    is_test: np.ndarray,
) -> dict[int, str]:
    """Faults within each set alone."""
    found: dict[int, str] = {}
    for part in (np.flatnonzero(~is_test).tolist(), np.flatnonzero(is_test).tolist()):
        faults = find([records[index] for index in part], [seen[index] for index in part])
        found |= {part[index]: reason for index, reason in faults.items()}
    return found


def _leaks(records: Sequence[Record], seen: Sequence[Seen], is_test: np.ndarray) -> dict[int, str]:
    """Test records whose very picture, or without one whose question, is in the training data."""
    first: dict[tuple[str | None, str], int] = {}
    found = {}
    for index, (record, one) in enumerate(zip(records, seen, strict=True)):
        if one.fault is None:
            what = (one.digest, "" if one.digest else record.question)
            if not is_test[index]:
                first.setdefault(what, index)
            elif what in first:
                found[index] = f"leak: expected data unseen in training, got that of {records[first[what]].source}."
    return found


def _alike(
    records: Sequence[Record], seen: Sequence[Seen], is_test: np.ndarray, max_distance: int
) -> tuple[dict[int, str], dict[int, str]]:
    """Test records whose picture looks like a training picture; and, once for each picture, first records whose
    picture looks like one before in their own set.
    """
    indices = [index for index, one in enumerate(seen) if one.look is not None]
    hashes = np.array([seen[index].look for index in indices], dtype=np.uint64)
    tested = is_test[indices]
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


def _balance(records: Sequence[Record], taxonomy: Taxonomy) -> dict[str, dict[str, int]]:
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
