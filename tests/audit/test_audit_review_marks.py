"""Marks are read only if every one of them is of this audit, and none contradicts another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from audit_samples import verdict, write_audit, write_marks

from safety_modules.audit.review_audit import read_audit
from safety_modules.audit.review_marks import Mark, read_flagged, read_marks
from safety_modules.errors import DataError

pytest.importorskip("pyarrow")

SAME = "ab" * 32


@pytest.fixture
def out(tmp_path: Path) -> Path:
    judged = [verdict(row, f"data.jsonl:{row + 1}", type="illegal") for row in range(3)]
    judged += [verdict(3 + k, f"data.jsonl:{4 + k}", type="privacy", image_digest=SAME) for k in range(2)]
    return write_audit(tmp_path / "out", [*judged, verdict(5, "data.jsonl:6")])


def read(out: Path, given: Mapping[int, str], **changes: Any) -> list[Mark]:
    audit = read_audit(out)
    path = write_marks(out.parent / "marks.json", out, given, **changes)
    return read_marks(path, audit, read_flagged(audit)).marks


def refused(out: Path, words: str, given: Mapping[int, str] | None = None, **changes: Any) -> None:
    with pytest.raises(DataError, match=words):
        read(out, given or {}, **changes)


def test_marks_of_this_audit_are_read(out: Path) -> None:
    assert [(mark.row, mark.mark) for mark in read(out, {0: "confirm", 2: "reject"})] == [(0, "confirm"), (2, "reject")]


def test_marks_of_another_audit_are_refused(out: Path, tmp_path: Path) -> None:
    other = write_audit(tmp_path / "other", [verdict(row, f"data.jsonl:{row + 1}", type="insults") for row in range(3)])
    refused(out, "marks of another audit", {0: "confirm"}, audit=read_audit(other).digest)


def test_a_row_that_was_not_flagged_is_refused(out: Path) -> None:
    refused(out, "row 5: expected a flagged row", {5: "confirm"})


def test_another_picture_is_refused(out: Path) -> None:
    refused(out, "row 0: expected the picture", marks=[mark(out, 0, image_digest="0" * 64)])


def test_a_row_marked_both_ways_is_refused(out: Path) -> None:
    refused(out, "row 0: expected one judgement", marks=[mark(out, 0), mark(out, 0, mark="reject")])


def test_a_picture_marked_both_ways_is_refused(out: Path) -> None:
    refused(out, "rows 3 and 4 show one picture: expected one judgement", {3: "confirm", 4: "reject"})


def test_a_row_with_two_labels_is_refused(out: Path) -> None:
    labels = [{"type": "privacy", "level": level} for level in ("low", "high")]
    refused(out, "row 0: expected one label", marks=[mark(out, 0, **label) for label in labels])


def test_the_same_mark_twice_counts_once(out: Path) -> None:
    assert len(read(out, {}, marks=[mark(out, 0), mark(out, 0)])) == 1


@pytest.mark.parametrize(
    "label", [{"type": "clean", "level": "safe"}, {"type": "illegal", "level": "safe"}, {"type": "x", "level": "low"}]
)
def test_a_label_that_is_no_risk_is_refused(out: Path, label: dict[str, str]) -> None:
    refused(out, "row 0: expected a type of", marks=[mark(out, 0, **label)])


@pytest.mark.parametrize("label", [{"type": "illegal"}, {"mark": "reject", "type": "illegal", "level": "low"}])
def test_half_a_label_and_a_label_of_a_rejected_picture_are_refused(out: Path, label: dict[str, str]) -> None:
    refused(out, "expected type and level together and confirmed", marks=[mark(out, 0, **label)])


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "else"}, {"marks": [{"row": 1}]}, {"more": 1}])
def test_what_is_no_file_of_marks_is_refused(out: Path, change: dict[str, Any]) -> None:
    refused(out, "Export them from the report again", **change)


def test_every_problem_is_named_at_once(out: Path) -> None:
    refused(out, r"2 problems:\n.*row 5.*\n.*rows 3 and 4", {5: "confirm", 3: "confirm", 4: "reject"})


def test_what_is_no_json_and_no_file_is_refused(out: Path) -> None:
    audit = read_audit(out)
    (out / "marks.json").write_text("{")
    for path, words in ((out / "marks.json", "refused"), (out / "none.json", "expected a file")):
        with pytest.raises(DataError, match=words):
            read_marks(path, audit, {})


def test_the_digest_tells_audits_apart(out: Path, tmp_path: Path) -> None:
    again = write_audit(tmp_path / "again", [verdict(0, "data.jsonl:1", type="illegal")])
    changed = write_audit(tmp_path / "changed", [verdict(0, "data.jsonl:1", type="illegal", risk=0.75)])
    assert len({read_audit(one).digest for one in (out, again, changed)}) == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("summary.json", "{}", "missing key 'rows'"),
        ("summary.json", "[", "refused"),
        ("flagged.parquet", "no", "expected Parquet files"),
        ("verdicts.parquet", None, "got none of verdicts.parquet"),
    ],
)
def test_a_damaged_audit_is_refused(out: Path, name: str, content: str | None, words: str) -> None:
    (out / name).unlink() if content is None else (out / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_audit(out)


def mark(out: Path, row: int, **changes: Any) -> dict[str, Any]:
    """One mark, as a file has it."""
    path = write_marks(out.parent / "one.json", out, {row: "confirm"})
    return json.loads(path.read_text())["marks"][0] | changes
