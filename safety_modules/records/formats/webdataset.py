"""WebDataset: tar shards; a sample is a picture and a .json with the words, under one name: `7.jpg`, `7.json`.

A name ends at its last dot. Shards must not be compressed: a picture is read from its place in the tar whenever it is
needed, and never copied.
"""

import json
import tarfile
from collections.abc import Iterator, Set
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from safety_modules.errors import DataError
from safety_modules.io.strict import unique_keys
from safety_modules.records.formats.base import DataEntry, EntryContent
from safety_modules.records.formats.folder import HIDDEN, NO_PICTURES
from safety_modules.records.formats.tables import LABELS, Cells, Table
from safety_modules.records.images import KEYS, FileSlice, begins_as_picture, has_picture_suffix
from safety_modules.records.source import Source, as_object, copied_shards, shard_files

_BLOCK = 512  # bytes; a tar's members begin at multiples of it
_PIECE = 1 << 20
_WORDS = ("json", "txt", "cls", "id", "index")


class Member(NamedTuple):
    """A member of a tar: its name without and its suffix, its content, and from where to where it stands in the tar."""

    key: str
    suffix: str
    content: FileSlice
    start: int
    end: int

    @property
    def is_picture(self) -> bool:
        """By its name, or by its first bytes."""
        if self.suffix in _WORDS:
            return False
        if has_picture_suffix(f"x.{self.suffix}"):
            return True
        with self.content.path.open("rb") as file:
            file.seek(self.content.offset)
            return begins_as_picture(file.read(min(16, self.content.size)))


class WebDataset(Table):
    name = "webdataset"
    rule = "a path that ends in `.tar`, with or without braces and wildcards"
    suffix = ".tar"
    options = ("image_key",)
    names_files = False

    def entries(self, source: Source, pictures: bool = True) -> Iterator[DataEntry]:
        for shard in shard_files(source.path):
            try:
                for key, parts in groupby(_members(shard, source), lambda one: getattr(one, "key", one)):
                    yield key if isinstance(key, DataEntry) else DataEntry(f"{shard}:{key}", [*parts])
            except (OSError, tarfile.TarError) as error:
                raise DataError(
                    f"{shard} not read: expected an uncompressed tar, got {error}. Write it anew."
                ) from error

    def sample(self, value: Any, where: str, source: Source) -> EntryContent:
        pictures = [part.content for part in value if part.is_picture]
        said = _said(value)
        if pictures:
            said = {key: one for key, one in said.items() if key not in KEYS} | {"image": pictures}
        sample = super().sample(Cells(said, source.folder), where, source)
        others = [part.suffix for part in value if part.suffix not in _WORDS[:2]]
        if not sample.pictures and others:
            sample.pictures.append(DataError(f"no picture: expected one in the sample, got {', '.join(others)}."))
        return sample

    def check(self, value: Any, sample: EntryContent, source: Source) -> None:
        suffixes = sorted(part.suffix for part in value)
        if len(set(suffixes)) < len(suffixes):
            raise DataError(f"duplicate file name in a sample: expected each suffix once, got {', '.join(suffixes)}.")
        pictures = [part.suffix for part in value if part.is_picture]
        if len(pictures) > 1 or "json" not in suffixes or {*suffixes} - {*pictures, "json"}:
            raise DataError(f"sample: expected one picture and one .json, got {', '.join(suffixes)}.")
        said = _said(value)
        if unknown := sorted(set(said) - set(LABELS)):
            raise DataError(f".json: expected only {', '.join(LABELS)}, got {', '.join(unknown)} too.")
        super().check(Cells(said, source.folder), sample, source)

    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        """Every member that stays with its header as it was."""
        gaps: dict[Path, list[tuple[int, int]]] = {}
        entries = (entry for entry in self.entries(source) if entry.where)
        for number, entry in enumerate(entries):
            for part in entry.value if number in drop else ():
                gaps.setdefault(part.content.path, []).append((part.start, part.end))
        for path, place in copied_shards(source, to):
            with path.open("rb") as file, place.open("wb") as out:
                done = 0
                for start, end in [*gaps.get(path, ()), (path.stat().st_size, 0)]:
                    file.seek(done)
                    while done < start:
                        piece = file.read(min(_PIECE, start - done))
                        out.write(piece)
                        done += len(piece)
                    done = end


def _said(parts: list[Member]) -> dict[str, Any]:
    """The words of a sample: of its .json, or of a .txt, which is a caption."""
    found = {part.suffix: part.content for part in parts}
    if "json" in found:
        try:
            text = found["json"].read().decode("utf-8-sig", "surrogateescape")
            return as_object(json.loads(text, object_pairs_hook=unique_keys))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}.") from error
    return {"answer": found["txt"].read().decode("utf-8-sig", "surrogateescape")} if "txt" in found else {}


def _members(shard: Path, source: Source) -> Iterator[Member | DataEntry]:
    """Members of a tar; a DataEntry for one that is part of no sample."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            where = f"{shard}:{member.name}"
            if member.isdir():
                continue
            if any(part.startswith(".") and part != ".." for part in path.parts):
                source.left_out[HIDDEN] += 1
                continue
            stem, dot, suffix = path.name.rpartition(".")
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            content = FileSlice(shard, member.offset_data, member.size, where)
            key, suffix = (str(path.with_name(stem)), suffix.lower()) if dot else (member.name, "")
            part = Member(key, suffix, content, member.offset, end)
            if not member.isfile():
                fault = f"expected a file, got a link to {member.linkname}. Write the tar with the files themselves."
                yield DataEntry(where, fault=fault, left_out=None if member.linkname else NO_PICTURES)
            elif dot or part.is_picture:
                yield part
            else:
                yield DataEntry(where, None, "expected a name with a suffix, got one without.", NO_PICTURES)
