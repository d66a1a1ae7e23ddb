"""`train --extend`: a type added, used, and taken away, from the command line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from guard_cases import attach_as_trained
from PIL import Image
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app
from safety_modules.errors import ConfigError

RECIPE = "stage: 1\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\nclean_share: 0.5\n"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Any, processor: Any) -> Path:
    """A calibrated adapter for the tiny base, which stands in for pocket; data of a new type; and recipes."""
    safety = attach_as_trained(copy.deepcopy(tiny_base), processor)
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 0.25)
    safety.save_pretrained(tmp_path / "old", "float32", metadata={"note": "untrained", "calibration": {}})
    safety.detach()
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    rows = ["image,type,level,question,answer"]
    for number in range(8):
        Image.new("RGB", (28, 28), (30 * number, 200, 0)).save(tmp_path / f"{number}.png")
        label = "allergens,high" if number % 2 else "clean,safe"
        rows.append(f"{number}.png,{label},what is this?,")
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "policy.yaml").write_text("rules:\n  allergens:\n    reason: It could make someone ill.\n")
    return tmp_path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def add(folder: Path, *more: object) -> str:
    data = ("--data", folder / "new.csv", "--recipe", folder / "recipe.yaml")
    return run("train", "--extend", folder / "old", "--new-type", "allergens", *data, "--out", folder / "new", *more)


def test_a_type_is_added_calibrated_and_removed(folder: Path) -> None:
    printed = add(folder, "--policy", folder / "policy.yaml")
    assert "Not calibrated for allergens. Next: safety-modules calibrate" in printed
    old, new = read_adapter(folder / "old"), read_adapter(folder / "new")
    assert new.guard.design.added == ("allergens",)
    assert new.guard.rules["allergens"].reason == "It could make someone ill."
    assert new.guard.thresholds == old.guard.thresholds
    assert new.config.metadata["note"] == "untrained"
    assert set(new.config.metadata["added"]) == {"allergens"}
    shown = json.loads(run("inspect", folder / "new", "--json"))
    assert shown["types"][-1] == "allergens" and "branches of added types" in shown["parts"]

    verdict = json.loads(run("classify", folder / "1.png", "--adapter", folder / "new", "--json"))
    assert "allergens" in verdict["probabilities"]
    run("train", "--extend", folder / "new", "--remove-type", "allergens", "--out", folder / "again")
    again = read_adapter(folder / "again")
    assert again.config.files == old.config.files
    assert again.guard.thresholds == old.guard.thresholds and again.guard.rules == {}


def test_an_adapter_is_trained_on_with_a_recipe(folder: Path) -> None:
    add(folder)
    data = ("--data", folder / "new.csv")
    with pytest.raises(ConfigError, match="expected --recipe with --extend"):
        run("train", "--extend", folder / "new", *data, "--out", folder / "on")
    run("train", "--extend", folder / "new", *data, "--recipe", folder / "recipe.yaml", "--out", folder / "on")
    before, after = read_adapter(folder / "new"), read_adapter(folder / "on")
    assert after.config.files != before.config.files and after.guard.thresholds == {}
    assert after.guard.design == before.guard.design and after.guard.rules == before.guard.rules


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--new-type", "x"), "expected --data with --new-type, got none"),
        (("--remove-type", "x", "--data", "x.csv"), "expected no --data with --remove-type"),
        (("--remove-type", "x", "--merge", "x"), "one change at a time"),
        (("--remove-type", "x", "--recipe", "x.yaml", "--runs", "x"), "expected none of --recipe, --runs with --remov"),
        (("--merge", "x", "--level", "low"), "expected none of --format or another option of data with --merge"),
        (("--new-type", "x", "--data", "x.csv", "--recipe", "gone.yaml"), r"recipe gone\.yaml not found"),
        (("--new-type", "illegal", "--data", "x.csv"), "illegal not added: .* got one of its first types"),
        (("--remove-type", "x", "--policy", "x"), "expected --new-type with --policy"),
        (("--new-type", "x", "--data", "x.csv", "--skip-bad"), "expected --runs with --skip-bad"),
        (("--new-type", "x", "--data", "x.csv", "--tensorboard"), "expected none of --tensorboard with --extend"),
        (("--new-type", "x", "--data", "x.csv", "--quantize", "nf4"), "expected --model with nf4"),
        ((), "expected --data with --extend"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder: Path, options: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run("train", "--extend", folder / "old", "--out", folder / "x", *options)
    assert not (folder / "x").exists()


def test_a_new_type_needs_an_adapter_to_extend(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected --extend with --new-type"):
        run("train", "--new-type", "x", "--out", folder / "x")


def test_a_type_that_is_there_already_is_said_to_be(folder: Path) -> None:
    add(folder)
    data = ("--data", folder / "new.csv", "--recipe", folder / "recipe.yaml")
    told = run("train", "--extend", folder / "new", "--new-type", "allergens", *data, "--out", folder / "again")
    assert "is a type of" in told and "its branch is trained on" in told
    with pytest.raises(ConfigError, match=r"privacy not added: .*got one of its first types \((?!.*allergen)"):
        run("train", "--extend", folder / "new", "--new-type", "privacy", "--data", "x.csv", "--out", folder / "y")
