"""Which format a path is in, by one rule for each; what no rule or more than one fits must be named."""

from safety_modules.errors import DataError
from safety_modules.records.copies import ADDRESS, is_pattern
from safety_modules.records.formats import FORMATS
from safety_modules.records.formats.text import json_list
from safety_modules.records.source import Source


def recognise(source: Source, strict: bool = True) -> str:
    """The name of the source's format: as named in its options, or the one whose rule fits.

    Args:
        source: of the data.
        strict: False = for an audit, which needs no labels: any folder is one of pictures, and a .json is what its
            first object is.

    Raises:
        DataError: the format is unknown, no rule fits, or more than one does.
    """
    if (name := source.options.format) is not None:
        if name not in FORMATS:
            raise DataError(f"unknown data format: expected one of {', '.join(FORMATS)}, got {name!r}. Name another.")
        return name
    if not source.path.startswith(ADDRESS) and not is_pattern(source.path) and not source.file.exists():
        raise DataError(f"data not read: expected a file or folder, got nothing at {source.path}. Check the path.")
    found = [name for name, form in FORMATS.items() if form.fits(source, strict)]
    if len(found) == 1:
        return found[0]
    got = f"more than one ({', '.join(found)})" if found else "none"
    raise DataError(
        f"unknown data format: expected one whose rule fits {source.path}, got {got}{_what_is_in(source)}. "
        f"Name it (ReadOptions, --format): {', '.join(FORMATS)}."
    )


def _what_is_in(source: Source) -> str:
    if not source.path.endswith(".json") or not source.file.is_file():
        return ""
    counts = [0, 0, 0]
    for entry in json_list(source):
        if entry.where:
            item = entry.value if isinstance(entry.value, dict) else {}
            kinds = [key in item for key in ("conversations", "instr-resp")]
            counts[kinds.index(True) if sum(kinds) == 1 else 2] += 1
    return f"; it holds {counts[0]} objects with conversations, {counts[1]} with instr-resp and {counts[2]} others"
