"""A folder of pictures. For training a folder for each class: `clean/x.png`, `illegal/high/y.png`; or `illegal/y.png`
with one level named for all, or pictures of one type named for all.

Names that begin with a dot are passed over. Every picture gets the same question. Links are followed; what a link leads
to is read once, under its own name where it has one in the folder.
"""

import os
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.formats.base import DataEntry, EntryContent, Format, LabelledQuestion
from safety_modules.records.formats.hf import is_saved
from safety_modules.records.images import begins_as_picture, has_picture_suffix
from safety_modules.records.source import Source, copied_name
from safety_modules.taxonomy import CLEAN

QUESTION = "Describe this image."
"""Asked about every picture, where no other question is given."""
NO_PICTURES = "files that are no pictures"
NOWHERE = "links that lead nowhere"
AGAIN = "links to folders that are read under another name"
HIDDEN = "hidden files and folders"
FAULTS = {
    NO_PICTURES: "expected a picture file, by its suffix or its first bytes, got something else.",
    NOWHERE: "expected a file or folder, got a link that leads nowhere.",
    AGAIN: "expected each folder once, got a link to one that is read under another name.",
}


class PictureFolder(Format):
    name = "folder"
    rule = "a folder that holds only pictures, or only folders, at least one of them named as a type"
    options = ("type", "level", "question")
    unasked = QUESTION
    names_files = False

    def fits(self, source: Source, strict: bool) -> bool:
        """An audit takes any folder that is no saved dataset."""
        if not source.file.is_dir() or not strict:
            return source.file.is_dir() and not is_saved(source)
        inside = [path for path in source.file.iterdir() if not path.name.startswith(".")]
        if not inside:
            raise DataError(
                f"no data: expected pictures in folders, got the empty folder {source.path}. Check the path."
            )
        if all(path.is_file() and has_picture_suffix(path.name) for path in inside):
            return True
        return all(path.is_dir() for path in inside) and any(path.name in source.taxonomy.labels for path in inside)

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        """Picture files at any depth, those of a folder in the order of names before its folders, linked ones last."""
        if not source.file.is_dir():
            raise DataError(f"data not read: expected a folder, got {source.path}. Check the path.")
        for path, kind in _walk(source.file):
            if kind == HIDDEN:
                source.left_out[HIDDEN] += 1
            elif kind in FAULTS:
                yield DataEntry(str(path), path, FAULTS[kind], kind)
            else:
                yield DataEntry(str(path), path, kind)

    def sample(self, value: Path, where: str, source: Source) -> EntryContent:
        folders = value.relative_to(source.file).parts[:-1]
        named = [*folders[:1], source.options.type][0]
        type = named if named in source.taxonomy.labels else None
        level = folders[1] if len(folders) > 1 and folders[1] in source.taxonomy.levels else None
        if level is None and type is not None and type != CLEAN:
            level = source.options.level
        return EntryContent([value], [LabelledQuestion(source.options.question, None, type, level)])

    def check(self, value: Path, sample: EntryContent, source: Source) -> None:
        folders, taxonomy = value.relative_to(source.file).parts[:-1], source.taxonomy
        asked = sample.asked[0]
        if asked.type is None:
            got = folders[0] if folders else "none"
            raise DataError(f"unknown type: expected a folder named {', '.join(taxonomy.labels)}, got {got}.")
        if len(folders) > 1 and folders[1] not in taxonomy.levels:
            raise DataError(f"unknown level: expected a folder named {', '.join(taxonomy.levels)}, got {folders[1]}.")
        if len(folders) > 2:
            raise DataError(f"expected a picture file in {'/'.join(folders[:2])}, got a folder {folders[2]} there.")
        if asked.level is None and asked.type != CLEAN:
            levels = ", ".join(taxonomy.risky_levels)
            raise DataError(
                f"no level: expected a folder {asked.type}/LEVEL ({levels}), or one level named for all of them."
            )

    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """All files, hidden and other ones too; what links lead to stands in the copy itself."""
        entries = (entry for entry in self.entries(source) if entry.where)
        dropped = {entry.value for number, entry in enumerate(entries) if number in drop}
        root = to / copied_name(source)
        root.mkdir(parents=True, exist_ok=True)
        for path, kind in _walk(source.file):
            place = root / path.relative_to(source.file)
            if path in dropped or kind == AGAIN:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == HIDDEN and path.is_dir():
                shutil.copytree(path, place, symlinks=True)
            elif path.is_file() or path.is_symlink():
                shutil.copy2(path, place, follow_symlinks=path.exists())


def _walk(root: Path) -> Iterator[tuple[Path, str | None]]:
    """(path, what it is) of every file, and of folders that are not read; None = a picture, other words a fault."""
    seen: set[tuple[int, int]] = set()
    waiting, linked = [root], list[Path]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                yield folder, AGAIN
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as found:
                inside = sorted(found, key=lambda one: one.name)
        except OSError as error:
            yield folder, f"folder not read: expected its names, got {error}."
            continue
        folders: list[Path] = []
        for one in inside:
            path = folder / one.name
            if one.name.startswith("."):
                yield path, HIDDEN
            elif _is(one.is_dir):
                (linked if one.is_symlink() else folders).append(path)
            elif _is_picture(path, is_file := _is(one.is_file)):
                yield path, None
            else:
                yield path, NOWHERE if one.is_symlink() and not is_file and not path.exists() else NO_PICTURES
        waiting += reversed(folders)


def _is(test: Any) -> bool:
    try:
        return bool(test())
    except OSError:  # a link to itself
        return False


def _is_picture(path: Path, is_file: bool) -> bool:
    """A link that leads nowhere is one, by its name: its row says so."""
    if has_picture_suffix(path.name):
        return is_file or path.is_symlink()
    if not is_file:  # a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            return begins_as_picture(file.read(16))
    except OSError:
        return False
