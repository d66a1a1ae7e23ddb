"""The recipes for LLaVA-1.5-7B and -13B: valid, their commands exact, and within the memory they promise."""

import copy
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from scripts import parse, program

from safety_modules import attach_safety
from safety_modules.backbones.bases import published_config
from safety_modules.cli import app
from safety_modules.config import SafetyConfig
from safety_modules.errors import ConfigError
from safety_modules.paths import recipe_file, shipped_path
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.plan import Setting, stage_resources
from safety_modules.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for size in ("7b", "13b") for path in (ROOT / "training" / f"llava-1.5-{size}").glob("*.yaml"))
LAUNCHERS = sorted((ROOT / "training" / "accelerate").glob("*.yaml"))
WRITTEN = [*RECIPES, *LAUNCHERS, *(ROOT / "training").glob("llava-1.5-*/README.md")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "training"))


def commands(path: Path) -> list[list[str]]:
    """Every command of ours that a file shows, as words; a line that ends in a backslash goes on."""
    text = re.sub(r"\\\n#? *", "", path.read_text(encoding="utf-8"))
    ours = r"accelerate launch .*-m safety_modules|safety-modules|python benchmarks/plan\.py"
    lines = re.findall(rf"^#? {{3,}}((?:{ours}) .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def arguments(words: list[str]) -> list[str]:
    start = words.index("safety_modules") + 1 if "safety_modules" in words else 1
    return words[start:]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_is_valid_and_shows_its_command(path):
    recipe = Recipe.from_yaml(path)
    assert recipe.stage == int(re.search(r"stage(\d)", path.name)[1])
    shown = [arguments(words)[0] for words in commands(path)]
    assert {"train", "benchmarks/plan.py"} <= set(shown)
    assert all(f"{path.parent.name}/{path.stem}" in words for words in commands(path))


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_a_shown_command_is_one_the_command_line_takes(path):
    for words in commands(path):
        rest = arguments(words)
        for option, word in pairwise(rest):
            if option == "--recipe":
                recipe_file(word)
        parse(*((program(rest[0]), rest[1:]) if words[0] == "python" else (app, rest)))
        if "--config_file" in words:
            place = words.index("--config_file") + 1
            asked = " ".join(words[place : place + 3])
            assert shipped_path(re.fullmatch(r"\$\(safety-modules path ([\w/-]+)\)", asked)[1]) in LAUNCHERS


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_accelerate_reads_the_configuration(path):
    known = load_config_from_file(str(path))
    assert known.distributed_type == yaml.safe_load(path.read_text(encoding="utf-8"))["distributed_type"]


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_the_data_mix_is_the_methods(size):
    folder = ROOT / "training" / f"llava-1.5-{size}"
    first, second = (Recipe.from_yaml(folder / f"stage{stage}.yaml") for stage in (1, 2))
    assert first.clean_share == pytest.approx(3 / 14, abs=0.005)
    assert second.clean_share == pytest.approx(89 / 100, abs=0.005)
    assert second.samples == pytest.approx(3 * 100_000, rel=0.01)
    assert second.warmup_steps == 300


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_stage_2_with_qlora_fits_in_16_gb(size):
    recipe = Recipe.from_yaml(ROOT / "training" / f"llava-1.5-{size}" / "stage2-qlora.yaml")
    needed = stage_resources(published_config(f"llava-1.5-{size}"), SafetyConfig(), recipe, Setting(quantise="nf4"))
    print(f"{needed.total / 1e9:.2f} GB")
    assert needed.total < 16e9 - 1.5e9  # room for the CUDA context and gaps


def test_a_base_in_float16_as_published_checkpoints_are_is_not_trained_on(tiny_base, processor):
    safety = attach_safety(copy.deepcopy(tiny_base).to(torch.float16), processor)
    recipe = Recipe(stage=2, steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(ConfigError, match=r"got float16.*--dtype bfloat16"):
        SafetyObjective(safety, recipe)


@pytest.mark.slow
def test_recipes_run_on_a_base_of_the_7bs_width(tmp_path):
    """Both stages, saving and loading; one block, one step, one sample."""
    command = [sys.executable, "benchmarks/dry_run.py", "--steps", "1", "--batch-size", "1", "--pictures", "4"]
    done = subprocess.run([*command, "--json", str(tmp_path / "found.json")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["largest_change_by_saving"] < 0.02
    for stage in ("stage1", "stage2"):
        assert all(loss > 0 for loss in found[stage]["losses"])
