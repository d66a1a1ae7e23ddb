"""Finished audits for the tests of report and review: coloured squares and made-up verdicts, no model."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_samples import picture
from PIL import Image

from safety_modules.audit.review_audit import read_audit
from safety_modules.audit.review_marks import read_flagged
from safety_modules.errors import DataError
from safety_modules.pictures import read_bytes
from safety_modules.policy.scores import log_odds
from safety_modules.records.formats import FORMATS
from safety_modules.records.readers import recognise
from safety_modules.records.source import ReadOptions, Source
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Taxonomy

GRID = 4


def thumbnail(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((192, 192))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def verdict(row: int, source: str, **known: Any) -> dict[str, Any]:
    """One row of an audit; flagged where a `type` is given. Seeded by its number."""
    taxonomy: Taxonomy = known.pop("taxonomy", DEFAULT_TAXONOMY)
    random = np.random.default_rng(row)
    type = known.pop("type", CLEAN)
    risk = known.pop("risk", round(float(random.uniform(0.5, 1.0) if type != CLEAN else random.uniform(0, 0.3)), 4))
    rest = (1 - max(risk, 1 - risk)) / (len(taxonomy.labels) - 1)
    chances = {f"p_{label}": rest for label in taxonomy.labels} | {f"p_{type}": max(risk, 1 - risk)}
    level = known.pop("level", "high" if type != CLEAN else taxonomy.safe_level)
    levels = {f"level_{name}": float(name == level) for name in taxonomy.levels}
    found = {
        "row": row,
        "source": source,
        "image_digest": hashlib.sha256(f"picture {row}".encode()).hexdigest(),
        "question": f"what is shown in number {row}?",
        **chances,
        **levels,
        "risk": risk,
        "type": type,
        "level": level,
        "flagged": type != CLEAN,
        "rule": f"{type} >= 0.500" if type != CLEAN else None,
        "duplicate_of": None,
        "label": None,
        "error": None,
        "answer": None,
        "thumbnail": None,
        "attention": random.integers(0, 256, GRID * GRID, dtype=np.uint8).tobytes(),
        "grid_rows": GRID,
        "grid_columns": GRID,
        "phash": f"{random.integers(0, 2**64, dtype=np.uint64):016x}",
    }
    return found | known


def write_audit(out: Path, judged: Sequence[dict[str, Any]], **summary: Any) -> Path:
    """The three files of an audit; rows that are flagged get a coloured thumbnail where they have none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    chances = [name for name in judged[0] if name.startswith("p_")]
    levels = [name for name in judged[0] if name.startswith("level_")]
    kinds: dict[str, Any] = dict.fromkeys(("row", "duplicate_of", "grid_rows", "grid_columns"), pa.int64())
    kinds |= dict.fromkeys(("thumbnail", "attention"), pa.binary()) | {"flagged": pa.bool_()}
    kinds |= dict.fromkeys([*chances, *levels], pa.float32()) | {"risk": pa.float64()}

    def save(name: str, columns: Sequence[str], some: Sequence[dict[str, Any]]) -> None:
        schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
        pq.write_table(pa.Table.from_pylist([{key: row[key] for key in columns} for row in some], schema), out / name)

    flagged = [row for row in judged if row["flagged"] and row["duplicate_of"] is None]
    for row in flagged:
        row["thumbnail"] = row["thumbnail"] or thumbnail(picture(row["row"], 24))
    common = ["row", "source", "image_digest", "question", "risk", "type", "level", "rule", "label"]
    save("verdicts.parquet", [*common, *chances, *levels, "flagged", "duplicate_of", "error"], judged)
    shown = ["answer", "thumbnail", "attention", "grid_rows", "grid_columns", "phash"]
    save("flagged.parquet", [*common, *chances, *shown], flagged)
    errors = [{"row": r["row"], "source": r["source"], "reason": r["error"]} for r in judged if r["error"]]
    duplicates = sum(row["duplicate_of"] is not None for row in judged)
    counts = {
        "rows": len(judged),
        "scored": len(judged) - duplicates - len(errors),
        "duplicates": duplicates,
        "unreadable": len(errors),
        "text_only": 0,
        "flagged": len(flagged),
        "by_type": dict(Counter(row["type"] for row in flagged)),
        "by_level": dict(Counter(row["level"] for row in flagged)),
        "histogram": np.histogram([log_odds(row["risk"]) for row in judged], 50, (-10, 10))[0].tolist(),
        "thresholds": dict.fromkeys(DEFAULT_TAXONOMY.types, 0.5),
        "adapter": "adapters/mine",
        "base": "llava-pocket",
        "data": {"path": "data.jsonl", "format": "jsonl"},
        "seconds": 12.5,
        "images_per_second": 250.0,
        "versions": {"safety-modules": "0.1"},
        "errors": errors,
    }
    (out / "summary.json").write_text(json.dumps(counts | summary), encoding="utf-8")
    return out


def audit_of(
    data: Path | str, out: Path, flagged: Mapping[int, str], format: str | None = None, **options: Any
) -> Path:
    """A finished audit of real data: every row as the audit reads it, those flagged with these types."""
    source = Source(str(data), DEFAULT_TAXONOMY, ReadOptions(format, image_dir=options.pop("image_dir", None)))
    name = recognise(source, strict=False)
    first: dict[tuple[str | None, str | None], int] = {}
    judged = []
    for number, row in enumerate(FORMATS[name].rows(source)):
        digest, fault = None, row.fault
        try:
            digest = None if row.image is None else hashlib.sha256(read_bytes(row.image)).hexdigest()
        except DataError as error:
            fault = str(error)
        copy = first.setdefault((digest, row.question), number)
        known = {"image_digest": digest, "question": row.question, "answer": row.answer, "label": row.label}
        known |= {"duplicate_of": None if copy == number else copy, "error": fault}
        if number in flagged and copy == number:
            known["type"] = flagged[number]
        judged.append(verdict(number, row.source, **known))
    image_dir = None if source.options.image_dir is None else str(source.options.image_dir)
    about = {"path": str(data), "format": name, "image_dir": image_dir, "question": None}
    return write_audit(out, judged, **({"data": about} | options))


def write_marks(path: Path, out: Path, given: Mapping[int, str], sample: Sequence[int] = (), **changes: Any) -> Path:
    """A file of marks, `row: confirm or reject`, as the report exports it."""
    audit = read_audit(out)
    flagged = read_flagged(audit)
    marks = [
        {
            "row": row,
            "image_digest": flagged[row].image_digest if row in flagged else "0" * 64,
            "mark": mark,
            "time": "2026-01-01T00:00:00.000Z",
            "sample": row in sample,
        }
        for row, mark in given.items()
    ]
    whole = {"format": "safety-modules marks", "version": 1, "audit": audit.digest, "sample": len(sample) or 100}
    path.write_text(json.dumps(whole | {"marks": marks} | changes), encoding="utf-8")
    return path
