"""The audit's report: one HTML file that opens offline, for looking at what was flagged and marking it.

The pictures' blocks are inert JSON that the page decodes only when it shows them, so 10,000 cost their text alone.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from safety_modules.audit.review_audit import FLAGGED, SAMPLE, Audit, read_audit
from safety_modules.audit.summary import SPAN
from safety_modules.io.html import environment
from safety_modules.policy.scores import log_ratio
from safety_modules.records.perceptual_hash import DISTANCE, first_alike

SHOWN = 20_000
"""Flagged rows in a report, those with the highest risk; the random sample comes on top of them."""
REPORT = "report.html"
SCRIPTS = ("enlarge.js", "state.js", "marks.js", "view.js", "card.js", "page.js")
"""Parts of the page's own script, in this order."""
LISTED = 500
"""Unreadable rows, and labels in doubt, that are listed in the page."""
FIRST = 96
"""Rows whose pictures stand before the page's script, so that it can begin while the rest is read."""
_BLOCKS = "<!-- blocks -->"


class Shown(NamedTuple):
    """The flagged rows of a report."""

    places: np.ndarray  # N positions in the file, by falling risk
    columns: dict[str, list[Any]]  # of N values each, which the page filters and searches; see `read_shown`


class Bar(NamedTuple):
    """A bar of the histogram: its range of scores, its place and height in percent, and how many rows."""

    low: float
    high: float
    left: float
    width: float
    rows: int
    height: float


def write_report(out: Path) -> Path:
    """Write `report.html` into the folder of a finished audit, from the three files there.

    Pictures are the thumbnails of `flagged.parquet`, blurred until somebody reveals them. Nothing in the page comes
    from elsewhere, and nothing in it can run but its own script: words and paths of the data are never markup.

    Args:
        out: the folder.

    Returns:
        The page.

    Raises:
        DataError: the audit is not finished, or its files are damaged.

    Does not cover: more than 20,000 flagged rows; those with the highest risk are shown then, and the page says so.
    """
    audit = read_audit(out)
    shown = read_shown(audit)
    head, script, tail = _page(audit, shown).split(_BLOCKS)
    path, draft = out / REPORT, out / f"{REPORT}.part"
    with draft.open("w", encoding="utf-8") as file:
        file.write(head)
        file.write(block("meta", _meta(audit)) + block("index", shown.columns))
        file.writelines(blocks(audit, shown, 0, FIRST))
        file.write(script)
        file.writelines(blocks(audit, shown, FIRST))
        file.write(tail)
    os.replace(draft, path)
    return path


def _meta(audit: Audit) -> dict[str, Any]:
    return {
        "audit": audit.digest,
        "types": audit.taxonomy.types,
        "labels": audit.taxonomy.labels,
        "levels": audit.taxonomy.risky_levels,
        "sample": min(SAMPLE, audit.summary.flagged),
        "fit": audit.summary.fit,
    }


def _page(audit: Audit, shown: Shown) -> str:
    folder = resources.files("safety_modules.audit") / "templates"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    summary, table = audit.summary, counts(audit)
    return (
        environment("safety_modules.audit")
        .get_template("report.html.j2")
        .render(
            blocks=Markup(_BLOCKS),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            style=Markup((folder / "report.css").read_text(encoding="utf-8")),
            summary=summary,
            tiles=_tiles(audit),
            counts={name: row for name, row in table.items() if name in audit.taxonomy.types or any(row.values())},
            most=max((sum(row.values()) for row in table.values()), default=0) or 1,
            levels=audit.taxonomy.levels[0 if any(row[audit.taxonomy.safe_level] for row in table.values()) else 1 :],
            bars=_bars(summary.histogram),
            span=SPAN,
            least=math.floor(min(shown.columns["score"], default=0)),
            most_score=math.ceil(max(shown.columns["score"], default=1)),
            shown=len(shown.places),
            errors=summary.errors[:LISTED],
            doubts=summary.label_disagreements,
            listed=LISTED,
            settings=[(name, _words(getattr(summary, name))) for name in ("adapter", "base", "thresholds", "versions")],
        )
    )


def _tiles(audit: Audit) -> list[tuple[str, str, str]]:
    """(what, how many, a note) of every headline number."""
    summary = audit.summary
    moving = summary.animations
    share = f"{100 * summary.flagged / summary.scored:.2f} % of the scored" if summary.scored else ""
    strange = (
        []
        if summary.outside is None
        else [("unlike the training's", f"{summary.outside.share:.1%}", "not to be trusted")]
    )
    return [
        ("flagged", f"{summary.flagged:,}", share),
        ("rows", f"{summary.rows:,}", f"{summary.text_only:,} of them text alone"),
        ("scored", f"{summary.scored:,}", f"{summary.images_per_second:,.0f} images/s"),
        ("exact duplicates", f"{summary.duplicates:,}", "scored once"),
        ("unreadable", f"{summary.unreadable:,}", "listed below" if summary.unreadable else ""),
        *(
            [("animations", f"{moving.rows:,}", f"{moving.judged:,} of {moving.frames:,} frames judged")]
            * (moving.rows > 0)
        ),
        ("label disagrees", f"{disagreeing(audit):,}", "of the flagged"),
        *strange,
    ]


def _bars(histogram: list[int]) -> list[Bar]:
    """Heights grow with the logarithm: clean pictures outnumber risky ones a hundredfold."""
    top = math.log1p(max(histogram, default=0)) or 1
    bins = max(len(histogram), 1)
    edges = [SPAN * (2 * place / bins - 1) for place in range(bins + 1)]
    return [
        Bar(edges[place], edges[place + 1], 100 * place / bins, 100 / bins, count, 100 * math.log1p(count) / top)
        for place, count in enumerate(histogram)
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else json.dumps(value)


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
