"""Reviewed pictures come back as training data: confirmed as risks, rejected as clean."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from audit_samples import audit_of, verdict, write_audit, write_marks
from data_samples import encoded, published, row, save, write_jsonl, write_tar

from safety_modules.audit.review_apply import apply_marks
from safety_modules.records import Record, read_good_records, read_records

pytest.importorskip("pyarrow")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    items = [published(save(folder / f"{seed}.png", seed).name, question=f"what is {seed}?") for seed in range(4)]
    return audit_of(write_jsonl(folder / "data.jsonl", items), tmp_path / "out", dict.fromkeys(range(3), "privacy"))


def exported(out: Path, marks: Path) -> tuple[list[Record], list[Record]]:
    files = apply_marks(out, marks).exports
    assert files == {"confirm": out / "confirmed.jsonl", "reject": out / "rejected.jsonl"}
    return tuple(read_records(path) if path.stat().st_size else [] for path in files.values())  # type: ignore[return-value]


def test_confirmed_rows_are_risks_without_an_answer(out: Path, tmp_path: Path) -> None:
    confirmed, _ = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 2: "confirm"}))
    assert [(one.type, one.level, one.question, one.answer) for one in confirmed] == [
        ("privacy", "high", "what is 0?", None),
        ("privacy", "high", "what is 2?", None),
    ]


def test_rejected_rows_are_clean_and_keep_their_answer(out: Path, tmp_path: Path) -> None:
    _, rejected = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 1: "reject"}))
    assert [(one.type, one.level, one.question, one.answer) for one in rejected] == [
        ("clean", "safe", "what is 1?", "No.")
    ]


def test_pictures_come_along_byte_for_byte(out: Path, tmp_path: Path) -> None:
    confirmed, rejected = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 1: "reject"}))
    for seed, (one,) in enumerate((confirmed, rejected)):
        assert isinstance(one.image, Path) and one.image.is_relative_to(out)
        assert one.image.read_bytes() == (tmp_path / "set" / f"{seed}.png").read_bytes()


def test_the_label_of_the_reviewer_counts(out: Path, tmp_path: Path) -> None:
    marks = write_marks(tmp_path / "marks.json", out, {0: "confirm"})
    given = json.loads(marks.read_text())
    given["marks"][0] |= {"type": "illegal", "level": "low"}
    marks.write_text(json.dumps(given))
    confirmed, _ = exported(out, marks)
    assert [(one.type, one.level) for one in confirmed] == [("illegal", "low")]
    assert json.loads((out / "cleaned" / "manifest.json").read_text())["removed"][0]["type"] == "illegal"


def test_a_find_whose_level_is_safe_counts_as_the_lowest_risk(tmp_path: Path) -> None:
    path = save(tmp_path / "set" / "a.png", 0)
    judged = [verdict(0, str(path), type="illegal", level="safe", image_digest=sha256(path.read_bytes()).hexdigest())]
    out = write_audit(tmp_path / "out", judged, data={"path": str(path.parent), "format": "folder"})
    confirmed, _ = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm"}))
    assert [(one.type, one.level) for one in confirmed] == [("illegal", "low")]


def test_the_files_are_data_that_training_takes(out: Path, tmp_path: Path) -> None:
    apply_marks(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 1: "reject", 2: "confirm"}))
    for name, count in (("confirmed", 2), ("rejected", 1)):
        good = read_good_records(out / f"{name}.jsonl", progress=False)
        assert (len(good.records), good.left_out) == (count, [])


def test_pictures_inside_tars_become_files(tmp_path: Path) -> None:
    words = {name: value for name, value in row().items() if name != "image"}
    members: dict[str, Any] = {"1.jpg": encoded(1, "JPEG"), "1.json": words, "2.png": encoded(2), "2.json": words}
    out = audit_of(write_tar(tmp_path / "a.tar", members), tmp_path / "out", {0: "illegal", 1: "illegal"})
    confirmed, rejected = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 1: "reject"}))
    assert [Path(str(one.image)).suffix for one in (*confirmed, *rejected)] == [".jpeg", ".png"]
    assert Path(str(confirmed[0].image)).read_bytes() == encoded(1, "JPEG")


def test_pictures_without_a_question_get_the_one_of_folders(tmp_path: Path) -> None:
    save(tmp_path / "set" / "a.png", 0)
    out = audit_of(tmp_path / "set", tmp_path / "out", {0: "illegal"})
    confirmed, _ = exported(out, write_marks(tmp_path / "marks.json", out, {0: "confirm"}))
    assert [one.question for one in confirmed] == ["Describe this image."]


def test_a_later_export_replaces_an_earlier_one(out: Path, tmp_path: Path) -> None:
    apply_marks(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 1: "reject"}))
    apply_marks(out, write_marks(tmp_path / "marks.json", out, {2: "confirm"}), tmp_path / "again")
    assert [one.question for one in read_records(out / "confirmed.jsonl")] == ["what is 2?"]
    assert (out / "rejected.jsonl").read_text() == ""
    assert len(list((out / "confirmed").iterdir())) == 1 and not list((out / "rejected").iterdir())
