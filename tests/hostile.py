"""Data that is meant to slip past, with a known truth: names, encodings, places and values as people have them."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from safety_modules.audit import audit
from safety_modules.audit import run as runs
from safety_modules.audit.decode import Decoded, Decoder
from safety_modules.audit.tower_guard import Verdicts
from safety_modules.config import SafetyConfig
from safety_modules.policy import Policy
from safety_modules.taxonomy import DEFAULT_TAXONOMY

NAMES = ("a", "a.1", "a.2", "photo.v2", "2024.01.05", "with space", "ü", "caf\udce9", "[b]{c}*?", "-d", "#e%20",
         "x" * 120, "line\nbreak", "q'u\"o,te", "NA", "g.", "\u202eh")  # fmt: skip
SUFFIXES = (".jpg", ".JPG", ".png", ".jpeg", "", ".jpg.tmp", ".jpg_large", ".image")
names = st.sampled_from(NAMES)
suffixes = st.sampled_from(SUFFIXES)
kinds = st.sampled_from(["risky", "risky", "clean", "broken"])
WORDS = ("What is this?", "half \ud83d of it", "see a.png", "ü\nand\ton", "", "<b>")
words = st.sampled_from(WORDS)


class Picture(NamedTuple):
    """A planted picture: red ones are risky."""

    kind: str
    data: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()


def picture(kind: str, number: int) -> Picture:
    """One that differs in its bytes from all of other numbers."""
    colour = {"risky": (255, 0, 0), "clean": (0, 255, 0), "broken": (0, 0, 255)}[kind]
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG" if number % 2 else "JPEG")
    data = buffer.getvalue()
    return Picture(kind, (data[:40] if kind == "broken" else data) + b"%06d" % number)


class _Red(Decoder):
    def __init__(self) -> None:
        pass

    def pixels(self, picture: Image.Image, name: object = "") -> np.ndarray:
        return np.asarray(picture.resize((1, 1))).transpose(2, 0, 1)


class _ByColour:
    """Finds red pictures risky, as an adapter's parts would."""

    config, digest, fingerprint, limits = SafetyConfig(), "", {}, {"illegal": 0.5}
    policy, pixels, calibrated = Policy.default(), SimpleNamespace(decoder=_Red()), np.zeros(0)
    backbone = SimpleNamespace(sizes=SimpleNamespace(tile=None))

    def fault(self, picture: Decoded, question: str | None) -> str | None:
        return picture.fault

    def start(self, pictures: Sequence[Decoded], questions: Any) -> np.ndarray:
        return np.concatenate([picture.pixels[:1] for picture in pictures])

    def finish(self, started: np.ndarray) -> Verdicts:
        count = len(started)
        red = (started[:, 0, 0, 0] > 128) & (started[:, 1, 0, 0] < 128)
        types, levels = np.zeros((count, 7), np.float32), np.zeros((count, 4), np.float32)
        types[np.arange(count), np.where(red, 1, 6)] = levels[:, 3] = 1
        kind, level = np.where(red, "illegal", "clean").astype(object), np.full(count, "high", object)
        rule = np.where(red, np.array("illegal >= 0.500", object), np.array(None, object))
        risk, heat = red.astype(np.float32), np.ones((count, 6, 1, 1), np.float32)
        outside = np.full(count, np.nan)
        return Verdicts(types, levels, kind, level, rule, risk, risk >= 0, heat, np.array([[0, 1, 1]] * count), outside)


@contextmanager
def red_judge() -> Iterator[None]:
    """Audits are judged by colour, without a model."""
    with pytest.MonkeyPatch.context() as patch:
        scorer = SimpleNamespace(guard=_ByColour(), device="cpu", dtype="float32")
        patch.setattr(runs, "Scorer", lambda *_, **__: scorer)
        yield


def audited(data: Path | str, out: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rows of an audit. Its counts add up, and its files are UTF-8."""
    import pyarrow.parquet as pq

    summary = audit(data, out, "base", "adapter", workers=0, progress=False, **options)
    found = pq.read_table(out / "verdicts.parquet").to_pylist()
    parts = [summary[name] for name in ("scored", "duplicates", "unreadable", "text_only")]
    assert summary["rows"] == len(found) == sum(parts)
    assert len([row for row in found if row["error"]]) == summary["unreadable"] + summary["text_only"]
    (out / "summary.json").read_text(encoding="utf-8")
    return summary, found


def found_out(found: list[dict[str, Any]], planted: list[Picture]) -> None:
    """Every planted risky picture is flagged, and nothing else."""
    flagged = {row["image_digest"] for row in found if row["flagged"]}
    assert flagged == {one.digest for one in planted if one.kind == "risky"}


def label(type: str, level: str) -> dict[str, int]:
    taxonomy = DEFAULT_TAXONOMY
    return {"safe_type": taxonomy.type_index(type), "safe_level": taxonomy.level_index(level)}
