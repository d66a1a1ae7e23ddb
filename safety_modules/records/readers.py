"""Read records from any of the formats.

Nothing is guessed: whatever cannot be read exactly as documented is reported with file, line and reason.
"""

from collections import Counter
from collections.abc import Sequence, Set
from os import PathLike, fspath
from typing import Any

from safety_modules.errors import DataError, printable
from safety_modules.records.examine import examine, mend
from safety_modules.records.formats import FORMATS
from safety_modules.records.formats.folder import QUESTION, PictureFolder
from safety_modules.records.formats.text import json_list
from safety_modules.records.record import GoodRecords, Problem, Record, raise_problems
from safety_modules.records.source import ADDRESS, ReadOptions, Source, is_pattern
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Taxonomy

Pathlike = str | PathLike[str]
Data = Pathlike | Sequence[Pathlike]
"""One file, folder or address, or several that are read as one set."""
Options = ReadOptions | Sequence[ReadOptions]
"""For all of them, or for each one its own."""
DEFAULTS = ReadOptions()
NOTHING = "expected at least one record, got none."


def read_records(data: Data, options: Options = DEFAULTS, taxonomy: Taxonomy = DEFAULT_TAXONOMY) -> list[Record]:
    """Read a data file, folder or address, or several; docs/data.md shows every format.

    Args:
        data: where it is.
        options: how it is read, where that is not clear; one for all, or one for each.
        taxonomy: names of types and levels.

    Returns:
        The records, each with its source. Pictures stay where they are until `load_image`.

    Raises:
        DataError: a format is not clear, an option means nothing to it, or naming every bad record by file, line (or
            item) and reason. Nothing is returned then.

    Does not cover: whether the pictures can be decoded; `read_good_records` and `check_data` look at them.
    """
    sources = open_sources(data, options, taxonomy)
    records, problems = read_all(sources)
    raise_problems(problems, named(sources))
    return records


def read_good_records(
    data: Data,
    options: Options = DEFAULTS,
    taxonomy: Taxonomy = DEFAULT_TAXONOMY,
    *,
    jobs: int | None = None,
    progress: bool = True,
    known: Set[str] = frozenset(),
    keep_bytes: int = 0,
) -> GoodRecords:
    """Read data and decode every picture: what can be used, and why the rest cannot.

    Left out is what `check_data` calls an error within one set: records that cannot be read, pictures that cannot be
    decoded, every copy of a record but the first, and all records of a picture and question whose labels conflict.
    Several files are one set.

    Args:
        data: and the next two: see `read_records`.
        options: see there.
        taxonomy: see there.
        jobs: threads that decode; None = one a core.
        progress: show a bar.
        known: digests of pictures that were decoded before; these are read but not decoded again.
        keep_bytes: memory for decoded pictures; training does not decode these a second time.

    Raises:
        DataError: a format is not clear, an option means nothing to it, or a source as a whole cannot be read.

    Does not cover: leaks between sets (`check_data`).
    """
    sources = open_sources(data, options, taxonomy)
    records, problems = read_all(sources)
    seen = examine(records, jobs, progress, known=known, keep_bytes=keep_bytes)
    good, faults = mend(records, seen)
    return GoodRecords(
        [records[index] for index in good],
        problems + faults,
        passed_over(sources),
        [seen[index].digest for index in good],
        {one.digest: one.picture for one in (seen[index] for index in good) if one.digest and one.picture},
    )


def read_pictures(folders: Sequence[Pathlike], taxonomy: Taxonomy) -> list[Record]:
    """The pictures of some folders, at any depth, that nobody labelled; what their folders are called means nothing.

    Raises:
        DataError: a folder cannot be read, holds no picture or something that is none.
    """
    form, found, problems = PictureFolder(), list[Record](), list[str]()
    for folder in folders:
        source = Source(str(folder), taxonomy, DEFAULTS)
        before = len(found) + len(problems)
        for entry in form.entries(source):
            if entry.fault:
                problems.append(f"{entry.where}: {entry.fault}")
            else:
                # Of this label nothing is taken.
                said: dict[str, Any] = {"question": QUESTION, "answer": None, "type": CLEAN}
                found.append(Record(image=entry.value, level=taxonomy.safe_level, source=entry.where, **said))
        if len(found) + len(problems) == before:
            problems.append(f"{folder}: expected at least one picture, got none.")
    raise_problems(problems, "pictures")
    return found


