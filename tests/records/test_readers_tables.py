"""CSV: what a table gives, and everything it refuses."""

from pathlib import Path
from typing import Any

import pytest
from data_samples import row, save, write_csv

from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, read_records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a.png", 1)
    return tmp_path


def test_a_row_is_a_record_with_its_line(folder: Path) -> None:
    path = write_csv(folder / "data.csv", [row(question="one\ntwo"), row("", type="clean", level="", answer="")])
    first, second = read_records(path)
    assert (first.type, first.level, first.question, first.answer) == ("illegal", "high", "one\ntwo", "I can't help.")
    assert (second.image, second.type, second.level, second.answer) == (None, "clean", "safe", None)
    assert (first.source, second.source) == (f"{path}:2", f"{path}:4")


def test_other_columns_and_a_byte_order_mark_are_passed_over(folder: Path) -> None:
    path = write_csv(
        folder / "data.csv", [{**row(), "id": "7"}], ["id", "image", "type", "level", "question", "answer"]
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_records(path)) == 1


def test_pictures_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "c.png", 3)
    (found,) = read_records(
        write_csv(folder / "data.csv", [row("c.png")]), ReadOptions(image_dir=tmp_path / "pictures")
    )
    assert found.image == tmp_path / "pictures" / "c.png"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "weather"}, "unknown type: expected one of politics, illegal"),
        ({"type": "Illegal"}, "unknown type"),
        ({"type": "1"}, "unknown type"),
        ({"level": "extreme"}, "unknown level: expected one of safe, low, medium, high, got 'extreme'"),
        ({"type": ""}, "level without type: expected both, got level 'high' alone"),
        ({"type": "", "level": ""}, "no type: expected one of politics"),
        ({"level": ""}, "no level: expected one of low, medium, high, got nothing"),
        ({"level": "safe"}, "type and level disagree"),
        ({"type": "clean"}, "type and level disagree"),
        ({"question": " "}, "no question"),
        ({"answer": " "}, "empty answer"),
        ({"question": "<image> why?"}, "<image> inside the text"),
        ({"answer": "see <image>"}, "<image> inside the text"),
        ({"image": "gone.png"}, "image: expected a file, got nothing at"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(folder: Path, changes: Any, reason: str) -> None:
    path = write_csv(folder / "data.csv", [row(), row(**changes)])
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert f"{path}:3: " in str(caught.value)
    assert reason in str(caught.value)
    assert "1 problem" in str(caught.value)


def test_a_missing_or_repeated_column_is_refused(folder: Path) -> None:
    columns = ["image", "type", "level", "question", "anwser"]
    path = write_csv(folder / "data.csv", [], columns)
    with pytest.raises(DataError, match=r"expected the columns image, .*\(without answer\)"):
        read_records(path)
    path.write_text("image,type,level,question,answer,answer\n")
    with pytest.raises(DataError, match="expected each column once"):
        read_records(path)


def test_a_row_with_too_many_cells_and_broken_quotes_are_refused(folder: Path) -> None:
    path = write_csv(folder / "data.csv", [row()])
    good = path.read_text()
    path.write_text(good + "a.png,clean,safe,why, not,answer\n")
    with pytest.raises(DataError, match=r"csv:3: expected 5 cells, got 6"):
        read_records(path)
    path.write_text(good + 'a.png,clean,safe,"why" not,\n')
    with pytest.raises(DataError, match="not CSV"):
        read_records(path)
    path.write_bytes(good.encode() + b"\xff")
    with pytest.raises(DataError, match="expected a UTF-8 file"):
        read_records(path)
