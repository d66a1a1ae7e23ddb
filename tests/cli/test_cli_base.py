"""Commands load the base as they are told, and calibrate and extend on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from data_samples import row, save, write_csv
from guard_cases import attach_as_trained
from plan import base_config
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from safety_modules.adapter import read_adapter
from safety_modules.cli import app, options
from safety_modules.errors import AdapterError, ConfigError

RECIPE = "stage: 1\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\nclean_share: 0.5\n"
NORM = "model.language_model.norm.weight"
RISKY = {"type": "illegal", "level": "high", "answer": ""}
CLEAN = {"type": "clean", "level": "safe", "answer": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any) -> Path:
    """A base and an adapter on disk, benign and labelled data, and data of a new type."""
    monkeypatch.chdir(tmp_path)
    tiny_base.save_pretrained("base")
    processor.save_pretrained("base")
    options.load_base(Path("base"))
    attach_as_trained(*options.load_base(Path("base"))).save_pretrained("old", "float32")
    for seed in range(20):
        save(tmp_path / f"{seed}.png", seed)
    write_csv(tmp_path / "benign.csv", [row(f"{seed}.png", **CLEAN) for seed in range(14)])
    write_csv(tmp_path / "labelled.csv", [row(f"{s}.png", **(RISKY if s % 2 else CLEAN)) for s in range(14, 20)])
    new = {**RISKY, "type": "allergens"}
    write_csv(tmp_path / "new.csv", [row(f"{seed}.png", **(new if seed % 2 else CLEAN)) for seed in range(8)])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Grows by the dtype of the language model each time a base is loaded."""
    seen: list[torch.dtype] = []
    load = options.load_base

    def noted(*arguments: Any) -> Any:
        base = load(*arguments)
        seen.append(base[0].model.language_model.layers[0].mlp.up_proj.weight.dtype)
        return base

    monkeypatch.setattr(options, "load_base", noted)
    return seen


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def use_everywhere(*base: str) -> None:
    """Extend, calibrate and classify on one base."""
    told = ("--model", "base", *base)
    run("train", "--extend", "old", "--new-type", "allergens", "--data", "new.csv", "--recipe", "recipe.yaml", *told,
        "--out", "new")  # fmt: skip
    run("calibrate", "new", "--benign", "benign.csv", "--data", "labelled.csv", "--max-false-alarm", "0.5", *told)
    adapter = read_adapter("new")
    design = adapter.guard.design
    assert design.added == ("allergens",) and set(adapter.guard.thresholds) == set(design.taxonomy.types)
    assert adapter.config.metadata["calibration"]["images"] == 14
    verdict = json.loads(run("classify", "0.png", "--adapter", "new", "--json", *told))
    assert "allergens" in verdict["probabilities"]


def test_every_command_loads_the_base_in_the_dtype_it_is_told(folder: Path, loaded: list[Any]) -> None:
    use_everywhere("--dtype", "bfloat16")
    assert loaded == [torch.bfloat16] * 3


def test_a_promise_may_be_about_pictures_of_another_day(folder: Path) -> None:
    today = folder / "today"
    today.mkdir()
    for seed in range(100, 200):
        save(today / f"{seed}.png", seed)
    told = ("--model", "base", "--benign", "benign.csv", "--max-false-alarm", "0.5")
    printed = " ".join(run("calibrate", "old", *told, "--like", "today").split())
    assert "the promise is about pictures like the 100 of --like, approximately" in printed
    calibration = read_adapter("old").config.metadata["calibration"]
    assert calibration["like"] == 100 and 5 <= calibration["effective"] <= 14
    run("calibrate", "old", *told)
    assert read_adapter("old").config.metadata["calibration"]["like"] is None


def test_a_checkpoint_that_is_not_a_whole_llava_is_refused_and_not_filled_with_random_numbers(folder: Path) -> None:
    base, weights = folder / "base", folder / "base" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["language_model.model.norm.weight" if "language_model.model.norm.weight" in tensors else NORM]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"base not whole: expected every tensor of base, got none .*norm\.weight"):
        options.load_base(Path("base"))
    weights.unlink()
    with pytest.raises(ConfigError, match="base not loaded: expected weights and a processor in base"):
        options.load_base(Path("base"))
    (base / "config.json").write_text('{"model_type": "llama"}')
    for refused in (lambda: options.load_base(Path("base")), lambda: base_config("base")):
        with pytest.raises(ConfigError, match=r"base not supported: expected a LLaVA-1\.5, .* or .*, got llama"):
            refused()
    (base / "config.json").write_text('{"model_type":')
    with pytest.raises(ConfigError, match="base not supported"):
        base_config("base")


def test_a_place_that_no_adapter_can_be_written_to_is_refused_before_the_base_is_loaded(
    folder: Path, loaded: list[Any]
) -> None:
    loaded.clear()
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").write_text("years of work")
    told = ("--model", "base", "--data", "labelled.csv", "--recipe", "recipe.yaml", "--out", "taken")
    for more in ((), ("--extend", "old")):
        with pytest.raises(AdapterError, match="is not a safety adapter"):
            run("train", *told, *more)
    with pytest.raises(AdapterError, match="no place to write to"):
        run("train", *told[:-1], "labelled.csv/new")
    assert loaded == []


def test_a_file_may_have_brackets_in_its_name(folder: Path) -> None:
    save(folder / "a[/b].png", 1)
    assert "a[/b].png" in run("classify", "a[/b].png", "--model", "base", "--adapter", "old")


def test_an_unknown_dtype_and_a_quantised_pocket_are_refused(folder: Path) -> None:
    for words in (("classify", "0.png"), ("calibrate", "old")):
        with pytest.raises(ConfigError, match="unknown dtype: expected bfloat16 or float32, got 'int3'"):
            run(*words, "--dtype", "int3")
        with pytest.raises(ConfigError, match="llava-pocket stays as it is: expected --model with nf4"):
            run(*words, "--quantize", "nf4")
