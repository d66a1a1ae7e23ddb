"""What the report shows of the flagged rows: an index that is searched, and a block for each picture.

Blocks are inert JSON that the page decodes only when it shows them, so 10,000 pictures cost their text alone.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from safety_modules.audit.review_audit import FLAGGED, Audit
from safety_modules.policy.scores import log_ratio
from safety_modules.records.alike import first_alike
from safety_modules.records.check import DISTANCE

SHOWN = 20_000
"""Flagged rows in a report, those with the highest risk; the random sample comes on top of them."""
SAMPLE = 1_000
"""The largest random sample that a report offers."""


class Shown(NamedTuple):
    """The flagged rows of a report.

    Attributes:
        places: N positions in the file, by falling risk.
        columns: lists of N values each that the page filters and searches; see `read_shown`.
    """

    places: np.ndarray
    columns: dict[str, list[Any]]


def read_shown(audit: Audit) -> Shown:
    """Choose what a report shows, and read what it is searched by.

    The columns of the index: row, source, digest (of the picture), type, level, score (of any risk), rule, question,
    label (the data set's own), frame (of an animation, in words), group (the first row that looks like it), and sample
    (place in the random sample, -1 outside it).
    """
    keys = audit.flagged("row", "risk")
    rows, risk = keys["row"].to_numpy(), keys["risk"].to_numpy()
    order = np.lexsort((rows, -risk))
    rank = {row: place for place, row in enumerate(audit.sample_order(rows.tolist())[:SAMPLE])}
    is_shown = np.zeros(len(rows), bool)
    is_shown[order[:SHOWN]] = True
    is_shown |= np.isin(rows, list(rank))
    places = order[is_shown[order]]
    names = ("row", "source", "image_digest", "type", "level", "risk", "rule", "question", "label", "phash")
    table = audit.flagged(*names).take(places).to_pydict()
    table["score"] = log_ratio(np.array(table.pop("risk"), float)).round(3).tolist()
    table["frame"] = _frames(audit, places)
    table["digest"] = table.pop("image_digest")
    table["group"] = groups(table.pop("phash"))
    table["sample"] = [rank.get(row, -1) for row in table["row"]]
    return Shown(places, table)


def _frames(audit: Audit, places: np.ndarray) -> list[str | None]:
    """Which frame of an animation was flagged, in words; None for other pictures, and in audits of earlier versions."""
    try:
        rows = audit.flagged("frame", "frames_judged", "frames").take(places).to_pylist()
    except (KeyError, ValueError):  # Arrow's, for a column that is not there
        return [None] * len(places)
    return [
        f"frame {row['frame'] + 1} of {row['frames']}, {row['frames_judged']} judged" if row["frames"] > 1 else None
        for row in rows
    ]


def groups(hashes: list[str | None]) -> list[int]:
    """Near-duplicates: for each perceptual hash the position of the first one it is linked to.

    Hashes that differ in at most 4 of 64 bits are linked, also through others between them. A picture without a hash
    (plain ones have none) stands alone.
    """
    found = list(range(len(hashes)))
    known = [place for place, text in enumerate(hashes) if text]
    values = np.array([int(hashes[place] or "", 16) for place in known], dtype=np.uint64)
    for place, first in zip(known, first_alike(values, np.ones(len(values), bool), DISTANCE).tolist(), strict=True):
        found[place] = found[known[first]]  # never a later one, so it is already settled
    return found


def blocks(audit: Audit, shown: Shown, start: int, stop: int | None = None) -> Iterator[str]:
    """A block for each of the shown rows from `start` to `stop`, in the order of the file."""
    position = {int(place): start + number for number, place in enumerate(shown.places[start:stop])}
    labels = [f"p_{label}" for label in audit.taxonomy.labels]
    columns = ["answer", "thumbnail", "attention", "grid_rows", "grid_columns", *labels]
    first = 0
    for batch in audit.batches(FLAGGED, columns, 256):
        wanted = [offset for offset in range(len(batch)) if first + offset in position]
        for offset in wanted:
            (row,) = batch.slice(offset, 1).to_pylist()
            yield block(f"d{position[first + offset]}", _detail(row, labels))
        first += len(batch)


def block(name: str, value: Any) -> str:
    """JSON in a script element of that id: pure ASCII in which nothing can end the element or begin markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def counts(audit: Audit) -> dict[str, dict[str, int]]:
    """Flagged rows by type and level."""
    table = audit.flagged("type", "level").group_by(["type", "level"]).aggregate([([], "count_all")])
    found = {type: dict.fromkeys(audit.taxonomy.levels, 0) for type in audit.taxonomy.labels}
    for row in table.to_pylist():
        found[row["type"]][row["level"]] = row["count_all"]
    return found


def disagreeing(audit: Audit) -> int:
    """Flagged rows whose own label is another type."""
    table = audit.flagged("type", "label")
    pairs = zip(table["type"].to_pylist(), table["label"].to_pylist(), strict=True)
    return sum(label is not None and label != type for type, label in pairs)


def _detail(row: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    return {
        "picture": _base64(row["thumbnail"]),
        "attention": _base64(row["attention"]),
        "grid": [row["grid_rows"], row["grid_columns"]],
        "answer": row["answer"],
        "probabilities": [round(row[label], 4) for label in labels],
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")