def open_sources(data: Data, options: Options, taxonomy: Taxonomy) -> list[Source]:
    """What is to be read. Raises DataError for a format that is not clear, and an option that means nothing to it."""
    paths = [data] if isinstance(data, str | PathLike) else [*data]
    each = [options] * len(paths) if isinstance(options, ReadOptions) else [*options]
    if not paths or len(each) != len(paths):
        raise DataError(
            f"data not read: expected options for all, or for each of at least one source, got {len(each)} for "
            f"{len(paths)}. Name one for each."
        )
    return [open_source(path, one, taxonomy) for path, one in zip(paths, each, strict=True)]


def open_source(path: Pathlike, options: ReadOptions, taxonomy: Taxonomy) -> Source:
    """As `open_sources`, of one."""
    source = Source(fspath(path), taxonomy, options)
    source.format = recognise(source)
    for option in options.given():
        if option not in FORMATS[source.format].options:
            raise DataError(
                f"option {option} means nothing to the format {source.format} of {path}: expected it with "
                f"{', '.join(key for key, known in FORMATS.items() if option in known.options)}. Leave it out."
            )
    if options.type is not None and options.type not in taxonomy.labels:
        raise DataError(
            f"unknown type: expected one of {', '.join(taxonomy.labels)}, got {options.type!r}. Name another."
        )
    if options.level is not None and options.level not in taxonomy.risky_levels:
        raise DataError(
            f"unknown level: expected one of {', '.join(taxonomy.risky_levels)}, got {options.level!r}. Name another."
        )
    return source


def read_all(sources: Sequence[Source]) -> tuple[list[Record], list[Problem]]:
    """Every record whose words and label can be used, and a Problem for everything else."""
    records: list[Record] = []
    problems: list[Problem] = []
    for source in sources:
        before = len(records) + len(problems)
        for found in FORMATS[source.format].records(source):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                records.append(found)
        if len(records) + len(problems) == before:
            problems.append(Problem(source=source.path, reason=NOTHING))
    return records, problems


def passed_over(sources: Sequence[Source]) -> dict[str, int]:
    """What readers left out, and how often."""
    return dict(sum((source.left_out for source in sources), Counter[str]()))


def named(sources: Sequence[Source]) -> str:
    """What they are called in a message."""
    return printable(", ".join(source.path for source in sources))


def recognise(source: Source, strict: bool = True) -> str:
    """The name of the source's format: as named in its options, or the one whose rule fits.

    Args:
        source: of the data.
        strict: False = for an audit, which needs no labels: any folder is one of pictures, and a .json is what its
            first object is.

    Raises:
        DataError: the format is unknown, no rule fits, or more than one does.
    """
    if (name := source.options.format) is not None:
        if name not in FORMATS:
            raise DataError(f"unknown data format: expected one of {', '.join(FORMATS)}, got {name!r}. Name another.")
        return name
    if not source.path.startswith(ADDRESS) and not is_pattern(source.path) and not source.file.exists():
        raise DataError(f"data not read: expected a file or folder, got nothing at {source.path}. Check the path.")
    found = [name for name, form in FORMATS.items() if form.fits(source, strict)]
    if len(found) == 1:
        return found[0]
    got = f"more than one ({', '.join(found)})" if found else "none"
    raise DataError(
        f"unknown data format: expected one whose rule fits {source.path}, got {got}{_what_is_in(source)}. "
        f"Name it (ReadOptions, --format): {', '.join(FORMATS)}."
    )


def _what_is_in(source: Source) -> str:
    if not source.path.endswith(".json") or not source.file.is_file():
        return ""
    counts = [0, 0, 0]
    for entry in json_list(source):
        if entry.where:
            item = entry.value if isinstance(entry.value, dict) else {}
            kinds = [key in item for key in ("conversations", "instr-resp")]
            counts[kinds.index(True) if sum(kinds) == 1 else 2] += 1
    return f"; it holds {counts[0]} objects with conversations, {counts[1]} with instr-resp and {counts[2]} others"
