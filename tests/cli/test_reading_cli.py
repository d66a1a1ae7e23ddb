"""How commands are told to read data: several sources as one set, and options for all of them or for each."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from data_samples import published, row, save, write_csv, write_jsonl
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app
from safety_modules.cli.reading import Reading
from safety_modules.errors import ConfigError, DataError
from safety_modules.records import ReadOptions, read_records
from safety_modules.taxonomy import DEFAULT_TAXONOMY

RECIPE = "stage: 1\nsteps: 2\nbatch_size: 2\nlearning_rate: 1.0e-3\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any) -> Path:
    """A jsonl, a CSV whose pictures lie elsewhere, and a folder without levels; the tiny base stands in for pocket."""
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "pictures/b.png", "photos/illegal/c.png", "photos/clean/d.png")):
        save(tmp_path / name, seed)
    write_jsonl(tmp_path / "a.jsonl", [published("a.png", 6, 0)])
    write_csv(tmp_path / "b.csv", [row("b.png", answer="")])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


ALL = ("--data", "a.jsonl", "--data", "b.csv", "--data", "photos")


def test_sources_of_several_formats_are_trained_on_as_one_set(folder: Path) -> None:
    run("train", "--out", "new", *ALL, "--images", "auto", "--images", "pictures", "--images", "auto", "--level", "low",
        "--recipe", "recipe.yaml")  # fmt: skip
    metadata = read_adapter(folder / "new").config.metadata
    assert (metadata["records"], metadata["data"]) == (4, ["a.jsonl", "b.csv", "photos"])


def test_a_repetition_and_a_conflict_across_sources_are_faults_as_within_one(folder: Path) -> None:
    write_jsonl(folder / "again.jsonl", [published("a.png", 6, 0)])
    with pytest.raises(DataError, match=r"again\.jsonl:1: repeated record: .* those of a\.jsonl:1 again"):
        run("train", "--out", "new", "--data", "a.jsonl", "--data", "again.jsonl")
    write_jsonl(folder / "other.jsonl", [published("a.png", 1, 3)])
    with pytest.raises(DataError, match="labels conflict") as caught:
        run("train", "--out", "new", "--data", "a.jsonl", "--data", "other.jsonl")
    assert "a.jsonl:1: " in str(caught.value) and "other.jsonl:1: " in str(caught.value)


def test_the_check_takes_several_sources_as_one_set_and_several_as_test_data(folder: Path) -> None:
    pytest.importorskip("imagehash")
    write_jsonl(folder / "again.jsonl", [published("a.png", 6, 0)])
    told = ("data", "check", "a.jsonl", "photos", "--test", "again.jsonl", "--test", "b.csv", "--json", "r.json")
    images = ("--images", "auto", "--images", "auto", "--images", "auto", "--images", "pictures")
    run(*told, *images, "--level", "low", code=1)
    report = json.loads((folder / "r.json").read_text())
    assert [one["kind"] for one in report["errors"]] == ["leak"]
    assert (report["data"], report["test"]) == (["a.jsonl", "photos"], ["again.jsonl", "b.csv"])
    run("data", "check", "a.jsonl", "again.jsonl", "--json", "r.json", code=1)
    assert [one["kind"] for one in json.loads((folder / "r.json").read_text())["errors"]] == ["repeat"]


def options(*paths: str, **given: Any) -> list[ReadOptions]:
    (found,) = Reading(**given).options(DEFAULT_TAXONOMY, paths)
    return found


def test_what_is_said_once_holds_for_the_sources_whose_format_knows_it(folder: Path) -> None:
    assert options("b.csv", "photos", images=["pictures"], level="low", question="What?") == [
        ReadOptions(image_dir="pictures"),
        ReadOptions(level="low", question="What?"),
    ]


def test_formats_and_places_of_pictures_are_named_for_each_source_in_order(folder: Path) -> None:
    (folder / "b.csv").rename(folder / "b.txt")
    found = options("b.txt", "a.jsonl", formats=["csv", "auto"], images=["pictures", "auto"])
    assert found == [ReadOptions(format="csv", image_dir="pictures"), ReadOptions()]
    assert len(read_records(["b.txt", "a.jsonl"], found)) == 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"images": ["x", "y"]}, ConfigError, r"--images refused: expected it once .* for each of 3, got it 2 times"),
        ({"formats": ["csv", "csv"]}, ConfigError, "--format refused"),
        ({"categories": Path("x.yaml")}, DataError, r"categories means nothing to the formats .* expected it with vlg"),
        ({"streaming": True}, DataError, "option streaming means nothing"),
    ],
)
def test_what_holds_for_no_source_is_refused(folder: Path, given: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        options("a.jsonl", "b.csv", "photos", **given)


def test_pictures_of_a_folder_lie_nowhere_else(folder: Path) -> None:
    with pytest.raises(DataError, match="option image_dir means nothing to the format folder of photos"):
        read_records("photos", ReadOptions(image_dir="pictures", level="low"))


def test_sources_and_options_must_be_as_many(folder: Path) -> None:
    with pytest.raises(DataError, match="got 1 for 2"):
        read_records(["a.jsonl", "b.csv"], [ReadOptions()])
    with pytest.raises(DataError, match="got 0 for 0"):
        read_records([])


def test_an_empty_source_among_others_is_refused(folder: Path) -> None:
    write_jsonl(folder / "empty.jsonl", [])
    with pytest.raises(DataError, match=r"empty\.jsonl: expected at least one record"):
        read_records(["a.jsonl", "empty.jsonl"])


def test_what_a_reader_passes_over_is_told_before_training(folder: Path) -> None:
    item = {"id": "1", "image": "a.png", "safe": True}
    pairs = [{"safe_instruction": "What?", "response": "A."}, {"unsafe_instruction": "Who?", "response": "No."}]
    (folder / "vlguard.json").write_text(json.dumps([{**item, "instr-resp": pairs}]))
    printed = run("train", "--out", "new", "--data", "a.jsonl", "--data", "vlguard.json", "--data", "photos", "--level",
                  "low", "--recipe", "recipe.yaml")  # fmt: skip
    assert "1 of a.jsonl, vlguard.json, photos passed over: unsafe instructions about safe pictures" in printed


def test_options_of_data_without_data_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected --data with these options"):
        run("train", "--out", "new", "--level", "low")
    with pytest.raises(ConfigError, match="expected --benign, --data or --known with these options"):
        run("calibrate", "new", "--level", "low")


def test_a_bad_name_for_a_new_type_is_one_error(folder: Path) -> None:
    for name in ("Foods!", "illegal"):
        with pytest.raises(ConfigError, match="--new-type refused: expected a new name"):
            run("data", "check", "photos", "--new-type", name)
