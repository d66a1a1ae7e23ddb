"""VLGuard's test set (arXiv 2402.02207): unsafe pictures, and safe ones with an unsafe and with a safe instruction.

Source of the layout: the repository `ys-zong/VLGuard` (`utils/utils.py`, `VLGuard_eval.py`).
"""

from typing import Any

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import BenchmarkReader, Row, behaviour, words
from safety_modules.records.formats.vlguard import read_categories

PARTS = {"unsafes": "instruction", "safe_unsafes": "unsafe_instruction", "safe_safes": "safe_instruction"}
"""Each part, and the key of its instruction."""
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
            label = {} if safe else _label(row)
            for part in ("safe_unsafes", "safe_safes") if safe else ("unsafes",):
                reading.add(
                    Case(
                        id=f"{part}/{name}",
                        part=part,
                        prompt=_instruction(row.get("instr-resp"), PARTS[part]),
                        images=(image,),
                        category=None if safe else f"{row['harmful_category']} / {row['harmful_subcategory']}",
                        **behaviour(part == "safe_safes"),
                        **label,
                    )
                )


def _label(row: Row) -> dict[str, Any]:
    """Type and level by VLGuard's categories, from the table that training data are read with."""
    label = read_categories(None).label(row.get("harmful_category"), row.get("harmful_subcategory"))
    return {"type": label.type, "level": label.level}


def _instruction(pairs: Any, key: str) -> str:
    """The first instruction of that kind, as the authors take it."""
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, dict) and key in pair:
            return words(pair, key)
    raise DataError(f"instr-resp: expected an entry with {key}, got none.")
