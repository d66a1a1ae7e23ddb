"""`safety-modules train --defence tga`: from captions to an adapter, and what is refused before a base is loaded."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from safety_modules.adapter import read_adapter
from safety_modules.attach import attach_safety
from safety_modules.cli import app
from safety_modules.errors import ConfigError, DataError

SHORT = ("--steps", 2, "--set", "batch_size=2", "--set", "answer_tokens=2")


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, words)])


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    items = []
    for number, words in enumerate(("a knife", "a cup of tea", "a table")):
        Image.new("RGB", (28, 28), (80 * number, 9, 9)).save(tmp_path / f"{number}.png")
        items.append({"image": f"{number}.png", "caption": words})
    (tmp_path / "captions.json").write_text(json.dumps(items))
    return tmp_path / "captions.json"


@pytest.mark.parametrize("form", ["queries", "pooled"])
def test_what_is_trained_is_saved_with_its_settings_and_is_attached_by_its_folder(
    saved_base: Path, model: Any, processor: Any, tmp_path: Path, captions: Path, form: str
) -> None:
    out = tmp_path / "adapter"
    own = ("--set", "tokens=3", "--set", "lora.r=2", "--set", "threshold=0.25", "--runs", tmp_path / "runs")
    command = ("--defence", "tga", "--model", saved_base, "--captions", captions, "--form", form, *SHORT, *own)
    for folder, steps in ((out, "2 of 2"), (tmp_path / "again", "0 of 2")):
        done = run(*command, "--out", folder)
        assert done.exit_code == 0, done.output
        assert f"tga, {form}, {steps} steps now, on 3 captions" in done.output
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (out, tmp_path / "again")
    ]
    assert files[0] and files[0] == files[1]
    adapter = read_adapter(out)
    settings = adapter.part("tga").settings
    assert (settings.form, settings.tokens, settings.lora.r, settings.threshold) == (form, 3, 2, 0.25)
    assert settings.lora.target_modules == ("linear_1", "linear_2")
    assert adapter.config.metadata["captions"] == "captions.json" and adapter.config.metadata["records"] == 3
    assert attach_safety(model, processor, out).defences[0].trained
    again = run("--defence", "tga", "--model", saved_base, "--captions", captions, "--out", out)
    assert isinstance(again.exception, ConfigError) and "adapter not replaced" in str(again.exception)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--defence", "guard"], ConfigError, "expected --defence tga or davsp, got 'guard'"),
        (["--captions", "x.json"], ConfigError, "expected --defence tga with --captions"),
        (["--form", "last"], ConfigError, "expected --defence tga with --form"),
        (["--defence", "tga", "--model", "m"], ConfigError, "expected --captions with --model"),
        (["--defence", "tga", "--data", "x"], ConfigError, "expected none of --data with --defence"),
        (["--defence", "tga", "--preset", "paper"], ConfigError, "expected none of --preset"),
        (["--defence", "tga", "--form", "other"], ConfigError, "tga refused.*form"),
        (["--defence", "tga", "--set", "speed=3"], ConfigError, "expected key=value with one of form"),
        (["--defence", "tga", "--set", "lora=3"], ConfigError, "expected lora.r"),
        (["--defence", "tga", "--set", "lora.rank=3"], ConfigError, "tga refused"),
        (["--defence", "tga", "--set", "kind=x"], ConfigError, "expected key=value"),
        (["--defence", "tga", "--captions", "none.json"], DataError, "expected a UTF-8 file"),
    ],
)
def test_what_cannot_be_trained_is_told_before_a_base_is_loaded(
    words: list[str], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safety_modules.cli import transfer

    monkeypatch.setattr(transfer, "load_base", lambda *_: pytest.fail("a base was loaded"))
    done = run("--out", tmp_path / "a", *words)
    assert isinstance(done.exception, kind), done.output
    assert re.search(message, str(done.exception)), str(done.exception)
    assert not (tmp_path / "a").exists()
