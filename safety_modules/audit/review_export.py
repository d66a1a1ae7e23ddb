"""Reviewed pictures as training data: confirmed ones as risks, rejected ones as clean, with their pictures."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from safety_modules.audit.review_audit import VERDICTS, Audit
from safety_modules.audit.review_marks import Flagged, Mark
from safety_modules.errors import DataError
from safety_modules.pictures import read_bytes
from safety_modules.records.entries import Row
from safety_modules.records.formats import FORMATS
from safety_modules.records.formats.folder import QUESTION
from safety_modules.taxonomy import CLEAN

NAMES = {"confirm": "confirmed", "reject": "rejected"}
"""What the files of each judgement are called."""


def export_marks(audit: Audit, marks: list[Mark], flagged: dict[int, Flagged]) -> dict[str, Path]:
    """Write `confirmed.jsonl` and `rejected.jsonl` into the audit's folder, the pictures beside them.

    The format is `jsonl` of docs/data.md. A confirmed row carries the type and level the reviewer gave it, else the
    verdict's, and no answer: the policy's words are what is to be learnt. A rejected row is clean and keeps its
    answer. Files of an earlier export are replaced.

    Args:
        audit: the audit.
        marks: checked.
        flagged: what they are about.

    Returns:
        The file of each judgement, by its name in `marks.json`.

    Raises:
        DataError: the data is not what was audited: another number of rows, another source or picture in a row.
    """
    lines: dict[str, list[str]] = {mark: [] for mark in NAMES}
    wanted = {mark.row: mark for mark in marks}
    drafts = {mark: audit.folder / f"{name}.part" for mark, name in NAMES.items()}
    for draft in drafts.values():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
    for number, row in enumerate(_audited(audit)):
        if (found := wanted.get(number)) is not None:
            name = _save(row, found, drafts[found.mark])
            item = _item(f"{NAMES[found.mark]}/{name}", found, flagged[number], audit)
            lines[found.mark].append(json.dumps(item, ensure_ascii=False) + "\n")
    files = {}
    for mark, name in NAMES.items():
        shutil.rmtree(audit.folder / name, ignore_errors=True)
        drafts[mark].rename(audit.folder / name)
        files[mark] = audit.folder / f"{name}.jsonl"
        files[mark].write_text("".join(lines[mark]), encoding="utf-8")
    return files


def _audited(audit: Audit) -> Iterator[Row]:
    """The rows of the data, checked one by one to be those that were audited."""
    path, number = audit.summary.data.path, 0
    data = FORMATS[audit.summary.data.format].rows(audit.source)
    for batch in audit.batches(VERDICTS, ["source"]):
        for source in batch["source"].to_pylist():
            row = next(data, None)
            if row is None or row.source != source:
                raise DataError(
                    f"{path} has changed since the audit: expected {source} as row {number}, got "
                    f"{'the end' if row is None else row.source}. Audit it again."
                )
            yield row
            number += 1
    if (row := next(data, None)) is not None:
        raise DataError(
            f"{path} has changed since the audit: expected {number} rows, got {row.source} too. Audit it again."
        )


def _save(row: Row, mark: Mark, folder: Path) -> str:
    """Put the picture, as it is, into the folder; its name."""
    if row.image is None:
        raise DataError(f"{row.source} has changed since the audit: expected a picture, got none. Audit it again.")
    data = read_bytes(row.image)
    if hashlib.sha256(data).hexdigest() != mark.image_digest:
        raise DataError(f"{row.source} has changed since the audit: expected its picture, got another. Audit it again.")
    with Image.open(BytesIO(data)) as picture:
        name = f"{mark.image_digest}.{str(picture.format).lower()}"
    (folder / name).write_bytes(data)
    return name


def _item(image: str, mark: Mark, row: Flagged, audit: Audit) -> dict[str, Any]:
    confirmed, taxonomy = mark.mark == "confirm", audit.taxonomy
    type = (mark.type or row.type) if confirmed else CLEAN
    level = (mark.level or row.level) if confirmed else taxonomy.safe_level
    if confirmed and level == taxonomy.safe_level:
        level = taxonomy.risky_levels[0]  # the level's own head may call safe what the type's head flags
    turns = [{"from": "USER", "value": f"<image>\n{row.question or QUESTION}"}]
    if not confirmed and row.answer:
        turns.append({"from": "ASSISTANT", "value": row.answer})
    return {
        "image": image,
        "safe_type": taxonomy.type_index(type),
        "safe_level": taxonomy.level_index(level),
        "conversations": turns,
    }
