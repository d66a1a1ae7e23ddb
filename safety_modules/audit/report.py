"""The audit's report: one HTML file that opens offline, for looking at what was flagged and marking it."""

import base64
import hashlib
import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from safety_modules.audit.report_data import SAMPLE, Shown, block, blocks, counts, disagreeing, read_shown
from safety_modules.audit.review_audit import Audit, read_audit
from safety_modules.audit.summary import SPAN
from safety_modules.io.html import environment

REPORT = "report.html"
SCRIPTS = ("enlarge.js", "state.js", "marks.js", "view.js", "card.js", "page.js")
"""Parts of the page's own script, in this order."""
LISTED = 500
"""Unreadable rows, and labels in doubt, that are listed in the page."""
FIRST = 96
"""Rows whose pictures stand before the page's script, so that it can begin while the rest is read."""
_BLOCKS = "<!-- blocks -->"


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
