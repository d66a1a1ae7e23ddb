"""Where a picture is, by what data says of it: a file's name, bytes, base64, an undecoded cell, part of a larger file.

Encoded pictures are read on demand and never kept; `pictures` makes pixels of them.
"""

import base64
import binascii
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

from safety_modules.errors import HALVES, DataError
from safety_modules.io.optional import needed
from safety_modules.pictures import read_bytes

KEYS = ("image", "images", "image_path", "image_paths", "img", "img_path", "image_file", "file_name", "filename")
"""Keys and columns that name pictures. `image` and `images` are both read, of the others the first with a value."""
_OTHERS = {".heic", ".heif", ".jxl", ".dng", ".cr2", ".nef", ".arw"}  # pictures too, though Pillow may not open them
_FILMS = {".mp4", ".webm", ".mov", ".avi", ".mkv"}
_WORDS = {"value", "content", "text", "question", "answer", "prompt", "response", "caption"}
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS")
_BOXES = (b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")
_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # of two letters or more: C:// is a drive
_HERE = {"file", "zip", "tar", "hf"}


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


class Held(EncodedImage):
    """A picture in memory, such as a table's cell."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name

    def read(self) -> bytes:
        return self._data

    def __str__(self) -> str:
        return self._name


@dataclass(frozen=True)
class Opened(EncodedImage):
    """A picture that a library opens: inside an archive here (`zip://a.png::b.zip`), or of a data set on the hub."""

    address: str

    def read(self) -> bytes:
        with needed("fsspec", self.address).open(self.address, "rb") as file:
            data: bytes = file.read()
        return data

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True, eq=False)
class DatasetCell(EncodedImage):
    """A cell of a column of pictures in a Hugging Face dataset, which maps its files into memory.

    Args:
        column: the dataset, only this column selected, as Arrow.
        row: of the picture.
        name: for messages.
        folder: where relative names start.
    """

    column: Any
    row: int
    name: str
    folder: Path

    def found(self) -> Path | EncodedImage:
        """What is in the cell. Raises DataError where that is no picture."""
        (value,) = self.column[self.row].to_pylist()[0].values()
        return reference(value, self.name, self.folder)

    def read(self) -> bytes:
        found = self.found()
        return found.read_bytes() if isinstance(found, Path) else found.read()

    def __str__(self) -> str:
        return self.name


def reference(value: Any, where: str, folder: Path) -> Path | EncodedImage:
    """The picture that a value names or holds.

    Args:
        value: a file's name, relative to the folder or absolute; bytes; base64, with or without `data:image/...` before
            it; or an undecoded cell of a `datasets.Image` (`bytes`, `path`).
        where: its place, for messages.
        folder: where relative names start.

    Raises:
        DataError: it names no file on this machine, or holds no picture.
    """
    if not isinstance(value, str) and isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise DataError("image: expected bytes or a path in the cell, got neither.")
    if isinstance(value, Path | EncodedImage):
        return value
    if isinstance(value, bytes | bytearray):
        return Held(bytes(value), where)
    if not isinstance(value, str) or not value:
        raise DataError(f"image: expected a file name, got {_brief(repr(value))}.")
    if value.startswith("data:"):
        return Held(read_bytes(value, where), where)
    if "://" in value and (schemes := {name.lower() for name in _SCHEME.findall(value)}):
        if not schemes <= _HERE:
            raise DataError(
                f"image: expected a file on this machine, got the address {_brief(value)}, and nothing is downloaded "
                "from where data points. Download it and name the file."
            )
        if schemes != {"file"}:
            return Opened(value)
        value = unquote(value.partition("://")[2])
    if len(value) >= 64 and begins_as_picture(_decoded(value[:32]) or b""):
        data = _decoded(value)
        if data is None:
            raise DataError(f"image: expected base64, got {_brief(value)}, which breaks off or holds other signs.")
        return Held(data, where)
    path = folder / value
    try:
        is_there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        hint = " A byte of the name is no UTF-8: save the data as UTF-8." if HALVES.search(value) else ""
        raise DataError(f"image: expected a file, got nothing at {_brief(str(path))}.{hint}")
    return path


def values_of(value: Any) -> Iterator[Any]:
    """What a key of pictures holds, one by one; an empty text is nothing."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from values_of(one)
    elif value is not None and value != "":
        yield value


def has_picture_suffix(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    suffix = Path(name).suffix.lower()
    return suffix in _OTHERS or Image.registered_extensions().get(suffix) in Image.OPEN


def begins_as_picture(data: bytes) -> bool:
    """Whether a file is a picture, by its first 16 bytes."""
    is_riff = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    is_box = data[4:8] == b"ftyp" and data[8:12] in _BRANDS
    is_bitmap = data[:2] == b"BM" and data[6:10] == bytes(4)
    return data.startswith(_BEGINNINGS + _BOXES) or is_riff or is_box or is_bitmap


def looks_like_picture(value: Any, key: str = "") -> str | None:
    """The key of an item, such as `messages.content.image`, whose value looks like a picture or film, or None."""
    if isinstance(value, Mapping):
        if {"bytes", "path"} <= value.keys():
            return key if value["bytes"] or value["path"] else None
        inner = ((f"{key}.{name}" if key else str(name), one) for name, one in value.items())
        return next((found for name, one in inner if (found := looks_like_picture(one, name))), None)
    if isinstance(value, list | tuple):
        return next((found for one in value if (found := looks_like_picture(one, key))), None)
    if isinstance(value, bytes):
        return key if begins_as_picture(value[:16]) else None
    if not isinstance(value, str) or "\n" in value[:1000]:
        return None
    if value.startswith("data:image/") or (len(value) >= 64 and begins_as_picture(_decoded(value[:32]) or b"")):
        return key
    is_words = key.rpartition(".")[2] in _WORDS and " " in value  # "what is in a.png"
    name = value.partition("?")[0]  # of an address
    shows = has_picture_suffix(name) or Path(name).suffix.lower() in _FILMS
    return key if len(value) < 1000 and not is_words and shows else None


def _decoded(text: str) -> bytes | None:
    """Of base64, of the kind for addresses too; None for what is none."""
    text = "".join(text.split()).rstrip("=")
    own = "-_" if "-" in text or "_" in text else None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), own, validate=True)
    except (binascii.Error, ValueError):
        return None


def _brief(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} signs)"
