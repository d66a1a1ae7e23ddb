"""benchmarks/call_path.py: what a guarded call runs through, and nothing beside it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    numbers = tmp_path_factory.mktemp("path") / "numbers.json"
    command = [sys.executable, "benchmarks/call_path.py", "--json", str(numbers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    read = json.loads(numbers.read_text())
    assert f"{read['count']} files, {read['lines']:,} lines" in done.stdout
    return read


def test_the_way_of_a_guarded_call_goes_through_the_verdict_and_the_steered_answer(found: dict[str, Any]) -> None:
    functions = {name for file in found["files"].values() for name in file["functions"]}
    rooms = {name.partition("/")[0] for name in found["files"]}
    assert {"attach", "backbones", "defences", "mount", "policy"} <= rooms
    assert {name.rpartition(".")[2] for name in functions} >= {"forward", "decide"}


def test_what_a_guarded_call_does_not_run_does_not_count(found: dict[str, Any]) -> None:
    """Reading the adapter's folder, importing modules and drawing pictures come before the call."""
    rooms = {name.partition("/")[0] for name in found["files"]}
    assert not rooms & {"adapter", "training", "audit", "evaluation", "pocket", "cli", "io"}
    assert not any("<module>" in file["functions"] for file in found["files"].values())


def test_lines_are_those_of_the_files(found: dict[str, Any]) -> None:
    files = found["files"]
    for name, file in files.items():
        assert file["lines"] == len((ROOT / "safety_modules" / name).read_text().splitlines())
        assert 0 < file["lines_run"] < file["lines"]
    assert found["count"] == len(files)
    assert found["lines"] == sum(file["lines"] for file in files.values())


def test_the_way_stays_short(found: dict[str, Any]) -> None:
    """A stranger follows it: lowered when it gets shorter, raised only where the guard itself does more."""
    assert found["count"] <= 21
    assert found["lines_run"] <= 1_760  # 1,700 until the head read every word, and knew what it never saw
