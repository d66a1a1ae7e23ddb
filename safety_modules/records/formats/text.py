"""Text files: entries with their own text, so that a copy of what stays is byte for byte what it was."""

import json
import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, ClassVar, TextIO

from safety_modules.errors import DataError
from safety_modules.records.formats.base import Entry, Format
from safety_modules.records.source import Source, copied_name

PIECE = 1 << 20
"""Characters of a JSON list that are read at a time."""
MARK = "\ufeff"
_SPACE = re.compile(r"[ \t\r\n]*")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TextFormat(Format):
    """A format of text files.

    Attributes:
        separator: between two entries, in none of them.
    """

    separator: ClassVar[str] = ""

    def copy(self, source: Source, to: Path, drop: Set[int]) -> None:
        number, between = 0, ""
        with (to / copied_name(source)).open("wb") as file:
            for entry in self.entries(source):
                if entry.where:
                    number += 1
                    if number - 1 in drop:
                        continue
                file.write(f"{between if entry.where else ''}{entry.raw}".encode("utf-8", "surrogateescape"))
                between = self.separator if entry.where else between


def open_text(source: Source, newline: str = "") -> TextIO:
    """The file, line ends as they are. A byte that is no UTF-8 is half a character, as in names of files.

    Raises:
        DataError: there is none, or it is UTF-16.
    """
    try:
        with source.file.open("rb") as file:
            if file.read(2) in _UTF16:
                raise DataError(f"{source.path} not read: expected a UTF-8 file, got UTF-16. Save it as UTF-8.")
        return source.file.open(encoding="utf-8", errors="surrogateescape", newline=newline)
    except OSError as error:
        raise DataError(f"data not read: expected a file, got {error}. Check the path.") from error


class _Repeats:
    """Notes, while JSON is read, whether an object names a key twice."""

    def __init__(self) -> None:
        self.any = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        self.any |= len(value) != len(pairs)
        return value

    def fault(self) -> str | None:
        """What is wrong with the objects since the last call."""
        found, self.any = self.any, False
        return "not JSON: a key appears twice." if found else None


def json_lines(source: Source) -> Iterator[Entry]:
    """An entry for every line that is not blank; places count from 1."""
    repeats = _Repeats()
    decoder = json.JSONDecoder(object_pairs_hook=repeats)
    with open_text(source, "\n") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(MARK) if number == 1 else line
            if not text.strip():
                yield Entry(raw=line)
                continue
            value = fault = None
            try:
                value = decoder.decode(text)
            except (ValueError, RecursionError) as error:
                fault = f"not JSON: {error}."
            yield Entry(f"{source.path}:{number}", value, repeats.fault() or fault, raw=line)


def json_list(source: Source) -> Iterator[Entry]:
    """An entry for every item of a JSON list, read piece by piece; places count from 0.

    Raises:
        DataError: where the file stops being a JSON list.
    """
    repeats = _Repeats()
    decoder, number = json.JSONDecoder(object_pairs_hook=repeats), 0
    text, start, at = "", 0, 0  # what is read, where the entry's text starts in it, how far it is understood

    def broken(got: str) -> DataError:
        return DataError(f"{source.path} is not JSON: expected a list of objects, got {got}. Correct it.")

    with open_text(source) as file:

        def more() -> bool:
            nonlocal text, start, at
            piece = file.read(max(PIECE, len(text) - start))
            text, start, at = text[start:] + piece, 0, at - start
            return bool(piece)

        def sign() -> str:
            """The first character that is no space, without taking it; empty at the end of the file."""
            nonlocal at
            while True:
                at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
                if at < len(text):
                    return text[at]
                if not more():
                    return ""

        if sign() == MARK:
            at += 1
        if (first := sign()) != "[":
            raise broken("dict" if first == "{" else f"{first!r} at its start")
        at += 1
        last = sign()
        yield Entry(raw=text[start:at])
        start = at
        while last != "]":
            while True:  # until the item's end is in the text
                try:
                    sign()
                    value, end = decoder.raw_decode(text, at)
                    if end < len(text) or not isinstance(value, int | float):  # a number may go on
                        break
                    got = repr(value)
                except (ValueError, RecursionError) as error:
                    got = str(error)
                if not more():
                    raise broken(f"{got} at item {number}")
            at = end
            if (last := sign()) not in (",", "]") or not last:
                raise broken(f"{last!r} at item {number}" if last else f"the end of the file at item {number}")
            yield Entry(f"{source.path} item {number}", value, repeats.fault(), raw=text[start:at])
            number += 1
            start = at
            if last == ",":
                at += 1
                start = at
        at += 1
        if rest := sign():
            raise broken(f"{rest!r} behind its end")
        yield Entry(raw=text[start:])


def json_items(source: Source) -> Iterator[tuple[str, Any]]:
    """(place, item) of every item of a JSON list. Raises DataError where it is none, or an item cannot be read."""
    for entry in json_list(source):
        if entry.fault is not None:
            raise DataError(f"{entry.where}: {entry.fault}")
        if entry.where:
            yield entry.where, entry.value
