"""Training and ablations on llava-pocket itself, from the command line, at a small scale."""

import json
from pathlib import Path

import pytest
from competitors import SYSTEMS
from scripts import invoke
from validation_numbers import cases_of, measure

from safety_modules import pocket
from safety_modules.evaluation.systems import make_system


def run(*arguments: str) -> str:
    done = invoke(*arguments, "--records", "240", "--effort", "0.005", "--calibration", "130")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_the_commands_train_and_measure_on_pocket(tmp_path: Path) -> None:
    run("comparison.py", "train", "--out", str(tmp_path))
    model, processor = pocket.load()
    cases = cases_of(2)
    for name in SYSTEMS:
        system = make_system(f"{name}={tmp_path / 'seed0' / name}", model, processor)
        assert set(measure(system, cases)) == {"seen", "unseen"}
        system.close()
    table = run(
        "ablations.py",
        "--out",
        str(tmp_path),
        "--seeds",
        "1",
        "--only",
        "always",
        "--only",
        "no-hint",
        "--samples",
        "4",
    )
    assert "no-hint" in table
    numbers = json.loads((tmp_path / "ablations" / "ablations.json").read_text())["variants"]
    assert numbers["none"]["seeds"]["0"]["seen"]["asr"] > 0.5
