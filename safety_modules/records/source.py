"""What is to be read, as every reader gets it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError
from safety_modules.records.record import Problem
from safety_modules.taxonomy import Taxonomy


@dataclass
class Source:
    """A data file, folder or address, and how to read it.

    Attributes:
        path: as the user wrote it.
        image_dir: where relative image paths start; None = in the folder, or beside the file.
        taxonomy: names and order of types and levels.
        categories: VLGuard: the table of categories; None = the shipped one.
        level: folders: the level of risky pictures that lie in no folder of a level.
        question: folders: the question asked about every picture; None = the shipped one.
        streaming: Hugging Face datasets: read while loading, without a copy of the dataset on disk.
        left_out: what a reader passed over because it was told to, and how often.
    """

    path: str
    image_dir: Path | None
    taxonomy: Taxonomy
    categories: Path | None = None
    level: str | None = None
    question: str | None = None
    streaming: bool = False
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
    def json_list(self) -> list[Any]:
        """The list that a .json file holds. Raises DataError where it holds something else."""
        try:
            value = json.loads(self.text())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path} is not JSON: expected a list of objects, got {error}. Correct it.") from error
        if not isinstance(value, list):
            raise DataError(f"{self.path}: expected a list of objects, got {type(value).__name__}. Correct it.")
        return value

    def image_file(self, name: Any) -> Path:
        """The file of that name. Raises DataError where there is none."""
        if not isinstance(name, str) or not name:
            raise DataError(f"image: expected a file name, got {name!r}.")
        beside = self.file if self.file.is_dir() else self.file.parent
        path = (beside if self.image_dir is None else self.image_dir) / name
        if not path.is_file():
            raise DataError(f"image: expected a file, got nothing at {path}.")
        return path


def json_items(source: Source) -> Iterator[tuple[str, Any] | Problem]:
    """(place, object) of every object in a .json list; places count from 0."""
    for number, item in enumerate(source.json_list):
        yield f"{source.path} item {number}", item


def as_object(item: Any) -> dict[str, Any]:
    """The item, if it is a JSON object. Raises DataError if not."""
    if not isinstance(item, dict):
        raise DataError(f"expected an object, got {type(item).__name__}.")
    return item
