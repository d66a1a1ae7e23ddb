"""`safety-modules data check`: every planted fault is found, and nothing else."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from data_samples import picture, published, row, save, write_csv, write_json, write_jsonl
from PIL import Image
from typer.testing import CliRunner

from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError
from safety_modules.records import DataReport, check_data, read_good_records

pytest.importorskip("imagehash")
runner = CliRunner()
CLEAN, SAFE = 6, 0


def good(folder: Path, name: str = "train", first_seed: int = 0) -> list[Any]:
    """A record of every type, each with a picture of its own."""
    (folder / name).mkdir()
    items = []
    for type in range(CLEAN + 1):
        save(folder / name / f"{type}.png", first_seed + type)
        items.append(published(f"{name}/{type}.png", type, SAFE if type == CLEAN else 3))
    return items


def bomb(path: Path, side: int = 20_000) -> str:
    """A PNG of a few bytes that says it has 400 million pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b""))]
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    return path.name


def truncated(path: Path, seed: int) -> str:
    save(path, seed)
    path.write_bytes(path.read_bytes()[:-200])
    return path.name


def reencoded(path: Path, seed: int) -> str:
    """The same picture, larger and as a JPEG."""
    picture(seed, 96).save(path, quality=80)
    return path.name


def plant(folder: Path) -> tuple[Path, Path, set[tuple[str, str]], set[tuple[str, str]]]:
    """Train and test data with faults; the places of the errors and of the warnings by kind."""
    train, test = good(folder), good(folder, "test", 100)
    expected: dict[str, list[str]] = {"error": [], "warning": []}

    def add(to: list[Any], item: Any, kind: str, severity: str = "error") -> None:
        to.append(item)
        expected[severity].append((kind, f"{folder / ('train' if to is train else 'test')}.jsonl:{len(to)}"))

    shown = "train/0.png"
    add(train, "{not json", "record")
    add(train, published(shown, type=9), "record")
    add(train, published(shown, type=None), "record")
    add(train, published(shown, type=1, level=SAFE), "record")
    add(train, published(shown, answer=" "), "record")
    add(train, published(shown, question="<image> how?"), "record")
    add(train, published("gone.png"), "record")
    add(train, published(truncated(folder / "truncated.png", 50)), "picture")
    add(train, published(bomb(folder / "bomb.png")), "picture")
    add(train, train[0], "repeat")
    save(folder / "both.png", 60)
    add(train, published("both.png", type=2), "conflict")
    add(train, published("both.png", type=CLEAN, level=SAFE), "conflict")
    add(train, published(reencoded(folder / "like.jpg", 1)), "alike", "warning")
    save(folder / "copy.png", 2)
    add(test, published("copy.png", question="another?"), "leak")
    add(test, published(reencoded(folder / "close.jpg", 3)), "near-leak")
    paths = (write_jsonl(folder / "train.jsonl", train), write_jsonl(folder / "test.jsonl", test))
    return (*paths, set(expected["error"]), set(expected["warning"]))


def places(findings: Any) -> set[tuple[str, str]]:
    return {(finding.kind, finding.source) for finding in findings}


def test_every_planted_fault_is_found_and_nothing_else(tmp_path: Path) -> None:
    train, test, errors, warnings = plant(tmp_path)
    report = check_data(train, test, progress=False)
    assert places(report.errors) == errors
    assert len(report.errors) == len(errors)
    assert places(report.warnings) == warnings
    assert not report.ok
    assert report.balance["politics"] == {"safe": 0, "low": 0, "medium": 0, "high": 2}
    reasons = " ".join(finding.reason for finding in report.errors)
    for words in (
        "truncated",
        "DecompressionBomb",
        "level without type",
        "<image> count",
        "empty answer",
        "of 64 bits",
    ):
        assert words in reasons, words


