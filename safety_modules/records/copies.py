"""Copies of data without some of its entries, each in its own format, at a new place."""

import glob
import os
from collections.abc import Set
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.records.source import Source

if TYPE_CHECKING:
    from safety_modules.records.formats.base import Format

ADDRESS = "hf://"


def copy_without(form: "Format", source: Source, to: Path, drop: Set[int]) -> int:
    """Write the data into a folder, without the entries that some rows of an audit are of.

    Args:
        form: the data's format.
        source: the data.
        to: an existing empty folder; the copy stands in it under `copied_name`.
        drop: numbers of rows, as `Format.rows` counts them.

    Returns:
        Rows of the entries that were left out.

    Raises:
        DataError: the data cannot be copied in its own format.
    """
    first = number = dropped = 0
    entries: set[int] = set()
    for entry in form.entries(source):
        rows = len(form.rows_of(entry, source))
        if not drop.isdisjoint(range(first, first + rows)):
            entries.add(number)
            dropped += rows
        first += rows
        number += bool(entry.where)
    form.copy(source, to, entries)
    return dropped


def copied_name(source: Source) -> str:
    """What the copy is called, as a path: the data's own name, or its pattern below the last folder without signs."""
    if source.path.startswith(ADDRESS):
        return source.path.removeprefix(ADDRESS).replace("/", "--").replace(":", "--")
    return os.path.relpath(source.path, _root(source)).replace(":", "--" if not source.file.exists() else ":")


def shard_files(pattern: str) -> list[Path]:
    """The files that a path with braces and wildcards names, in order."""
    names = [pattern] if Path(pattern).is_file() else [*needed("braceexpand", pattern).braceexpand(pattern)]
    shards = [Path(name) for path in names for name in (sorted(glob.glob(path)) or [path])]
    missing = [str(path) for path in shards if not path.is_file()]
    if missing:
        raise DataError(f"shards not found: expected files, got nothing at {', '.join(missing[:5])}. Check the path.")
    return shards


def copied_shards(source: Source, to: Path) -> list[tuple[Path, Path]]:
    """(file, where its copy goes) of each of the source's files, with the folders that a pattern spans."""
    places = [(path, to / os.path.relpath(path, _root(source))) for path in shard_files(source.path)]
    for _, place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    return places


def is_pattern(path: str) -> bool:
    """Whether a path has braces or wildcards."""
    return any(sign in path for sign in "{*?[")


def _root(source: Source) -> Path:
    """The folder that the data, or the first part with the signs of a pattern, lies in."""
    path = Path(os.path.abspath(source.path))
    if source.file.exists():
        return path.parent
    plain = list(takewhile(lambda part: not is_pattern(part), path.parts))
    return Path(*plain[: len(path.parts) - 1])
