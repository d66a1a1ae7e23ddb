"""What marks do: a copy without what was confirmed, a manifest of why it is gone, training data of what was marked."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from safety_modules.audit.review_audit import VERDICTS, Audit, read_audit
from safety_modules.audit.review_marks import Flagged, Mark, read_flagged, read_marks
from safety_modules.errors import DataError
from safety_modules.pictures import read_bytes
from safety_modules.records.formats import FORMATS
from safety_modules.records.formats.base import DataRow
from safety_modules.records.formats.folder import QUESTION
from safety_modules.records.source import Source, copied_name
from safety_modules.taxonomy import CLEAN

MANIFEST = "manifest.json"
NAMES = {"confirm": "confirmed", "reject": "rejected"}
"""What the files of each judgement are called."""


class Applied(NamedTuple):
    """What applying marks wrote."""

    copy: Path  # the cleaned data
    manifest: Path  # what was removed, and why
    exports: dict[str, Path]  # by mark, the training data made of the reviewed pictures
    input: int  # rows of the data
    kept: int  # rows of the copy
    removed: int  # the rest


def apply_marks(out: Path, marks: Path, to: Path | None = None) -> Applied:
    """Write a cleaned copy of the audited data; the data itself is never touched.

    Removed are the confirmed rows, every row with the very same picture, and, since items are removed whole, the other
    questions of their conversations. Rejected and unmarked rows stay. What stays of text files and tars stays byte for
    byte.

    Args:
        out: folder of the audit.
        marks: file that its report exported.
        to: a new folder for the copy and `manifest.json`; default: `cleaned` in `out`.

    Raises:
        DataError: marks that are refused (see `read_marks`), no mark that confirms, data that is not what was audited,
            or a folder that is there already. No copy is left then.

    Does not cover: pictures that only look like a confirmed one; they stay unless they are marked themselves.
    """
    audit = read_audit(out)
    flagged = read_flagged(audit)
    judged = read_marks(marks, audit, flagged).marks
    to = out / "cleaned" if to is None else to
    source = audit.source
    _refuse(to, source, judged)
    removed = _removed(audit, [mark for mark in judged if mark.mark == "confirm"], flagged)
    exports = export_marks(audit, judged, flagged)
    total, draft = audit.summary.rows, to.with_name(f"{to.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        kept = _write(audit, draft, removed)
        os.replace(draft, to)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Applied(to / copied_name(source), to / MANIFEST, exports, total, kept, len(removed))


def _write(audit: Audit, to: Path, removed: list[dict[str, Any]]) -> int:
    """Copy and manifest. Returns the rows of the copy, which is read once more to count them."""
    source, total = audit.source, audit.summary.rows
    form = FORMATS[source.format]
    dropped = form.copy_without(source, to, {row["row"] for row in removed})
    kept = _count(to / copied_name(source), source)
    if dropped != len(removed) or kept + len(removed) != total:
        raise _changed(source.path, f"to remove {len(removed)} of {total} rows", f"a copy of {kept}")
    manifest = {
        "version": 1,
        "audit": audit.digest,
        "data": audit.summary.data.model_dump(),
        "copy": copied_name(source),
        "images": str(source.folder.resolve()) if form.names_files else None,
        "rows": {"input": total, "kept": kept, "removed": len(removed)},
        "removed": removed,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (to / MANIFEST).write_bytes(text.encode("utf-8", "backslashreplace"))  # half a character, as JSON escapes it
    return kept


def _refuse(to: Path, source: Source, judged: list[Mark]) -> None:
    if to.exists():
        raise DataError(f"copy refused: expected a new folder, got {to}, which is there. Name another with --to.")
    if source.file.is_dir() and to.resolve().is_relative_to(source.file.resolve()):
        raise DataError(f"copy refused: expected a place outside {source.path}, got {to}. Name another with --to.")
    if not any(mark.mark == "confirm" for mark in judged):
        raise DataError(f"nothing to remove: expected a confirmed row, got {len(judged)} rejected. Mark some first.")


def _removed(audit: Audit, confirmed: list[Mark], flagged: dict[int, Flagged]) -> list[dict[str, Any]]:
    """What goes, in the order of the data, with the reason. Two passes over the verdicts, in constant memory."""
    marks, by_digest = {mark.row: mark for mark in confirmed}, {mark.image_digest: mark for mark in confirmed}
    found: dict[int, dict[str, Any]] = {}
    by_source: dict[str, Mark] = {}
    columns = ["row", "source", "image_digest"]

    def note(row: dict[str, Any], mark: Mark, reason: str) -> None:
        about = flagged[mark.row]
        verdict = {"type": mark.type or about.type, "level": mark.level or about.level, "risk": about.risk}
        judged = {"mark": mark.mark, "marked_row": mark.row, "time": mark.time, "reviewer": mark.reviewer}
        found[row["row"]] = {**row, "reason": reason, **verdict, "rule": about.rule, **judged}
        by_source.setdefault(row["source"], mark)

    for batch in audit.batches(VERDICTS, columns):
        for row in batch.to_pylist():
            if row["row"] in marks:
                note(row, marks[row["row"]], "confirmed")
            elif row["image_digest"] in by_digest:
                mark = by_digest[row["image_digest"]]
                note(row, mark, f"the same picture as row {mark.row}")
    first = dict(by_source)
    for batch in audit.batches(VERDICTS, columns):
        for row in batch.to_pylist():
            if row["source"] in first and row["row"] not in found:
                note(row, first[row["source"]], "the same item as a removed row")
    return [found[row] for row in sorted(found)]


def _count(copy: Path, source: Source) -> int:
    """Rows of the copy, read as the data was."""
    beside = source.options.image_dir or (source.file.parent if source.file.is_file() else None)
    copied = Source(str(copy), source.taxonomy, replace(source.options, image_dir=beside))
    return sum(1 for _ in FORMATS[source.format].rows(copied, pictures=False))


def export_marks(audit: Audit, marks: list[Mark], flagged: dict[int, Flagged]) -> dict[str, Path]:
    """Write `confirmed.jsonl` and `rejected.jsonl` into the audit's folder, the pictures beside them.

    The format is `jsonl` of docs/data.md. A confirmed row carries the type and level the reviewer gave it, else the
    verdict's, and no answer: the policy's words are what is to be learnt. A rejected row is clean and keeps its
    answer. Files of an earlier export are replaced.

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