def test_clean_data_passes_without_a_word(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", good(tmp_path))
    test = write_jsonl(tmp_path / "test.jsonl", good(tmp_path, "test", 100))
    report = check_data(train, test, progress=False)
    assert (report.ok, report.errors, report.warnings, report.records, report.pictures) == (True, [], [], 14, 14)


def test_the_command_fails_on_errors_and_writes_them_all(tmp_path: Path) -> None:
    train, test, errors, warnings = plant(tmp_path)
    done = runner.invoke(app, ["data", "check", str(train), "--test", str(test), "--json", str(tmp_path / "r.json")])
    assert done.exit_code == 1, done.output
    assert "near-leak" in done.output and "Mend the errors first." in done.output
    written = json.loads((tmp_path / "r.json").read_text())
    assert {(one["kind"], one["source"]) for one in written["errors"]} == errors
    assert {(one["kind"], one["source"]) for one in written["warnings"]} == warnings
    assert written.pop("ok") is False
    assert places(DataReport.model_validate(written).errors) == errors


def test_the_command_passes_with_warnings_alone(tmp_path: Path) -> None:
    items = good(tmp_path)
    items.append(published(reencoded(tmp_path / "like.jpg", 1)))
    path = write_jsonl(tmp_path / "train.jsonl", items)
    done = runner.invoke(app, ["data", "check", str(path), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "alike" in done.output and "Ready to train on." in done.output
    strict = runner.invoke(app, ["data", "check", str(path), "--format", "jsonl", "--distance", "9"])
    assert strict.exit_code == 2


def test_training_gets_what_the_check_finds_no_fault_with(tmp_path: Path) -> None:
    train, _, errors, _ = plant(tmp_path)
    found = read_good_records(train, progress=False)
    assert {problem.source for problem in found.left_out} == {place for _, place in errors if str(train) in place}
    assert len(found.records) == 8  # seven good ones and the one that looks like another
    text = "\n".join(problem.model_dump_json() for problem in found.left_out)
    assert all(set(json.loads(line)) == {"source", "reason"} for line in text.splitlines())
    mended = write_jsonl(tmp_path / "mended.jsonl", good(tmp_path, "mended"))
    assert read_good_records(mended, progress=False).left_out == []


def test_labels_of_one_picture_may_differ_by_question(tmp_path: Path) -> None:
    items = good(tmp_path)
    items.append(published("train/0.png", CLEAN, SAFE, question="what colour is it?"))
    assert check_data(write_jsonl(tmp_path / "train.jsonl", items), progress=False).ok


def test_text_alone_repeats_and_leaks_too(tmp_path: Path) -> None:
    text = row("", type="clean", level="safe")
    train = write_csv(tmp_path / "train.csv", [text, text])
    test = write_csv(tmp_path / "test.csv", [text])
    assert places(check_data(train, test, progress=False).errors) == {
        ("repeat", f"{train}:3"),
        ("leak", f"{test}:2"),
    }


def test_missing_and_rare_types_are_warned_about(tmp_path: Path) -> None:
    rows = [row("", question=str(number)) for number in range(22)] + [row("", type="privacy")] * 1
    report = check_data(write_csv(tmp_path / "data.csv", rows), progress=False)
    assert [finding.reason for finding in report.warnings] == [
        "no records of politics, insults, fairness, misleading, clean.",
        "type privacy is rare: 1 records, 22 of the commonest risk type.",
    ]
    assert report.ok


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    report = check_data(write_csv(tmp_path / "data.csv", []), progress=False)
    assert [finding.reason for finding in report.errors] == ["expected at least one record, got none."]


def test_what_cannot_be_checked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "data.csv", [row("")])
    with pytest.raises(ConfigError, match="max_distance refused: expected 0 to 8 bits, got 9"):
        check_data(path, max_distance=9)
    with pytest.raises(DataError, match="unknown data format"):
        check_data(write_json(tmp_path / "data.json", []))
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    with pytest.raises(DataError, match=r"library missing: expected imagehash .*Run pip install"):
        check_data(path)


def test_plain_pictures_do_not_look_alike(tmp_path: Path) -> None:
    for name in ("red", "blue", "white"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    rows = [row(f"{name}.png") for name in ("red", "blue", "white")]
    report = check_data(write_csv(tmp_path / "data.csv", rows), progress=False, max_distance=8)
    assert {finding.kind for finding in report.warnings} == {"balance"}
