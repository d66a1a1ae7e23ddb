"""Read records from any of the formats.

Nothing is guessed: whatever cannot be read exactly as documented is reported with file, line and reason.
"""

from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path

from safety_modules.errors import ConfigError, DataError
from safety_modules.records.examine import examine
from safety_modules.records.faults import mend
from safety_modules.records.formats import FORMATS
from safety_modules.records.recognise import recognise
from safety_modules.records.record import Problem, Record, label_problems, raise_problems
from safety_modules.records.source import Source
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy

Pathlike = str | PathLike[str]


def read_records(
    path: Pathlike,
    image_dir: Pathlike | None = None,
    taxonomy: Taxonomy = DEFAULT_TAXONOMY,
    *,
    format: str | None = None,
    categories: Pathlike | None = None,
    level: str | None = None,
    question: str | None = None,
    streaming: bool = False,
) -> list[Record]:
    """Read a data file, folder or address; docs/data.md shows every format.

    Args:
        path: the data.
        image_dir: where relative image paths start; default: beside the file, or in the folder.
        taxonomy: names of types and levels.
        format: one of `jsonl`, `llava`, `vlguard`, `csv`, `parquet`, `folder`, `hf`, `webdataset`; None = recognised
            by the rules in docs/data.md.
        categories: vlguard: a table of categories instead of the shipped one.
        level: folder: the level of risky pictures that lie in no folder of a level.
        question: folder: what is asked about every picture instead of "Describe this image.".
        streaming: hf: read while loading, without a copy of the dataset on disk.

    Returns:
        The records, each with its source. Pictures stay where they are until `load_image`.

    Raises:
        DataError: the format is not clear, or naming every bad record by file, line (or item) and reason. Nothing is
            returned then.

    Does not cover: whether the pictures can be decoded; `read_good_records` and `check_data` look at them.
    """
    source = open_source(path, image_dir, taxonomy, format, categories, level, question, streaming)
    records, problems = read_all(*source)
    if not records and not problems:
        raise_problems(["expected at least one record, got none."], str(path))
    raise_problems(problems, str(path))
    return records


def read_good_records(
    path: Pathlike,
    image_dir: Pathlike | None = None,
    taxonomy: Taxonomy = DEFAULT_TAXONOMY,
    format: str | None = None,
    jobs: int | None = None,
    *,
    categories: Pathlike | None = None,
    level: str | None = None,
    question: str | None = None,
    streaming: bool = False,
    progress: bool = True,
) -> tuple[list[Record], list[Problem]]:
    """Read data and decode every picture: what can be used, and why the rest cannot.

    Left out is what `check_data` calls an error within one set: records that cannot be read, pictures that cannot be
    decoded, every copy of a record but the first, and all records of a picture and question whose labels conflict.

    Args:
        path: and the other arguments: see `read_records`.
        image_dir: see there.
        taxonomy: see there.
        format: see there.
        jobs: threads that decode; None = one a core.
        categories: see there.
        level: see there.
        question: see there.
        streaming: see there.
        progress: show a bar.

    Returns:
        The good records, and a Problem for everything that was left out.

    Raises:
        DataError: the format is not clear, or the source as a whole cannot be read.

    Does not cover: leaks between sets (`check_data`).
    """
    source = open_source(path, image_dir, taxonomy, format, categories, level, question, streaming)
    records, problems = read_all(*source)
    good, bad = mend(records, examine(records, jobs, progress))
    return good, problems + bad


def open_source(
    path: Pathlike,
    image_dir: Pathlike | None,
    taxonomy: Taxonomy,
    format: str | None,
    categories: Pathlike | None,
    level: str | None,
    question: str | None,
    streaming: bool,
) -> tuple[Source, str]:
    """The source and the name of its format. Raises DataError for an option that means nothing to the format."""
    source = Source(
        fspath(path),
        None if image_dir is None else Path(image_dir),
        taxonomy,
        None if categories is None else Path(categories),
        level,
        question,
        streaming,
    )
    if format is not None and format not in FORMATS:
        raise DataError(f"unknown data format: expected one of {', '.join(FORMATS)}, got {format!r}. Name another.")
    name = format or recognise(source)
    for option in ("categories", "level", "question", "streaming"):
        if getattr(source, option) and option not in FORMATS[name].options:
            raise DataError(
                f"option {option} means nothing to the format {name}: expected it with "
                f"{', '.join(key for key, known in FORMATS.items() if option in known.options)}. Leave it out."
            )
    if level is not None and level not in taxonomy.risky_levels:
        raise DataError(
            f"unknown level: expected one of {', '.join(taxonomy.risky_levels)}, got {level!r}. Name another."
        )
    return source, name


def read_all(source: Source, name: str) -> tuple[list[Record], list[Problem]]:
    """Every record whose words and label can be used, and a Problem for everything else."""
    records: list[Record] = []
    problems: list[Problem] = []
    for found in _read(source, name):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            records.append(found)
    return records, problems


def _read(source: Source, name: str) -> Iterator[Record | Problem]:
    form = FORMATS[name]
    for item in form.items(source):
        if isinstance(item, Problem):
            yield item
            continue
        where, value = item
        try:
            found = form.records(value, where, source)
        except (DataError, ConfigError) as error:
            yield Problem(source=where, reason=str(error))
            continue
        for record in found:
            reasons = label_problems(record, source.taxonomy)
            yield from (Problem(source=where, reason=reason) for reason in reasons)
            if not reasons:
                yield record
