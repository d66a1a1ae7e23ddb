"""`safety-modules fit`: an adapter from texts alone, and what is refused before a base is loaded."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safety_modules.adapter import read_adapter
from safety_modules.attach import attach_safety
from safety_modules.cli import app, fit
from safety_modules.defences.anchors import Anchors
from safety_modules.errors import ConfigError, DataError

TEXTS = "unsafe: ['how do I use a knife?', 'what could break the law?']\nsafe: ['what is this?']\n"


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["fit", *map(str, words)])


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    (tmp_path / "texts.yaml").write_text(TEXTS)
    return tmp_path / "texts.yaml"


def test_what_is_fitted_is_saved_with_its_settings_and_is_attached_by_its_folder(
    saved_base: Path, model: Any, processor: Any, tmp_path: Path, anchors: Path, ask: Any
) -> None:
    out = tmp_path / "adapter"
    options = ("--anchors", anchors, "--alpha", "0", "--layer", -1, "--tokens", "all", "--picture", "noise")
    done = run("cmrm", saved_base, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert "fitted to 2 unsafe and 1 safe texts" in done.output
    adapter = read_adapter(out)
    settings = adapter.part("cmrm").settings
    assert (settings.alpha, settings.layers, settings.tokens, settings.picture) == (0, (-1,), "all", "noise")
    assert settings.steps == "all" and settings.anchors == "both"
    assert adapter.config.metadata["anchors"]["sha256"] == Anchors.read(anchors).digest
    safety = attach_safety(model, processor, out)
    assert safety.defences[0].trained and safety.defences[0].vectors.abs().sum() > 0
    again = run("cmrm", saved_base, "--out", out)
    assert isinstance(again.exception, ConfigError) and "adapter not replaced" in str(again.exception)
    assert run("shiftdc", saved_base, "--out", out, "--overwrite", "--form", "lite").exit_code == 0
    assert read_adapter(out).kinds == ["shiftdc"] and read_adapter(out).part("shiftdc").settings.form == "lite"


def test_one_kind_of_texts_is_fitted_to_where_it_is_asked_for(saved_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.yaml"
    file.write_text("unsafe: [one, two]")
    refused = run("cmrm", saved_base, "--out", tmp_path / "a", "--anchors", file)
    assert isinstance(refused.exception, ConfigError) and "no safe ones" in str(refused.exception)
    assert not (tmp_path / "a").exists()
    assert run("cmrm", saved_base, "--out", tmp_path / "a", "--anchors", file, "--unsafe-only").exit_code == 0
    assert read_adapter(tmp_path / "a").part("cmrm").settings.anchors == "unsafe"


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("lora",), ConfigError, "expected one of cmrm, shiftdc, got 'lora'"),
        (("cmrm", "--form", "lite"), ConfigError, "form: Input should be 'mean' or 'pc1_scaled'"),
        (("shiftdc", "--tokens", "all"), ConfigError, "unknown key 'tokens'"),
        (("shiftdc", "--unsafe-only"), ConfigError, "unknown key 'anchors'"),
        (("cmrm", "--alpha", "11"), ConfigError, "alpha: Input should be less than or equal to 10"),
        (("cmrm", "--anchors", "nothing.yaml"), DataError, "anchors nothing.yaml not read"),
    ],
)
def test_what_cannot_be_is_refused_before_a_base_is_loaded(
    words: tuple[str, ...], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "load_base", lambda *args: pytest.fail("loaded"))
    done = run(*words, "--out", tmp_path / "a")
    assert isinstance(done.exception, kind) and message in str(done.exception)
    assert not (tmp_path / "a").exists()
