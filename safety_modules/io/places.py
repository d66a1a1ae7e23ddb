"""Whether something can be written to a place: asked before any work, so that no result is lost at the end of it."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from safety_modules.errors import ConfigError

SPARE = 20_000_000
"""Bytes that must be free before anything is begun: a report, an adapter of a small base, a list of verdicts."""


def check_writable(*places: str | PathLike[str] | None) -> None:
    """Refuse folders that nothing could be written into; nothing is left behind, missing ones are not made.

    Args:
        places: folders, there or not; None is passed over.

    Raises:
        ConfigError: naming the first such place and why.
    """
    for place in places:
        if place is None:
            continue
        folder = _nearest(Path(place))
        try:
            tempfile.TemporaryFile(dir=folder).close()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise ConfigError(
                f"no place to write to: expected to write into {place}, got '{error.strerror}' at {folder}. "
                "Name another."
            ) from error
        if free < SPARE:
            raise ConfigError(
                f"disk full: expected at least {SPARE / 1e6:.0f} MB free for {place}, got {free / 1e6:.1f} MB. "
                "Free some, or name another place."
            )


def check_file(path: str | PathLike[str] | None, *, replace: bool = True) -> None:
    """Refuse a file that could not be written, or that is there already and is not to be replaced.

    Args:
        path: of the file; None is passed over.
        replace: whether one that is there may be replaced.

    Raises:
        ConfigError: a folder has this name, the file is there, or its folder cannot be written to.
    """
    if path is None:
        return
    if os.path.isdir(path):
        raise ConfigError(f"no file to write: expected a file's name, got the folder {path}. Name a file in it.")
    if not replace and os.path.lexists(path):
        raise ConfigError(
            f"not replaced: expected a new file, got {path}, which is there. Name another, or --overwrite."
        )
    check_writable(Path(path).parent)


def check_ours(folder: str | PathLike[str], marks: Iterable[str], what: str) -> None:
    """Refuse a folder with other people's files in it; a new or an empty one is fine.

    Args:
        folder: to write into.
        marks: files of which one is in every folder of ours.
        what: writes there; for the message.

    Raises:
        ConfigError: it holds something, and none of the marks.
    """
    path = Path(folder)
    others = (
        [item for item in path.iterdir() if item.suffix != ".tmp"] if path.is_dir() else []
    )  # .tmp: of a killed run
    if others and not any((path / mark).exists() for mark in marks):
        raise ConfigError(
            f"foreign folder: expected a new or empty folder, or one of {what}, got {path} with other files in it. "
            "Name another."
        )


def _nearest(path: Path) -> Path:
    """The path, or the nearest thing above it that is there."""
    path = path.absolute()
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