def _audited(audit: Audit) -> Iterator[DataRow]:
    """The rows of the data, checked one by one to be those that were audited."""
    path, number = audit.summary.data.path, 0
    data = FORMATS[audit.summary.data.format].rows(audit.source)
    for batch in audit.batches(VERDICTS, ["source"]):
        for source in batch["source"].to_pylist():
            row = next(data, None)
            if row is None or row.source != source:
                raise _changed(path, f"{source} as row {number}", "the end" if row is None else row.source)
            yield row
            number += 1
    if (row := next(data, None)) is not None:
        raise _changed(path, f"{number} rows", f"{row.source} too")


def _save(row: DataRow, mark: Mark, folder: Path) -> str:
    """Put the picture, as it is, into the folder; its name."""
    if row.image is None:
        raise _changed(row.source, "a picture", "none")
    data = read_bytes(row.image)
    if hashlib.sha256(data).hexdigest() != mark.image_digest:
        raise _changed(row.source, "its picture", "another")
    with Image.open(BytesIO(data)) as picture:
        name = f"{mark.image_digest}.{str(picture.format).lower()}"
    (folder / name).write_bytes(data)
    return name


def _changed(what: str, expected: str, got: str) -> DataError:
    return DataError(f"{what} has changed since the audit: expected {expected}, got {got}. Audit it again.")


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
