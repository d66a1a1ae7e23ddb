"""Encoded pictures inside larger files: read on demand, never kept. `pictures` makes pixels of them."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_modules.pictures import read_bytes as read_bytes


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


class Spool:
    """A temporary file that pictures from a stream wait in; made for the first, gone when the last one is."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._size = 0

    def add(self, data: bytes, name: str) -> FileSlice:
        """Put a picture in."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="safety-modules-")
        path = Path(self._folder.name) / "images"
        with path.open("ab") as file:
            file.write(data)
        self._size += len(data)
        return FileSlice(path, self._size - len(data), len(data), name, owner=self)
