"""The header of a safetensors file, checked by itself before any tensor is made.

Eight bytes: the header's length, little-endian. The header: JSON, name -> dtype, shape and place of a tensor.
Then the tensors' bytes, one after the other, without holes. What the library reads afterwards is a file whose
header already told the truth, so nothing is allocated because a stranger claimed it.
"""

from math import prod
from typing import Any, NamedTuple

from safety_modules.io.strict import parse_json, quote

MOST_HEADER_BYTES = 1_000_000  # some 7000 tensors, more than any adapter has
MOST_DIMENSIONS = 8
MOST_LIES = 8

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes per element, by safetensors' name of the dtype."""


class Entry(NamedTuple):
    """One tensor as the header describes it; begin and end are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(raw: bytes, name: str, problems: list[str]) -> dict[str, Entry] | None:
    """What a safetensors file says it holds, or None and a problem for every lie.

    Args:
        raw: the whole file.
        name: of the file, for the problems.
        problems: grows.
    """
    if len(raw) < 8:
        problems.append(f"{name} is truncated: expected a header, got {len(raw)} bytes. Get the adapter again.")
        return None
    length = int.from_bytes(raw[:8], "little")
    if length > MOST_HEADER_BYTES:
        problems.append(
            f"{name} is not safetensors: expected a header of at most {MOST_HEADER_BYTES} bytes, "
            f"got one that claims {length}."
        )
        return None
    if length > len(raw) - 8:
        problems.append(
            f"{name} is truncated: expected a header of {length} bytes, got {len(raw) - 8}. Get the adapter again."
        )
        return None
    value = parse_json(raw[8 : 8 + length], f"the header of {name}", problems)
    if value is None:
        return None
    notes = value.pop("__metadata__", {})
    lies = []
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        lies.append(f"the header of {name}: __metadata__ is not an object of strings: got {quote(notes)}.")
    entries = {}
    for key, item in value.items():
        entry = _entry(item)
        if entry is None:
            lies.append(f"the header of {name}: {quote(key)} is not the description of a tensor: got {quote(item)}.")
        else:
            entries[key] = entry
    lies = lies or _size_lies(name, entries) or _place_lies(name, entries, len(raw) - 8 - length)
    problems += lies[:MOST_LIES]
    if len(lies) > MOST_LIES:
        problems.append(f"the header of {name}: and {len(lies) - MOST_LIES} more lies.")
    return None if lies else entries


def _entry(item: Any) -> Entry | None:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape, place = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        return None
    if not _are_sizes(shape) or not _are_sizes(place) or len(shape) > MOST_DIMENSIONS or len(place) != 2:
        return None
    return Entry(dtype, tuple(shape), *place)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _size_lies(name: str, entries: dict[str, Entry]) -> list[str]:
    lies = []
    for key, entry in entries.items():
        size = prod(entry.shape) * ITEM_BYTES[entry.dtype]
        if entry.end - entry.begin != size:
            lies.append(
                f"the header of {name} lies about {quote(key)}: {entry.dtype} of shape {list(entry.shape)} takes "
                f"{size} bytes, its data_offsets give {entry.end - entry.begin}."
            )
    return lies


def _place_lies(name: str, entries: dict[str, Entry], body: int) -> list[str]:
    """Tensors follow each other without overlap or hole, from the header's end to the file's."""
    lies, end = [], 0
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < end:
            lies.append(f"the header of {name}: {quote(key)} overlaps the tensor before it.")
        elif entry.begin > end:
            lies.append(f"the header of {name}: {entry.begin - end} bytes before {quote(key)} belong to no tensor.")
        end = max(end, entry.end)
    if not lies and end > body:
        lies.append(f"{name} is truncated: expected {end} bytes of tensors, got {body}. Get the adapter again.")
    elif not lies and end < body:
        lies.append(f"{name}: {body - end} bytes after the last tensor belong to no tensor.")
    return lies
