"""The published safety data and LLaVA's clean data: what they give, and everything they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.records.readers import read_records

PUBLISHED = {
    "image": "x.png",
    "safe_type": 1,
    "safe_level": 3,
    "conversations": [
        {"from": "USER", "value": "<image>\nhow do I use this?"},
        {"from": "ASSISTANT", "value": "I'm sorry."},
    ],
}
CLEAN = {
    "id": "7",
    "image": "x.png",
    "conversations": [
        {"from": "human", "value": "what is this?\n<image>"},
        {"from": "gpt", "value": "a cup"},
        {"from": "human", "value": "which colour?"},
        {"from": "gpt", "value": "red"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png")
    return tmp_path


def write(folder: Path, *items: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    if name.endswith("l"):
        path.write_text("\n".join(i if isinstance(i, str) else json.dumps(i) for i in items), encoding="utf-8")
    else:
        path.write_text(json.dumps(list(items)), encoding="utf-8")
    return path


def test_published_format_is_read_with_names_for_its_indices(folder: Path) -> None:
    path = write(folder, PUBLISHED)
    (found,) = read_records(path)
    assert found.source == f"{path}:1"
    assert (found.type, found.level, found.is_risky) == ("illegal", "high", True)
    assert (found.question, found.answer) == ("how do I use this?", "I'm sorry.")
    assert found.load_image().getpixel((0, 0)) == (255, 0, 0)


TALK = ["<image>\nwhat is this?", "a knife", "how do I use it?", "no", "give me the steps"]


def talk(count: int) -> list[dict[str, str]]:
    return [{"from": ("USER", "ASSISTANT")[at % 2], "value": words} for at, words in enumerate(TALK[:count])]


@pytest.mark.parametrize("count", [4, 5])
def test_a_risky_conversation_is_one_record_of_its_last_question_and_all_before(folder: Path, count: int) -> None:
    (found,) = read_records(write(folder, {**PUBLISHED, "conversations": talk(count)}))
    first, second = ("what is this?", "a knife"), ("how do I use it?", "no")
    assert (found.question, found.answer) == (second if count == 4 else ("give me the steps", None))
    assert found.history == ((first,) if count == 4 else (first, second))


def test_every_question_of_a_clean_conversation_is_a_record_with_those_before(folder: Path) -> None:
    first, second = read_records(write(folder, CLEAN, name="data.json"))
    assert (first.question, first.answer, first.history) == ("what is this?", "a cup", ())
    assert (second.question, second.answer) == ("which colour?", "red")
    assert second.history == (("what is this?", "a cup"),)


def test_published_format_may_lack_the_answer(folder: Path) -> None:
    (found,) = read_records(write(folder, {**PUBLISHED, "conversations": PUBLISHED["conversations"][:1]}))
    assert found.answer is None


def test_llava_format_gives_a_clean_record_for_each_pair(folder: Path) -> None:
    first, second = read_records(write(folder, CLEAN, name="data.json"))
    assert (first.question, first.answer, first.type, first.level) == (
        "what is this?",
        "a cup",
        "clean",
        "safe",
    )
    assert (second.question, second.answer, second.image) == ("which colour?", "red", first.image)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"safe_type": 7}, "safe_type: expected an integer 0..6, got 7"),
        ({"safe_type": True}, "safe_type: expected an integer 0..6, got True"),
        ({"safe_type": "1"}, "safe_type: expected an integer 0..6, got '1'"),
        ({"safe_level": None}, "safe_level: expected an integer 0..3, got None"),
        ({"safe_type": None}, "level without type: expected both, got safe_level 3 alone"),
        ({"safe_level": 0}, "type and level disagree"),
        ({"safe_type": 6}, "type and level disagree"),
        ({"image": "gone.png"}, "image: expected a file, got nothing"),
        ({"image": None}, "image: expected a file name, got None"),
        ({"conversations": []}, "conversations: expected a list of turns"),
        ({"conversations": PUBLISHED["conversations"][1:]}, "expected turn 0 to be"),
        ({"conversations": [{"from": "USER", "value": "no tag"}]}, "<image> count"),
        ({"conversations": [{"from": "USER", "value": "<image>\n"}]}, "expected words in every question, got none"),
        ({"conversations": [{"from": "USER", "value": "<image> <image> two"}]}, "<image> count"),
        (
            {"conversations": [PUBLISHED["conversations"][0], {"from": "ASSISTANT", "value": " "}]},
            "empty answer",
        ),
    ],
)
def test_bad_record_is_refused_with_file_line_and_reason(folder: Path, change: dict[str, Any], reason: str) -> None:
    path = write(folder, PUBLISHED, {**PUBLISHED, **change})
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert f"{path}:2: " in str(caught.value)
    assert reason in str(caught.value)


def test_a_label_said_twice_is_refused_and_not_the_last_one_taken(folder: Path) -> None:
    line = json.dumps(PUBLISHED).replace('"safe_type": 1', '"safe_type": 1, "safe_type": 6')
    with pytest.raises(DataError, match=r":1: not JSON: a key appears twice"):
        read_records(write(folder, line))
    (folder / "data.json").write_text('[{"id": 1, "id": 2, "conversations": []}]')
    with pytest.raises(DataError, match="a key appears twice"):
        read_records(folder / "data.json")


def test_all_bad_records_are_named_at_once(folder: Path) -> None:
    path = write(folder, "{not json", {**PUBLISHED, "safe_type": 9}, PUBLISHED, "[1]")
    with pytest.raises(DataError, match="3 problems") as caught:
        read_records(path)
    assert all(f"{path}:{line}: " in str(caught.value) for line in (1, 2, 4))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({**CLEAN, "safe_type": 6}, "expected clean data without labels"),
        ({**CLEAN, "conversations": CLEAN["conversations"][:3]}, "expected an answer to every question"),
        ({**CLEAN, "conversations": CLEAN["conversations"][:1]}, "expected an answer to every question"),
    ],
)
def test_bad_clean_record_is_refused(folder: Path, item: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_records(write(folder, item, name="data.json"))
