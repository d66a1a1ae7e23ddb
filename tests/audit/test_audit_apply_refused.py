"""What applying marks refuses: nothing is written then, and the data is never touched."""

import json
from pathlib import Path

import pytest
from audit_samples import audit_of, write_marks
from data_samples import published, save, write_jsonl
from typer.testing import CliRunner

from safety_modules.audit.review_apply import apply_marks
from safety_modules.errors import DataError

pytest.importorskip("pyarrow")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    names = [save(folder / f"{seed}.png", seed).name for seed in range(4)]
    return write_jsonl(folder / "data.jsonl", [published(name) for name in names])


@pytest.fixture
def out(data: Path, tmp_path: Path) -> Path:
    return audit_of(data, tmp_path / "out", {0: "illegal", 2: "privacy"})


@pytest.fixture
def marks(out: Path, tmp_path: Path) -> Path:
    return write_marks(tmp_path / "marks.json", out, {0: "confirm", 2: "reject"})


def refused(out: Path, marks: Path, words: str, to: Path | None = None) -> None:
    with pytest.raises(DataError, match=words):
        apply_marks(out, marks, to)
    assert not (out / "cleaned").exists()
    assert not list(out.parent.rglob("clean*.part"))


def test_the_data_is_never_touched(data: Path, out: Path, marks: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.parent.iterdir()}
    apply_marks(out, marks)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.parent.iterdir()} == before


def test_a_folder_that_is_there_is_not_written_to(out: Path, marks: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    refused(out, marks, "expected a new folder", tmp_path / "there")


def test_a_place_inside_the_data_is_refused(tmp_path: Path) -> None:
    for seed in range(2):
        save(tmp_path / "set" / f"{seed}.png", seed)
    out = audit_of(tmp_path / "set", tmp_path / "out", {0: "illegal"})
    marks = write_marks(tmp_path / "marks.json", out, {0: "confirm"})
    refused(out, marks, "expected a place outside", tmp_path / "set" / "clean")


def test_marks_that_confirm_nothing_are_refused(out: Path, tmp_path: Path) -> None:
    refused(out, write_marks(tmp_path / "marks.json", out, {2: "reject"}), "expected a confirmed row")


def test_data_with_a_row_more_is_refused(data: Path, out: Path, marks: Path) -> None:
    with data.open("a") as file:
        file.write(json.dumps(published("3.png")) + "\n")
    refused(out, marks, "has changed since the audit: expected 4 rows")


def test_data_with_a_row_less_is_refused(data: Path, out: Path, marks: Path) -> None:
    write_jsonl(data, data.read_text().splitlines()[:3])
    refused(out, marks, "has changed since the audit: expected .*:4 as row 3, got the end")


def test_another_picture_under_the_same_name_is_refused(data: Path, out: Path, marks: Path) -> None:
    save(data.parent / "0.png", 9)
    refused(out, marks, "expected its picture, got another")


def test_data_that_is_gone_is_refused(data: Path, out: Path, marks: Path) -> None:
    data.unlink()
    refused(out, marks, "data not read")


def test_an_unfinished_audit_is_refused(out: Path, marks: Path) -> None:
    (out / "summary.json").unlink()
    refused(out, marks, "no finished audit")


def test_the_commands_print_what_was_done_and_what_to_do_next(out: Path, marks: Path, data: Path) -> None:
    import typer

    from safety_modules.cli.audit import apply_review

    app = typer.Typer()
    app.command()(apply_review)
    found = CliRunner().invoke(app, [str(out), str(marks)])
    assert found.exit_code == 0, found.output
    assert "4 rows: 3 kept, 1 removed." in found.output
    assert str(out / "cleaned" / "data.jsonl") in found.output
    assert str(out / "confirmed.jsonl") in found.output
