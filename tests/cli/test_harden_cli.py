"""`safety-modules harden`: a trained adapter gets a second look; going on, and what is refused first."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from safety_modules.adapter import read_adapter
from safety_modules.attach import attach_safety
from safety_modules.cli import app
from safety_modules.errors import ConfigError

SHORT = ("--set", "steps=3", "--set", "batch_size=2", "--set", "rank=2", "--set", "attack_steps=1")


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["harden", *map(str, words)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    lines = ["image,question,answer,type,level"]
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,what is this?,,clean,safe")
    (folder / "data.csv").write_text("\n".join(lines))
    return folder / "data.csv"


def test_an_adapter_gets_a_second_look_and_says_what_is_next(
    saved_base: Path, saved_adapter: Path, model: Any, processor: Any, tmp_path: Path, pictures: Path
) -> None:
    out, runs = tmp_path / "adapter", tmp_path / "runs"
    options = (saved_adapter, "--model", saved_base, "--data", pictures, "--out", out, "--runs", runs, *SHORT)
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert "a second look, 3 of 3 steps now, eps 4 of 255" in done.output
    assert f"calibrate {out} --benign FILE" in re.sub(r"\s+", " ", done.output)
    old, new = read_adapter(saved_adapter), read_adapter(out)
    assert new.guard.design.robust is not None and new.guard.design.robust.rank == 2
    assert new.guard.design.model_copy(update={"robust": None}) == old.guard.design
    assert new.config.metadata["second look"]["steps"] == 3 and "calibration" not in new.config.metadata
    assert attach_safety(model, processor, out).modules.robust is not None
    again = run(*options)
    assert isinstance(again.exception, ConfigError) and "adapter not replaced" in str(again.exception)
    again = run(*options, "--overwrite")
    assert again.exit_code == 0 and "0 of 3 steps now" in again.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m"], "expected --data with these options"),
        (["--set", "speed=3"], "expected key=value with one of rank, eps, attack_steps, steps"),
        (["--set", "eps=0"], "recipe refused.*eps"),
    ],
)
def test_what_cannot_be_trained_is_told_before_a_base_is_loaded(
    words: list[str], message: str, saved_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_modules.cli import harden

    monkeypatch.setattr(harden, "attach", lambda *_: pytest.fail("a base was loaded"))
    done = run(saved_adapter, "--out", tmp_path / "a", *words)
    assert isinstance(done.exception, ConfigError), done.output
    assert re.search(message, str(done.exception)), str(done.exception)
    assert not (tmp_path / "a").exists()
