"""Files that are there whole or not at all, whenever the process is killed; and what identifies one."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any


def write_whole(path: Path, put: Callable[[Any], Any]) -> None:
    """Write under another name, then rename.

    Args:
        path: of the file.
        put: writes to the binary file it gets.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        put(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: str | PathLike[str], value: Any) -> Path:
    """Write plain JSON types, indented, whole; the folder is made. NaN and infinity, which are no JSON, are refused."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
