"""Encoded pictures inside larger files: read on demand, never kept. `pictures` makes pixels of them."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_modules.pictures import open_picture as decode
from safety_modules.pictures import read_bytes
from safety_modules.records.extras import needed

__all__ = ["DatasetCell", "EncodedImage", "FileSlice", "Spool", "cell_bytes", "decode", "read_bytes"]


class EncodedImage:
    """A picture inside something larger than a file of its own; its `str` says where."""

    def read(self) -> bytes:
        """The encoded picture, such as the content of a JPEG file. Raises OSError or ValueError."""
        raise NotImplementedError


@dataclass(frozen=True)
class FileSlice(EncodedImage):
    """`size` bytes of a file from `offset` on, such as a member of an uncompressed tar.

    Args:
        path: the file.
        offset: in bytes.
        size: in bytes.
        name: of the picture, for messages.
        owner: what must live as long as the file does.
    """

    path: Path
    offset: int
    size: int
    name: str
    owner: Any = field(default=None, compare=False, repr=False)

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"expected {self.size} bytes, got {len(data)}")
        return data

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class DatasetCell(EncodedImage):
    """A cell of a column of pictures in a Hugging Face dataset, which maps its files into memory.

    Args:
        column: the dataset, only this column selected, not decoding.
        row: of the picture.
        name: for messages.
    """

    column: Any
    row: int
    name: str

    def read(self) -> bytes:
        (value,) = self.column[self.row].values()
        return cell_bytes(value)

    def __str__(self) -> str:
        return self.name


def cell_bytes(value: dict[str, Any]) -> bytes:
    """The encoded picture of an undecoded cell (`bytes`, `path`) of a `datasets.Image` column.

    Raises OSError or ValueError where there is none.
    """
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    if value["path"] is None:
        raise ValueError("neither bytes nor a path in the dataset's cell")
    with needed("fsspec", value["path"]).open(value["path"], "rb") as file:
        data: bytes = file.read()
    return data


class Spool:
    """A temporary file that pictures from a stream wait in; gone when its last picture is."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="safety-modules-")
        self._path = Path(self._folder.name) / "images"
        self._size = 0

    def add(self, data: bytes, name: str) -> FileSlice:
        """Put a picture in."""
        with self._path.open("ab") as file:
            file.write(data)
        self._size += len(data)
        return FileSlice(self._path, self._size - len(data), len(data), name, owner=self)
