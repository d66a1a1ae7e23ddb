"""`safety-modules train --defence davsp`: from labelled records to an adapter, going on, and what is refused first."""

import json
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
from safety_modules.errors import ConfigError, DataError
from safety_modules.pocket import mix

SHORT = ("--steps", 3, "--set", "pictures=6", "--set", "width=3", "--set", "layer=1")


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["train", "--defence", "davsp", *map(str, words)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines, rng = [], np.random.default_rng(0)
    for number in range(12):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(tmp_path / name)
        label = {"safe_type": 1, "safe_level": 3} if number % 2 else {"safe_type": 6, "safe_level": 0}
        turns = [{"from": "USER", "value": "<image>\nwhat is this?"}, {"from": "ASSISTANT", "value": "a cup of tea"}]
        lines.append(json.dumps({"image": name, "conversations": turns, **label}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return tmp_path / "data.jsonl"


def test_what_is_trained_is_saved_with_its_settings_and_goes_on_where_it_was(
    saved_base: Path, model: Any, processor: Any, tmp_path: Path, data: Path
) -> None:
    out, runs = tmp_path / "adapter", tmp_path / "runs"
    options = ("--model", saved_base, "--data", data, "--out", out, "--runs", runs, *SHORT)
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert re.search(r"Direction behind block 1: AUC [01]\.\d\d on pictures", done.output)
    assert "davsp, 3 of 28 pixels, 3 of 3 steps now, on 12 records" in done.output
    adapter = read_adapter(out)
    assert adapter.part("davsp").settings.width == 3 and adapter.part("davsp").settings.size == 28
    about = adapter.config.metadata
    assert about["data"] == ["data.jsonl"] and about["records"] == 12 and about["direction"]["layer"] == 1
    davsp = attach_safety(model, processor, out).defences[0]
    assert davsp.trained and bool((davsp.border != 0).any())
    again = run(*options)
    assert isinstance(again.exception, ConfigError) and "adapter not replaced" in str(again.exception)
    again = run(*options, "--overwrite")
    assert again.exit_code == 0 and "0 of 3 steps now" in again.output


def test_pockets_own_records_have_benign_controls_of_what_is_risky() -> None:
    records = mix.border_records(8)
    kinds = [one.meta["kind"] for one in records]
    assert [kinds.count(kind) for kind in mix.BORDER_KINDS] == [8] * len(mix.BORDER_KINDS)
    assert {kind for kind, one in zip(kinds, records, strict=True) if one.is_risky} == {"attack", "attack_typographic"}
    assert all(one.image is not None and one.meta["style"] == "seen" for one in records)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--model", "m"], ConfigError, "expected --data with these options"),
        (["--captions", "x.json"], ConfigError, "expected none of --captions with --defence"),
        (["--form", "last"], ConfigError, "expected none of --form"),
        (["--cache", "x"], ConfigError, "expected none of --cache"),
        (["--preset", "paper"], ConfigError, "expected none of --preset"),
        (["--recipe", "x.yaml"], ConfigError, "expected none of --recipe"),
        (["--set", "speed=3"], ConfigError, "expected key=value with one of width, size, under, steps"),
        (["--set", "kind=x"], ConfigError, "expected key=value"),
        (["--set", "width=0"], ConfigError, "davsp refused.*width"),
        (["--set", "step_size=2"], ConfigError, "davsp refused.*step_size"),
        (["--data", "none.jsonl"], DataError, "none.jsonl"),
    ],
)
def test_what_cannot_be_trained_is_told_before_a_base_is_loaded(
    words: list[str], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_modules.cli import border

    monkeypatch.setattr(border, "load_base", lambda *_: pytest.fail("a base was loaded"))
    done = run("--out", tmp_path / "a", *words)
    assert isinstance(done.exception, kind), done.output
    assert re.search(message, str(done.exception)), str(done.exception)
    assert not (tmp_path / "a").exists()
