"""WebDataset shards: samples, and everything that is none."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from data_samples import encoded, write_tar

from safety_modules.errors import DataError
from safety_modules.records import read_records
from safety_modules.records.images import FileSlice

WORDS = {"type": "illegal", "level": "high", "question": "how?", "answer": "No."}
CLEAN = {"type": "clean", "question": "what?"}


def test_a_sample_is_a_record_whose_picture_stays_in_the_tar(tmp_path: Path) -> None:
    members: dict[str, Any] = {"x/7.PNG": encoded(1), "x/7.json": WORDS, "8.json": CLEAN}
    path = write_tar(tmp_path / "a.tar", {**members, "._7.png": b"of a file manager"})
    shown, told = read_records(path)
    assert isinstance(shown.image, FileSlice) and shown.image.read() == encoded(1)
    assert (shown.source, str(shown.image)) == (f"{path}:x/7", f"{path}:x/7.PNG")
    assert (shown.type, shown.level, shown.question, shown.answer) == ("illegal", "high", "how?", "No.")
    assert (told.image, told.level, told.answer) == (None, "safe", None)


def test_braces_and_wildcards_name_shards_in_order(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.png": encoded(number), f"{number}.json": WORDS})
    wanted = [f"{tmp_path / f's-{number}.tar'}:{number}" for number in range(3)]
    assert [one.source for one in read_records(f"{tmp_path}/s-{{0..2}}.tar")] == wanted
    assert [one.source for one in read_records(f"{tmp_path}/s-*.tar")] == wanted
    with pytest.raises(DataError, match=r"shards not found: .*s-3.tar"):
        read_records(f"{tmp_path}/s-{{0..3}}.tar")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"1.png": encoded(1)}, "1: sample: expected one picture and one .json, got png"),
        ({"1.png": encoded(1), "1.jpg": encoded(1, "JPEG"), "1.json": WORDS}, "got jpg, json, png"),
        ({"1.png": encoded(1), "1.json": WORDS, "1.txt": b"x"}, "got json, png, txt"),
        ({"1.png": encoded(1), "2.png": encoded(2), "1.json": WORDS, "2.json": WORDS}, "got png"),
        ({"1.png": encoded(1), "1.json": b"{"}, "1: not JSON"),
        ({"1.png": encoded(1), "1.json": b"[]"}, "expected an object, got list"),
        ({"1.png": encoded(1), "1.json": {**WORDS, "anwser": "No."}}, "expected only type, level, .* got anwser too"),
        ({"1.png": encoded(1), "1.json": {**WORDS, "type": 1}}, "type: expected words, got 1"),
        ({"1.png": encoded(1), "1.json": {**WORDS, "level": None}}, "no level"),
        ({"1.png": encoded(1), "1.json": WORDS, "README": b"x"}, "README: expected a name with a suffix"),
    ],
)
def test_a_bad_sample_is_refused_with_its_place(tmp_path: Path, members: dict[str, Any], reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", {"0.png": encoded(0), "0.json": WORDS, **members})
    with pytest.raises(DataError, match=reason) as caught:
        read_records(path)
    assert f"{path}:" in str(caught.value)


def test_a_compressed_broken_or_doubled_tar_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": encoded(1), "1.json": WORDS})
    whole = path.read_bytes()
    for content in (gzip.compress(whole), whole[:700], b"no tar at all" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match="expected an uncompressed tar"):
            read_records(path)
    with pytest.raises(DataError, match="duplicate file name"):
        read_records(write_tar(tmp_path / "b.tar", {"1.png": encoded(1), "1.PNG": encoded(2), "1.json": WORDS}))
