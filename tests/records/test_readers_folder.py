"""A folder for each class: labels come from the names of folders and from nothing else."""

from pathlib import Path

import pytest
from data_samples import save

from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, read_records
from safety_modules.taxonomy import Taxonomy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("clean/a.png", "clean/safe/b.png", "illegal/low/c.jpg", "illegal/high/d.png")):
        save(tmp_path / name, number)
    return tmp_path


def test_types_and_levels_are_the_names_of_folders(folder: Path) -> None:
    (folder / "clean" / ".thumbnails").mkdir()
    found = {Path(str(one.image)).name: (one.type, one.level) for one in read_records(folder)}
    assert found == {
        "a.png": ("clean", "safe"),
        "b.png": ("clean", "safe"),
        "c.jpg": ("illegal", "low"),
        "d.png": ("illegal", "high"),
    }


def test_every_picture_is_asked_about_in_the_same_words(folder: Path) -> None:
    assert {one.question for one in read_records(folder)} == {"Describe this image."}
    assert {one.question for one in read_records(folder, ReadOptions(question="What is this?"))} == {"What is this?"}
    assert {one.answer for one in read_records(folder)} == {None}


def test_a_level_is_named_never_guessed(folder: Path) -> None:
    path = save(folder / "privacy" / "e.png", 5)
    with pytest.raises(DataError, match=f"{path}: no level: expected a folder privacy/LEVEL"):
        read_records(folder)
    levels = {(one.type, one.level) for one in read_records(folder, ReadOptions(level="medium"))}
    assert levels == {("clean", "safe"), ("illegal", "low"), ("illegal", "high"), ("privacy", "medium")}
    for level in ("safe", "extreme"):
        with pytest.raises(DataError, match=f"unknown level: expected one of low, medium, high, got '{level}'"):
            read_records(folder, ReadOptions(level=level))


def test_pictures_in_no_folder_have_the_type_that_is_named_for_them(tmp_path: Path) -> None:
    pictures = [save(tmp_path / f"{name}.png", number) for number, name in enumerate("ab")]
    with pytest.raises(DataError, match=rf"{pictures[0]}: unknown type: expected a folder named .*, got none"):
        read_records(tmp_path)
    assert [(one.type, one.level) for one in read_records(tmp_path, ReadOptions(type="clean"))] == [
        ("clean", "safe")
    ] * 2
    found = read_records(tmp_path, ReadOptions(type="illegal", level="low"))
    assert [(one.type, one.level) for one in found] == [("illegal", "low")] * 2
    save(tmp_path / "privacy" / "high" / "c.png", 3)
    read = read_records(tmp_path, ReadOptions("folder", type="clean"))
    assert [one.type for one in read] == ["clean", "clean", "privacy"]
    with pytest.raises(DataError, match=r"unknown type: expected one of politics, .*, got 'weather'"):
        read_records(tmp_path, ReadOptions("folder", type="weather"))


def test_what_is_no_type_no_level_and_no_picture_is_refused(folder: Path) -> None:
    save(folder / "ilegal" / "f.png", 1)
    save(folder / "illegal" / "extreme" / "g.png", 2)
    save(folder / "illegal" / "high" / "deeper" / "h.png", 3)
    (folder / "illegal" / "high" / "notes.txt").write_text("x")
    save(folder / "clean" / "high" / "i.png", 4)
    with pytest.raises(DataError, match="5 problems") as caught:
        read_records(folder)
    for reason in (
        f"{folder / 'ilegal' / 'f.png'}: unknown type: expected a folder named politics",
        f"{folder / 'illegal' / 'extreme' / 'g.png'}: unknown level: expected a folder named safe, low",
        f"{folder / 'illegal' / 'high' / 'deeper' / 'h.png'}: expected a picture file in illegal/high, got a folder",
        f"{folder / 'illegal' / 'high' / 'notes.txt'}: expected a picture file",
        f"{folder / 'clean' / 'high' / 'i.png'}: type and level disagree",
    ):
        assert reason in str(caught.value)


def test_a_taxonomy_of_ones_own_names_the_folders(tmp_path: Path) -> None:
    save(tmp_path / "weapons" / "high" / "a.png", 1)
    own = Taxonomy(types=("weapons",), levels=("safe", "high"))
    assert [one.type for one in read_records(tmp_path, taxonomy=own)] == ["weapons"]
