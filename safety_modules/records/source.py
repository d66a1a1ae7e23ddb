"""What is to be read, as every reader gets it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.images import EncodedImage
from safety_modules.records.references import KEYS, looks_like_picture, reference, values_of
from safety_modules.taxonomy import Taxonomy

Picture = Path | EncodedImage | DataError
"""A picture to be read, or why there is none where one is named."""
UNKNOWN_KEY = "no picture under"
"""How the reason begins where a picture stands under a key that is not looked at."""


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
        level: folder: the level of risky pictures that lie in no folder of a level.
        question: folder: what is asked about every picture instead of "Describe this image.".
        streaming: hf: read while loading, without a copy of the dataset on disk.
    """

    format: str | None = None
    image_dir: str | PathLike[str] | None = None
    image_key: str | None = None
    categories: str | PathLike[str] | None = None
    level: str | None = None
    question: str | None = None
    streaming: bool = False

    def given(self) -> list[str]:
        """Names of the options that mean something to some formats only, of those that were given."""
        names = [field.name for field in fields(self) if field.name != "format"]
        return [name for name in names if getattr(self, name) not in (None, False)]


@dataclass
class Source:
    """A data file, folder or address, and how to read it.

    Attributes:
        path: as the user wrote it.
        taxonomy: names and order of types and levels.
        options: see `ReadOptions`.
        format: its name, once it is known.
        left_out: what a reader passed over, and how often.
    """

    path: str
    taxonomy: Taxonomy
    options: ReadOptions = field(default_factory=ReadOptions)
    format: str = ""
    left_out: Counter[str] = field(default_factory=Counter)

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
