"""Two processes on the CPU (gloo), started by accelerate's launcher, train what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed_run.py")
# `accelerate launch --cpu` alone starts one process, whatever --num_processes says: its launcher of several is that of
# GPUs, and the variable keeps each of them on the CPU.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
TOLERANCE = 1e-4
"""Largest difference of a weight after steps of up to 1e-3 each; sums are rounded in another order."""


def start(command: list[Any], folder: Path, base: Path) -> None:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [*map(str, [*command, SCRIPT, base, folder])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_base: Any, processor: Any, tmp_path: Path) -> None:
    tiny_base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    start([sys.executable], tmp_path / "one", tmp_path / "base")
    start([*LAUNCH, "--main_process_port", "0"], tmp_path / "two", tmp_path / "base")
    one = load_file(tmp_path / "one" / "weights-0-of-1.safetensors")
    first, second = (load_file(tmp_path / "two" / f"weights-{rank}-of-2.safetensors") for rank in (0, 1))
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), f"processes disagree: {name}"
        # The bias of the keys has no gradient but rounding, which the optimizer's steps make large.
        if tensor.numel() and not name.endswith("in_proj_bias"):
            assert float((first[name] - tensor).abs().max()) <= TOLERANCE, name
    logs = [json.loads((tmp_path / run / "stage2" / "log.json").read_text(encoding="utf-8")) for run in ("one", "two")]
    assert logs[0][-1].keys() == logs[1][-1].keys()
    # The features lie in one folder, each picture once.
    shards = [json.loads(path.read_bytes()) for path in (tmp_path / "two" / "features").glob("*/*.json")]
    names = [name for shard in shards for name in shard.get("digests", ())]
    assert len(names) == len(set(names)) == 12
