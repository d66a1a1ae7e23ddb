"""Recipes: the shipped ones, and every way a file can be wrong."""

from pathlib import Path

import pytest

from safety_modules.errors import ConfigError
from safety_modules.paths import recipe_dir
from safety_modules.training.recipe import Recipe

GOOD = "stage: 1\nsteps: 10\nbatch_size: 4\nlearning_rate: 1.0e-3\n"


def refuse(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.from_yaml(path)
    return str(caught.value)


@pytest.mark.parametrize("stage", [1, 2])
def test_shipped_recipe_is_valid_and_names_its_command(stage: int) -> None:
    path = recipe_dir() / f"stage{stage}.yaml"
    assert Recipe.from_yaml(path).stage == stage
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert "#   safety-modules train --out DIR" in header


def test_unknown_key_is_an_error_that_names_the_nearest_valid_one(tmp_path: Path) -> None:
    assert "unknown key 'learning_rat': did you mean 'learning_rate'?" in refuse(tmp_path, GOOD + "learning_rat: 1\n")


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    message = refuse(tmp_path, "stage: 3\nsteps: 0\nbatch: 4\nlearning_rate: 1.0e-3\n")
    assert all(part in message for part in ("stage:", "steps:", "missing key 'batch_size'", "key 'batch'"))


def test_repeated_key_is_an_error(tmp_path: Path) -> None:
    assert "key 'steps' appears twice" in refuse(tmp_path, GOOD + "steps: 20\n")
    assert "key 1 appears twice" in refuse(tmp_path, GOOD + "seed: {1: 2, 1: 3}\n")


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [\n", "!!python/object:os.system {}\n"])
def test_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    assert "recipe" in refuse(tmp_path, text)


def test_stage_1_refuses_what_only_stage_2_knows(tmp_path: Path) -> None:
    assert "stage 1 does not know hint_rate" in refuse(tmp_path, GOOD + "hint_rate: 0.5\n")


def test_stage_1_without_a_loss_is_refused(tmp_path: Path) -> None:
    assert "trains the head" in refuse(tmp_path, GOOD + "type_weight: 0\nlevel_weight: 0\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("patience: 2\n", "patience counts measurements"),
        ("evaluate_every: 11\n", "evaluate_every cannot be more than steps"),
        ("activation_checkpointing: true\n", "stage 1 does not know activation_checkpointing"),
        ("precision: float16\n", "precision"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refuse(tmp_path, GOOD + lines)


def test_best_head_of_a_stage_that_trains_none_is_refused(tmp_path: Path) -> None:
    stage_2 = GOOD.replace("stage: 1", "stage: 2") + "type_weight: 0\nlevel_weight: 0\nevaluate_every: 5\n"
    assert "evaluate_every measures the head" in refuse(tmp_path, stage_2)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe .*gone\.yaml not read"):
        Recipe.from_yaml(tmp_path / "gone.yaml")


def test_overrides_replace_values_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert Recipe.from_yaml(path, steps=3, batch_size=2).samples == 6
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        Recipe.from_yaml(path, step=3)
