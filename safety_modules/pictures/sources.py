"""Encoded pictures: bytes from wherever they lie, and the name that messages call them by."""

import base64
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from safety_modules.errors import DataError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,15}://", re.IGNORECASE)
LONGEST_NAME = 200


def is_encoded(source: Any) -> bool:
    """Whether this is what `read_bytes` takes."""
    if isinstance(source, Mapping):
        return {"bytes", "path"} & source.keys() == source.keys() and bool(source)
    return isinstance(source, str | bytes | bytearray | memoryview | PathLike) or callable(
        getattr(source, "read", None)
    )


def read_bytes(source: Any, name: object = None) -> bytes:
    """The encoded picture.

    Args:
        source: a path, a `data:` URI, bytes, anything with a `read` that gives bytes (an `EncodedImage`, an open file),
            or a cell of an undecoded `datasets.Image` column (`bytes`, or a local `path`).
        name: for messages; default: the source's own.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return _read(source)
    except Exception as error:  # file systems and archives of others raise what they like
        name = source_name(source) if name is None else name
        got = getattr(error, "strerror", None) or error  # without the name, which may be thousands of letters
        raise DataError(f"unreadable image {name}: expected its bytes, got {got}. Check the path.") from error


def source_name(source: Any) -> str:
    """What messages call a picture."""
    if isinstance(source, Mapping):
        source = source.get("path") or "in a cell"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"of {len(source)} bytes"
    name = str(source if isinstance(source, str | PathLike) else getattr(source, "name", source))
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."


def _read(source: Any) -> bytes:
    if isinstance(source, Mapping):
        inside, path = source.get("bytes"), source.get("path")
        if inside is None and path is None:
            raise ValueError("neither bytes nor a path in the dataset's cell")
        return _read(path if inside is None else inside)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        head, comma, body = source.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data: URI that is not base64")
        return base64.b64decode(body, validate=True)
    if isinstance(source, str) and _ADDRESS.match(source):
        raise ValueError("an address, which is not fetched: download it first")
    if isinstance(source, str | PathLike):
        return Path(fspath(source)).read_bytes()
    data = source.read()
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"{type(data).__name__} (open files in binary mode)")
    return bytes(data)
