"""VLGuard: what its pictures and instructions count as."""

from pathlib import Path
from typing import Any

import pytest
from data_samples import save, vlguard_safe, vlguard_unsafe, write_json

from safety_modules.errors import ConfigError, DataError
from safety_modules.records import ReadOptions, check_data, read_records
from safety_modules.records.formats.vlguard import read_categories
from safety_modules.taxonomy import DEFAULT_TAXONOMY

PUBLISHED = {
    ("privacy", "personal data"),
    ("risky behavior", "professional advice"),
    ("risky behavior", "political"),
    ("risky behavior", "sexually explicit"),
    ("risky behavior", "violence"),
    ("deception", "disinformation"),
    ("discrimination", "sex"),
    ("discrimination", "race"),
    ("discrimination", "other"),
}
ROW = "  - {category: privacy, subcategory: personal data, type: privacy, level: low}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 2)
    return tmp_path


def test_the_table_maps_every_published_category_to_a_label_of_the_taxonomy() -> None:
    rows = read_categories(None).unsafe_pictures
    assert {(one.category, one.subcategory) for one in rows} == PUBLISHED
    assert {one.type for one in rows} <= set(DEFAULT_TAXONOMY.types)
    assert {one.level for one in rows} <= set(DEFAULT_TAXONOMY.risky_levels)


def test_unsafe_pictures_are_labelled_by_the_table_and_safe_instructions_clean(folder: Path) -> None:
    path = write_json(folder / "train.json", [vlguard_safe(), vlguard_unsafe()])
    safe, unsafe = read_records(path)
    assert (safe.type, safe.level, safe.question, safe.answer) == ("clean", "safe", "what is shown?", "a cup")
    assert (unsafe.type, unsafe.level, unsafe.question) == ("privacy", "high", "read this card")
    assert unsafe.source == f"{path} item 1"


def test_unsafe_instructions_about_safe_pictures_are_counted_as_left_out(folder: Path) -> None:
    report = check_data(write_json(folder / "train.json", [vlguard_safe()]), progress=False)
    assert [*report.left_out.values()] == [1]
    assert report.records == 1


def test_a_table_of_ones_own_labels_them_and_the_question_then_counts(folder: Path) -> None:
    table = folder / "table.yaml"
    table.write_text("unsafe_instruction: {type: illegal, level: medium}\nunsafe_pictures:\n" + ROW)
    path = write_json(folder / "train.json", [vlguard_safe(), vlguard_unsafe()])
    safe, asked, shown = read_records(path, ReadOptions(categories=table))
    assert (asked.type, asked.level, asked.question) == ("illegal", "medium", "who lives here?")
    assert safe.meta == asked.meta == {"needs_question": True}
    assert (shown.level, shown.meta) == ("low", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unsafe_pictures: []\n", "missing key 'unsafe_instruction'"),
        ("unsafe_instruction: guess\nunsafe_pictures: []\n", "unsafe_instruction"),
        ("unsafe_instruction: leave_out\nunsafe_pictures:\n" + ROW + ROW, "listed twice: privacy / personal data"),
        ("unsafe_instruction: leave_out\nsafe_pictures: []\nunsafe_pictures: []\n", "unknown key 'safe_pictures'"),
        ("[", "table.yaml not read"),
        (
            "unsafe_instruction: leave_out\nunsafe_pictures: []\nunsafe_pictures: []\n",
            "'unsafe_pictures' appears twice",
        ),
    ],
)
def test_a_bad_table_is_one_error(folder: Path, text: str, reason: str) -> None:
    table = folder / "table.yaml"
    table.write_text(text)
    with pytest.raises(ConfigError, match="table of categories") as caught:
        read_records(write_json(folder / "train.json", [vlguard_safe()]), ReadOptions(categories=table))
    assert reason in str(caught.value)


def test_a_changed_table_is_read_again(folder: Path) -> None:
    path, table = write_json(folder / "train.json", [vlguard_unsafe()]), folder / "table.yaml"
    for level in ("low", "high"):
        table.write_text("unsafe_instruction: leave_out\nunsafe_pictures:\n" + ROW.replace("low", level))
        assert [one.level for one in read_records(path, ReadOptions(categories=table))] == [level]


def without(item: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != key}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (vlguard_unsafe(category="weather", subcategory="rain"), "unmapped category: .* got 'weather' / 'rain'"),
        (vlguard_unsafe(subcategory="Personal Data"), "unmapped category"),
        (without(vlguard_unsafe(), "harmful_category"), "unmapped category: .* got None"),
        ({**vlguard_unsafe(), "safe": "false"}, "safe: expected true or false, got 'false'"),
        (without(vlguard_unsafe(), "safe"), "safe: expected true or false, got None"),
        ({**vlguard_unsafe(), "instr-resp": []}, "instr-resp: expected a list of instructions"),
        ({**vlguard_unsafe(), "instr-resp": [{"safe_instruction": "x"}]}, "instr-resp: expected one of instruction"),
        ({**vlguard_safe(), "instr-resp": [{"instruction": "x"}]}, "expected one of safe_instruction, unsafe_instr"),
        ({**vlguard_unsafe(), "instr-resp": [{"instruction": "x", "response": 1}]}, "response: expected words, got 1"),
        ({**vlguard_unsafe(), "instr-resp": [{"instruction": "x", "response": ""}]}, "empty answer"),
        ({**vlguard_unsafe(), "instr-resp": [{"instruction": "<image> x"}]}, "<image> inside the text"),
        (vlguard_unsafe("gone.png"), "image: expected a file, got nothing"),
    ],
)
def test_a_bad_object_is_refused_with_file_item_and_reason(folder: Path, item: Any, reason: str) -> None:
    path = write_json(folder / "train.json", [vlguard_safe(), item])
    with pytest.raises(DataError, match=reason) as caught:
        read_records(path)
    assert f"{path} item 1: " in str(caught.value)
