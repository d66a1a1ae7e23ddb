"""Readers of pictures with captions: each format, what a question is, and what is refused by its place."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.records.captions import CAPTION, read_captions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def said(*values: str) -> list[dict[str, str]]:
    return [{"from": name, "value": value} for name, value in zip(("human", "gpt") * 2, values, strict=False)]


def written(folder: Path, name: str, value: object) -> Path:
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_without_a_key_for_it_the_first_answer_of_a_llava_item_is_the_caption(folder: Path) -> None:
    items = [{"image": "a.png", "conversations": said("Give a brief description.\n<image>", "a cup of tea")}]
    (record,) = read_captions(written(folder, "llava.json", items))
    assert (record.meta[CAPTION], record.question, record.answer) == ("a cup of tea", "", None)
    assert record.image == folder / "a.png" and record.source == f"{folder / 'llava.json'}: item 0"


@pytest.mark.parametrize("key", ["caption", "image_caption", "blip_caption"])
def test_with_a_key_for_it_the_first_exchange_is_a_question_about_the_picture(folder: Path, key: str) -> None:
    turns = said("<image>\nWhat is it?", "Tea.", "Hot?", "Yes.")
    item = {"image": "a.png", key: "a cup", "conversations": turns}
    for path in (written(folder, "x.json", [item]), written(folder, "x.jsonl", item)):
        (record,) = read_captions(path)
        assert (record.meta[CAPTION], record.question, record.answer) == ("a cup", "What is it?", "Tea.")


def test_captions_of_coco_find_their_pictures_by_number(folder: Path) -> None:
    images = [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
    notes = [{"image_id": 3, "caption": "a"}, {"image_id": 7, "caption": "b"}, {"image_id": 3, "caption": "again"}]
    found = read_captions(written(folder, "coco.json", {"images": images, "annotations": notes}))
    assert [(one.image.name, one.meta[CAPTION]) for one in found] == [
        ("a.png", "a"),
        ("b.png", "b"),
        ("a.png", "again"),
    ]
    notes.append({"image_id": 8, "caption": "of nothing"})
    with pytest.raises(DataError, match="annotation 3: image: expected a file name"):
        read_captions(written(folder, "coco.json", {"images": images, "annotations": notes}))


def test_a_table_may_have_questions(folder: Path) -> None:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "question"), ("a.png", "a, b", "why?"), ("b.png", "c", "")])
    found = read_captions(folder / "t.csv")
    assert [(one.meta[CAPTION], one.question) for one in found] == [("a, b", "why?"), ("c", "")]
    (folder / "t.csv").write_text("picture,caption\na.png,a\n")
    with pytest.raises(DataError, match=r"expected the columns image and caption .* none named image"):
        read_captions(folder / "t.csv")


def test_a_folder_has_a_text_beside_each_picture(folder: Path) -> None:
    for name in ("a", "b", "deep/c"):
        (folder / f"{name}.txt").write_text(f"shows {name}\n")
    found = read_captions(folder)
    assert [one.meta[CAPTION] for one in found] == ["shows a", "shows b", "shows deep/c"]
    (folder / "b.txt").unlink()
    with pytest.raises(DataError, match=r"(?s)1 problem:.*b\.png: no caption"):
        read_captions(folder)


def test_relative_names_start_where_it_is_said(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = written(elsewhere, "x.json", [{"image": "a.png", "conversations": said("?", "tea")}])
    assert read_captions(path, folder)[0].image == folder / "a.png"
    with pytest.raises(DataError, match="item 0: image"):
        read_captions(path)


def test_every_bad_item_is_named(folder: Path) -> None:
    good = {"image": "a.png", "caption": "a"}
    bad = [{"image": "none.png", "caption": "a"}, {"image": "a.png", "caption": 5}, {"image": "a.png"}, 3, None]
    with pytest.raises(DataError) as error:
        read_captions(written(folder, "x.json", [good, *bad]))
    for number in range(1, 6):
        assert f"item {number}: " in str(error.value)
    assert "item 0" not in str(error.value) and "5 problems" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "expected JSON"),
        ("x.json", '{"a": 1}', "expected a list of items"),
        ("x.json", "[]", "expected at least one picture"),
        ("x.jsonl", '{"image": "a.png", "caption": "a"}\nno', r"x\.jsonl:2"),
        ("x.xml", "", r"expected a folder or a file of \.json"),
    ],
)
def test_what_is_none_of_the_formats_is_refused(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_captions(folder / name)
    with pytest.raises(DataError, match="expected a UTF-8 file"):
        read_captions(folder / "missing.json")
