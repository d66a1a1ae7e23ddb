"""Files of JSON lines that only grow, and survive the end of the process at any moment."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from safety_modules.errors import DataError
from safety_modules.io.files import write_whole

Line = TypeVar("Line", bound=BaseModel)


class Journal(Generic[Line]):
    """A file of JSON lines of one kind, in a folder that exists."""

    def __init__(self, path: Path, kind: type[Line]) -> None:
        self.path, self.kind = path, kind

    def read(self) -> list[Line]:
        """All whole lines. What stands behind the last line break was cut off by a kill, and is left out.

        Raises:
            DataError: another line is damaged; a kill does not do that.
        """
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        return [self._line(line, number) for number, line in enumerate(lines, 1)]

    def append(self, lines: Iterable[Line]) -> None:
        """Add lines; they are on disk when this returns."""
        with self.path.open("ab") as file:
            file.write(_encoded(lines))
            file.flush()
            os.fsync(file.fileno())

    def keep(self, lines: Iterable[Line]) -> None:
        """Replace the content; a kill leaves the old or the new."""
        data = _encoded(lines)
        write_whole(self.path, lambda file: file.write(data))

    def _line(self, line: bytes, number: int) -> Line:
        try:
            return self.kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"damaged file {self.path}: expected a {self.kind.__name__.lower()} in line {number}, "
                f"got {line[:80]!r}. Remove the line (its work is done again), or use another folder."
            ) from error


def _encoded(lines: Iterable[BaseModel]) -> bytes:
    return b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
