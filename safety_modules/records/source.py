"""What is to be read: its options, its files, and where a copy of it goes."""

import glob
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import takewhile
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.records.images import KEYS, EncodedImage, looks_like_picture, reference, values_of
from safety_modules.taxonomy import Taxonomy

Picture = Path | EncodedImage | DataError
"""A picture to be read, or why there is none where one is named."""
UNKNOWN_KEY = "no picture under"
"""How the reason begins where a picture stands under a key that is not looked at."""
ADDRESS = "hf://"


@dataclass(frozen=True)
class ReadOptions:
    """How data is read, where its place alone does not say it. An option that means nothing to a format is refused.

    Attributes:
        format: one of `jsonl`, `llava`, `vlguard`, `csv`, `parquet`, `folder`, `hf`, `webdataset`; None = recognised by
            the rules in docs/data.md.
        image_dir: where relative image paths start; None = beside the file, or in the folder.
        image_key: the key or column that names the pictures, or several with commas between them; None = those of
            docs/data.md.
        categories: vlguard: a table of categories instead of the shipped one.
        type: folder: the type of pictures that lie in no folder.
        level: folder: the level of risky pictures that lie in no folder of a level.
        question: folder: what is asked about every picture instead of "Describe this image.".
        streaming: hf: read while loading, without a copy of the dataset on disk.
    """

    format: str | None = None
    image_dir: str | PathLike[str] | None = None
    image_key: str | None = None
    categories: str | PathLike[str] | None = None
    type: str | None = None
    level: str | None = None
    question: str | None = None
    streaming: bool = False

    def given(self) -> list[str]:
        """Names of the options that mean something to some formats only, of those that were given."""
        names = [field.name for field in fields(self) if field.name != "format"]
        return [name for name in names if getattr(self, name) not in (None, False)]


@dataclass
class Source:
    """A data file, folder or address, and how to read it."""

    path: str  # as the user wrote it
    taxonomy: Taxonomy
    options: ReadOptions = field(default_factory=ReadOptions)
    format: str = ""  # its name, once it is known
    left_out: Counter[str] = field(default_factory=Counter)  # what a reader passed over, and how often

    @property
    def file(self) -> Path:
        """The path as a path."""
        return Path(self.path)

    def text(self) -> str:
        """The file's text. Raises DataError where there is none."""
        try:
            return self.file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data not read: expected a UTF-8 file, got {error}. Check the path.") from error

    @cached_property
    def folder(self) -> Path:
        """Where relative names of pictures start."""
        beside = self.file if self.file.is_dir() else self.file.parent
        return beside if self.options.image_dir is None else Path(self.options.image_dir)

    @cached_property
    def image_keys(self) -> tuple[str, ...]:
        """Keys or columns that may name pictures."""
        return KEYS if self.options.image_key is None else tuple(self.options.image_key.split(","))

    def pictures(self, item: Mapping[str, Any], where: str, folder: Path | None = None) -> list[Picture]:
        """The pictures of an item; none for one of words alone, but a DataError where one stands under another key.

        Args:
            item: a JSON object, or a table's cells by column.
            where: its place.
            folder: where relative names start; None = `folder`.
        """
        present = [key for key in self.image_keys if item.get(key) is not None]
        found = {key: values for key in present if (values := [*values_of(item[key])])}
        if not found and (key := looks_like_picture(item)) is not None:
            reason = (
                f"{UNKNOWN_KEY} {', '.join(self.image_keys)}: expected it there, got what looks like one under "
                f"{key!r}. Name that key (ReadOptions.image_key, --image-key), or rename it."
            )
            return [DataError(reason)]
        if self.options.image_key is None and len(found) > 1:
            both: dict[str, list[Any]] = {key: found[key] for key in ("image", "images") if key in found}
            chosen = both or dict([*found.items()][:1])
            named = {value for values in chosen.values() for value in values if isinstance(value, str)}
            for key in found.keys() - chosen.keys():
                if named and not named.issuperset(value for value in found[key] if isinstance(value, str)):
                    self.left_out[f"values of {key}, where {next(iter(chosen))} names the picture"] += 1
            found = chosen
        return [self._picture(value, where, folder) for values in found.values() for value in values]

    def _picture(self, value: Any, where: str, folder: Path | None) -> Picture:
        try:
            return reference(value, where, self.folder if folder is None else folder)
        except DataError as error:
            return error


def as_object(item: Any) -> dict[str, Any]:
    """The item, if it is a JSON object. Raises DataError if not."""
    if not isinstance(item, dict):
        raise DataError(f"expected an object, got {type(item).__name__}.")
    return item


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
