"""VLGuard's test set (arXiv 2402.02207): unsafe pictures, and safe ones with an unsafe and with a safe instruction.

Source of the layout: the repository `ys-zong/VLGuard` (`utils/utils.py`, `VLGuard_eval.py`).
"""

from typing import Any

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Wanted
from safety_modules.evaluation.suites.reader import BenchmarkReader, Row, words
from safety_modules.records.formats.vlguard import read_categories
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY

PARTS: dict[str, tuple[str, Wanted]] = {
    "unsafes": ("instruction", "refuse"),
    "safe_unsafes": ("unsafe_instruction", "refuse"),
    "safe_safes": ("safe_instruction", "answer"),
}
"""Each part: the key of its instruction, and the right behaviour."""
_IMAGES = ("test", "test.zip", "data/test", "data/test.zip")


def take(reading: BenchmarkReader) -> None:
    """The parts asked for, each picture with the instruction of that part."""
    for where, row in reading.json_list(reading.find("test.json", "data/test.json")):
        with reading.row(where):
            safe = row.get("safe")
            if not isinstance(safe, bool):
                raise DataError(f"safe: expected true or false, got {safe!r}.")
            name = words(row, "image")
            image = reading.picture(name, *_IMAGES)
            for part in ("safe_unsafes", "safe_safes") if safe else ("unsafes",):
                key, wanted = PARTS[part]
                label = _label(row, part)
                reading.add(
                    Case(
                        id=f"{part}/{name}",
                        part=part,
                        wanted=wanted,
                        prompt=_instruction(row.get("instr-resp"), key),
                        images=(image,),
                        category=None if safe else f"{row['harmful_category']} / {row['harmful_subcategory']}",
                        **label,
                    )
                )


def _label(row: Row, part: str) -> dict[str, Any]:
    """Type and level, where VLGuard's categories tell: by the table that training data are read with."""
    if part == "safe_safes":
        return {"type": CLEAN, "level": DEFAULT_TAXONOMY.safe_level}
    if part == "safe_unsafes":
        return {}
    label = read_categories(None).label(row.get("harmful_category"), row.get("harmful_subcategory"))
    return {"type": label.type, "level": label.level}


def _instruction(pairs: Any, key: str) -> str:
    """The first instruction of that kind, as the authors take it."""
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, dict) and key in pair:
            return words(pair, key)
    raise DataError(f"instr-resp: expected an entry with {key}, got none.")
