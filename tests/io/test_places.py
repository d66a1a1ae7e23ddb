"""Where results go is looked at before any work: can it be written to, is there room, whose is it?"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.cli import app
from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.io.places import check_file, check_ours, check_writable


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_image: Any) -> Path:
    """A folder with a picture and a thesis, where no work may begin."""
    monkeypatch.chdir(tmp_path)
    make_image(0).save("picture.png")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("work was begun"))
    return tmp_path


def refusal(command: str) -> str:
    done = CliRunner().invoke(app, command.split())
    assert isinstance(done.exception, SafetyModulesError), (done.exception, done.output)
    return str(done.exception)


PLACES = [
    "classify picture.png --overlays {folder}",
    "calibrate mine --json {file}",
    "calibrate mine --cache {folder}",
    "calibrate {folder}",
    "train --out {folder}",
    "train --out out --runs {folder}",
    "train --out out --cache {folder}",
    "train --extend llava-pocket-safe --new-type x --data . --out out --runs {folder}",
    "data check thesis --json {file}",
    "demo --out {folder}",
    "audit thesis --out {folder}",
    "evaluate --suite pocket --out {folder}",
    "evaluate pocket --json {file}",
]


@pytest.mark.parametrize("command", PLACES)
def test_a_command_refuses_a_place_it_cannot_write_to_before_any_work(command: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    told = refusal(command.format(folder="picture.png/x", file="picture.png/x.json"))
    assert "no place to write to" in told and "'Not a directory'" in told and told.count("\n") <= 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", PLACES)
def test_a_command_refuses_a_full_disk_before_any_work(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(here.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**6))
    assert "disk full: expected at least 20 MB free" in refusal(command.format(folder="new", file="new.json"))
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        "audit . --out thesis",
        "evaluate --suite pocket --out thesis",
        "demo --out thesis",
    ],
)
def test_a_command_refuses_somebody_elses_folder(command: str, here: Path) -> None:
    told = refusal(command)
    assert "foreign folder: expected a new or empty folder" in told and "got thesis with other files in it" in told
    assert [path.name for path in (here / "thesis").iterdir()] == ["chapter.tex"]


def test_numbers_that_are_there_are_replaced_only_when_asked(here: Path) -> None:
    Path("numbers.json").write_text("{}")
    told = refusal("evaluate pocket --json numbers.json")
    assert told == "not replaced: expected a new file, got numbers.json, which is there. Name another, or --overwrite."


def test_a_place_that_will_do_is_left_as_it_was(here: Path) -> None:
    before = sorted(here.rglob("*"))
    check_writable("new/folder/deep", None, "thesis")
    check_file("new/numbers.json")
    check_file("picture.png")
    check_ours("new", ("mark",), "ours")
    (here / "mine").mkdir()
    (here / "mine" / "killed.json.tmp").touch()
    check_ours("mine", ("mark",), "ours")
    shutil.rmtree("mine")
    assert sorted(here.rglob("*")) == before


def test_a_folder_is_no_file(here: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file's name, got the folder thesis"):
        check_file("thesis")
