"""`safety-modules train`: what it refuses before any work, and training without bad records."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.cli import app
from safety_modules.errors import ConfigError

RECIPE = "stage: {}\nsteps: 2\nbatch_size: 2\nlearning_rate: 1.0e-3\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good records, and one whose picture is truncated."""
    lines = []
    for name, type, level in (("clean", 6, 0), ("risky", 1, 3), ("broken", 6, 0)):
        Image.effect_noise((28, 28), 50).save(tmp_path / f"{name}.png")
        turns = [{"from": "USER", "value": "<image>\nwhat?"}, {"from": "ASSISTANT", "value": "a cup"}]
        lines.append({"image": f"{name}.png", "safe_type": type, "safe_level": level, "conversations": turns})
    broken = tmp_path / "broken.png"
    broken.write_bytes(broken.read_bytes()[:100])
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    for stage in (1, 2):
        (tmp_path / f"stage{stage}.yaml").write_text(RECIPE.format(stage), encoding="utf-8")
    return path


def train(data: Path, *more: object) -> str:
    recipes = [item for stage in (1, 2) for item in ("--recipe", data.parent / f"stage{stage}.yaml")]
    arguments = ["train", "--out", data.parent / "adapter", "--data", data, *recipes, *more]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any) -> None:
    """The tiny base stands in for pocket."""
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))


def test_bad_records_are_left_out_on_request_and_listed(tiny: None, data: Path) -> None:
    runs = data.parent / "runs"
    train(data, "--skip-bad", "--runs", runs)
    (left,) = [json.loads(line) for line in (runs / "left-out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "data.jsonl:3" in left["source"]
    assert "broken.png" in left["reason"]
    assert read_adapter(data.parent / "adapter").config.metadata["records"] == 2
    assert {"stage1", "stage2", "features"} <= {path.name for path in runs.iterdir()}


def test_list_of_bad_records_needs_a_place(tiny: None, data: Path) -> None:
    with pytest.raises(ConfigError, match="expected --runs with --skip-bad"):
        train(data, "--skip-bad")


def test_wrong_recipe_is_refused_before_the_base_is_loaded(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr(pocket, "load", lambda: pytest.fail("loaded"))
    (data.parent / "stage2.yaml").write_text("stage: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="missing key 'steps'"):
        train(data)


def test_help_names_every_option_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['safety-modules', 'train', '--help']\n"
        "from safety_modules.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('heavy:', [n for n in ('torch', 'transformers', 'PIL', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr
    options = ("--data", "--format", "--recipe", "--validation", "--runs", "--skip-bad", "--tensorboard", "--extend")
    assert all(option in done.stdout for option in options)
