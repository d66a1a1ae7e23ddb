"""The scripts on pocket are commands like the package's: places, hub ids, Ctrl-C; and those of pages run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from doc_commands import commands
from huggingface_hub import errors
from scripts import invoke
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.errors import SafetyModulesError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "checkpoints/llava-pocket/README.md"]
PLACES = [
    "head.py --json {file}",
    "promise.py --json {file}",
    "new_type.py --json {file}",
    "asked.py --json {file}",
    "attacks.py --json {file}",
    "base_card.py --json {file}",
    "audit_findings.py --json {file}",
    "audit_findings.py --out {folder}",
    "comparison.py train --out {folder}",
    "ablations.py --out {folder}",
    "comparison.py table a b --json {file}",
]
NAMES = [
    "head.py --adapter X",
    "promise.py --adapter X",
    "audit_findings.py --samples 1000 --adapter X",
    "plan.py X --recipe llava-1.5-7b/stage1",
]
LIMITS: dict[str, dict[str, str]] = {
    "head.py": {"--samples": "40"},
    "plan.py": {},
    "promise.py": {"--draws": "1", "--samples": "300", "--fresh": "200"},
    "new_type.py": {"--samples": "20"},
    "asked.py": {"--samples": "2"},
    "attacks.py": {"--samples": "2", "--eps": "2", "--steps": "1", "--calibrated": "300"},
    "base_card.py": {"--samples": "10"},
    "audit_findings.py": {"--samples": "1000"},
    "comparison.py train": {"--records": "60", "--effort": "0.001", "--calibration": "400", "--seed": "0"},
    "comparison.py table": {},
    "ablations.py": {"--records": "60", "--effort": "0.001", "--calibration": "400", "--seeds": "1"}
    | {"--only": "no-lora", "--samples": "40"},
}
"""Options that make a command of a page small; they stand for what the page says of the same option."""


def script_of(words: list[str]) -> str:
    return " ".join(words[:2]) if words[0] == "comparison.py" else words[0]


SHOWN = [
    words
    for page in PAGES
    for command in commands(page.read_text(encoding="utf-8"))
    for words in [shlex.split(command.replace("python benchmarks/", ""), comments=True)]
    if command.startswith("python benchmarks/") and script_of(words) in LIMITS
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_image: Any) -> Path:
    """A folder with a picture and a thesis, where no work may begin."""
    monkeypatch.chdir(tmp_path)
    make_image(0).save("picture.png")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("work was begun"))
    return tmp_path


def refusal(command: str) -> str:
    done = invoke(*command.split())
    assert isinstance(done.exception, SafetyModulesError), (done.exception, done.output)
    return str(done.exception)


@pytest.mark.parametrize("command", PLACES)
def test_a_script_refuses_a_place_it_cannot_write_to_before_any_work(command: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    told = refusal(command.format(folder="picture.png/x", file="picture.png/x.json"))
    assert "no place to write to" in told and "'Not a directory'" in told and told.count("\n") <= 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", PLACES)
def test_a_script_refuses_a_full_disk_before_any_work(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(here.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**6))
    assert "disk full: expected at least 20 MB free" in refusal(command.format(folder="new", file="new.json"))
    assert sorted(here.rglob("*")) == before


def test_a_script_refuses_somebody_elses_folder(here: Path) -> None:
    told = refusal("audit_findings.py --out thesis")
    assert "foreign folder: expected a new or empty folder" in told and "got thesis with other files in it" in told
    assert [path.name for path in (here / "thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("command", [place for place in PLACES if "json" in place])
def test_numbers_that_are_there_are_replaced_only_when_asked(command: str, here: Path) -> None:
    Path("numbers.json").write_text("{}")
    told = refusal(command.format(file="numbers.json"))
    assert told == "not replaced: expected a new file, got numbers.json, which is there. Name another, or --overwrite."


@pytest.mark.parametrize("command", NAMES)
@pytest.mark.parametrize(("name", "asks"), [("owner/name", ["owner/name"]), ("models/lava", [])])
def test_a_script_takes_a_hub_id_and_no_mistyped_path_for_one(
    command: str, name: str, asks: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def offline(repository: str, **options: Any) -> str:
        asked.append(repository)
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    told = refusal(command.replace("X", name))
    assert ("hf download owner/name" if asks else name) in told
    assert asked == asks


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    for script, words in (("head", "begins anew"), ("ablations", "goes on")):
        monkeypatch.setattr(f"{script}.{'attach' if script == 'head' else 'run_ablations'}", interrupted)
        done = invoke(f"{script}.py", *(["--out", tmp_path] if script == "ablations" else []))
        assert (done.exit_code, done.stderr.strip()) == (130, f"interrupted; the same command {words}")


def test_what_the_package_refuses_is_one_sentence_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "comparison.py", "table", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("no report: expected report.json of an evaluation in")
    assert done.stderr.count("\n") == 1


def limited(words: list[str]) -> list[str]:
    """The words with the limits of their script, in place of the same options."""
    limits, kept, skip = LIMITS[script_of(words)], [], False
    for word in words:
        if skip or word in limits:
            skip = not skip
        else:
            kept.append(word)
    return [*kept, *(part for option in limits.items() for part in option)]


@pytest.mark.slow
def test_the_scripts_of_the_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safety_modules.cli import app

    monkeypatch.chdir(tmp_path)
    for words in dict.fromkeys(map(tuple, SHOWN)):
        if "TABLE1" in words and not Path("TABLE0").exists():
            small = ["evaluate", "--suite", "pocket", "--limit", "1", "--part", "attack/*", "--out", "TABLE0"]
            assert CliRunner().invoke(app, small).exit_code == 0
            for name in ("TABLE1", "TABLE2"):
                shutil.copytree("TABLE0", name)
        shown = [re.sub(r"^A$", "llava-pocket-safe", word) for word in limited(list(words))]
        done = invoke(*shown)
        assert done.exit_code == 0, (shown, done.output, done.exception)
