"""`safety-modules evaluate`: a benchmark, or one of its commands, and never both."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from harness_fakes import make_benchmark, make_cases
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.harness import run as harness
from safety_modules.evaluation.harness.identity import identify
from safety_modules.evaluation.suites import registry

runner = CliRunner()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any) -> None:
    """The tiny base stands in for pocket, and a benchmark of squares for a published one."""
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    monkeypatch.setattr(registry, "benchmark", lambda name: make_benchmark(make_cases(3)))
    monkeypatch.setattr(harness, "write_page", lambda *arguments: None)  # a second or two of plotting


def run(*arguments: object) -> str:
    done = runner.invoke(app, ["evaluate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("tiny")
def test_a_base_and_a_defence_are_compared_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ("--suite", "squares", "--defence", "adashield-s", "--judge", "string:anywhere", "--limit", 2)
    command = (*command, "--part", "attack/*", "--part", "vqa", "--max-new-tokens", 4, "--out", tmp_path)
    printed = run(*command)
    assert "none (the bare base) is added" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["systems"]) == ["none", "adashield-s"]
    assert report["suite"]["cases"] == 6
    assert report["cost"]["adashield-s"]["extra_prompt_tokens"]["value"] > 0
    assert report["base"]["name"] == "llava-pocket"
    lines = (tmp_path / "transcripts.jsonl").read_text()
    run(*command)
    assert (tmp_path / "transcripts.jsonl").read_text() == lines
    with pytest.raises(ConfigError, match="another limit of new tokens"):
        run(*command, "--max-new-tokens", 5)


@pytest.mark.usefixtures("tiny")
def test_an_attack_stands_as_a_system_of_its_own_beside_the_one_it_attacks(tmp_path: Path, saved_adapter: Path) -> None:
    command = (
        "--suite",
        "squares",
        "--judge",
        "string:anywhere",
        "--limit",
        1,
        "--max-new-tokens",
        4,
        "--out",
        tmp_path,
    )
    with pytest.raises(ConfigError, match="nothing to attack"):
        run(*command, "--defence", "adashield-s", "--attack", "apgd-8-clean")
    with pytest.raises(DataError, match=r"expected METHOD-EPS-AIM"):
        run(*command, "--attack", "apgd-8")
    with pytest.raises(ConfigError, match="nothing to transfer"):
        run(*command, "--attack", "ask-roles", "--surrogate", f"gated={saved_adapter}")
    run(*command, "--adapter", saved_adapter, "--attack", "apgd-8-clean", "--attack", "ask-roles")
    systems = json.loads((tmp_path / "report.json").read_text())["systems"]
    assert [*systems] == ["none", "gated", "gated, apgd-8-clean", "none, ask-roles", "gated, ask-roles"]
    shown = ("--defence", "adashield-s", "--attack", "apgd-8-clean", "--surrogate", f"gated={saved_adapter}")
    run(*command[:-1], tmp_path / "transferred", *shown)
    transferred = json.loads((tmp_path / "transferred" / "report.json").read_text())["systems"]
    assert [*transferred][2:] == ["none, apgd-8-clean from gated", "adashield-s, apgd-8-clean from gated"]
    others = ("--defence", "adashield-s", "--defence", "ecso", "--attack", "apgd-8-readable")
    assert "ecso is not attacked" in run(*command[:-1], tmp_path / "others", *others)
    attacked = json.loads((tmp_path / "others" / "report.json").read_text())["systems"]
    assert [*attacked] == ["none", "adashield-s", "ecso", "adashield-s, apgd-8-readable"]
    told = systems["gated, apgd-8-clean"]
    assert told["describe"]["attack"]["steps"] == 100 and told["source"] == systems["gated"]["source"] == "this package"


def test_without_anything_the_command_explains_itself() -> None:
    assert "--suite" in run()


def test_half_a_command_and_two_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected --suite, got none"):
        run("--limit", 3)
    with pytest.raises(ConfigError, match="or the command pocket, got both"):
        run("--limit", 3, "pocket")


def test_another_weight_is_another_base(tiny_base: Any, processor: Any) -> None:
    model = copy.deepcopy(tiny_base)
    before = identify(model, processor, "base")
    assert identify(model, processor, "base") == before
    model.model.language_model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    after = identify(model, processor, "base")
    assert {key for key in before if before[key] != after[key]} == {"weights", "language_model"}
