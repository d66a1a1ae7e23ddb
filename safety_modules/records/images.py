"""Pictures as they lie on disk: read on demand and decoded, never kept."""

import tempfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from safety_modules.errors import DataError

DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a channel begin with these."""


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


def read_bytes(image: Path | EncodedImage) -> bytes:
    """The encoded picture.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return image.read_bytes() if isinstance(image, Path) else image.read()
    except (OSError, ValueError) as error:
        raise DataError(f"unreadable image {image}: expected its bytes, got {error}. Check the path.") from error


def in_rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB. Raises ValueError for one of more than 8 bits a channel, which Pillow would clip."""
    if picture.mode.startswith(DEEP):
        raise ValueError(f"more than 8 bits a channel (mode {picture.mode}); save it with 8")
    return picture.convert("RGB")


def decode(data: bytes, name: object) -> Image.Image:
    """The picture, in RGB.

    Args:
        data: of an image file.
        name: for the message.

    Raises:
        DataError: Pillow cannot decode all of it, it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or more than 8
            bits a channel.
    """
    try:
        with Image.open(BytesIO(data)) as picture:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and picture.width * picture.height > limit:
                raise Image.DecompressionBombError(
                    f"{picture.width} x {picture.height} pixels, more than {limit} (PIL.Image.MAX_IMAGE_PIXELS)"
                )
            return in_rgb(picture)
    except Exception as error:  # on damaged files Pillow's decoders raise more kinds than it documents
        unknown = isinstance(error, UnidentifiedImageError)  # whose own words name a buffer of ours
        got = "no format it knows" if unknown else f"{type(error).__name__}: {error}"
        raise DataError(
            f"unreadable image {name}: expected a picture Pillow can decode, got {got}. "
            "Replace the file or remove its record."
        ) from error
