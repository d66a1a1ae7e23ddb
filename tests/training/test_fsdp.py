"""A base spread over two CPU processes by `accelerate launch` (FSDP 2), with the configuration that users get."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsdp_run
import pytest
import torch
from safetensors.torch import load_file

from safety_modules import attach_safety
from safety_modules.errors import ConfigError
from safety_modules.training.distributed import sharded_as_launched

TESTS = Path(__file__).parent
ACCELERATE = TESTS.parents[1] / "training" / "accelerate"
TOLERANCE = 1e-4
"""Between one process and two: losses are summed in another order, and Adam divides small numbers by small ones."""


def launch(config: str, *args: object, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `fsdp_run.py` as a user would, on a port that is free."""
    launcher = "import sys; from accelerate.commands.accelerate_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", launcher, "launch", "--config_file", str(ACCELERATE / config)]
    command += ["--num_processes", str(processes), "--main_process_port", "0", str(TESTS / "fsdp_run.py")]
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    return subprocess.run(
        [*command, *map(str, args)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture
def folder(tiny_base, processor, make_image, tmp_path) -> Path:
    """A base with data beside it."""
    tiny_base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    lines = []
    for seed in range(8):
        make_image(seed).save(tmp_path / "base" / f"{seed}.png")
        type, level = ((1, 3), (6, 0))[seed % 2]
        turns = [{"from": "USER", "value": "<image>\nwhat is this?"}, {"from": "ASSISTANT", "value": "a cup of tea"}]
        lines.append({"image": f"{seed}.png", "safe_type": type, "safe_level": level, "conversations": turns})
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "base" / "data.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "base"


def check_weights(out: Path, alone) -> None:
    """What two processes trained is what one did."""
    trained = load_file(out / "trained.safetensors")
    for name, parameter in alone.named_parameters():
        # The keys' bias shifts all attention logits alike: its gradient is rounding, which Adam makes as large as any.
        if not name.endswith("in_proj_bias"):
            assert torch.allclose(trained[name], parameter, atol=TOLERANCE, rtol=0), name


@pytest.mark.slow
def test_training_on_a_base_spread_over_two_processes_is_that_of_one(folder, tiny_base, tmp_path):
    done = launch("fsdp.yaml", folder, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    check_weights(tmp_path, fsdp_run.train(folder, tmp_path / "alone"))
    blocks = sum(parameter.numel() for parameter in tiny_base.model.language_model.layers.parameters())
    assert json.loads((tmp_path / "held.json").read_text()) <= 0.51 * blocks
    before = dict(tiny_base.named_parameters())
    for name, tensor in load_file(tmp_path / "base.safetensors").items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"


@pytest.mark.slow
def test_training_with_deepspeed_in_two_processes_is_that_of_one(folder, tmp_path):
    pytest.importorskip("deepspeed")
    done = launch("deepspeed-zero2.yaml", folder, tmp_path, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    check_weights(tmp_path, fsdp_run.train(folder, tmp_path / "alone"))


def test_zero_3_is_refused(model, processor, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    backbone = attach_safety(model, processor).backbone
    with pytest.raises(ConfigError, match="ZeRO 1 or 2, got 3"), sharded_as_launched(backbone):
        pass


def test_without_a_launcher_nothing_is_spread(model, processor, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    before = dict(model.named_parameters())
    with sharded_as_launched(attach_safety(model, processor).backbone):
        pass
    assert all(before[name] is parameter for name, parameter in model.named_parameters())


@pytest.mark.parametrize(("version", "spoilt", "words"), [("1", False, "fsdp_version: 2, got 1"), ("2", True, "plain")])
def test_what_cannot_be_spread_is_refused_before_anything_moves(model, processor, monkeypatch, version, spoilt, words):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    backbone = attach_safety(model, processor).backbone
    if spoilt:  # as bitsandbytes packs it
        linear = model.model.language_model.layers[0].mlp.up_proj
        linear.weight = torch.nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match=words), sharded_as_launched(backbone):
        pass
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())


def test_what_the_launcher_asked_for_still_stands_after_a_training(model, processor, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    backbone = attach_safety(model, processor).backbone
    with pytest.raises(KeyError), sharded_as_launched(backbone):
        assert os.environ["ACCELERATE_USE_FSDP"] == "false", "transformers' Trainer would spread what is trained"
        raise KeyError
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
