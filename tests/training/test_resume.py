"""A run that is killed, at whatever moment, goes on with the same call to the very same weights.

Each run is a process of its own that kills itself (SIGKILL) at its n-th event; events are all that Python reports of
files in the run's folder (opening, renaming, removing, making folders), every batch of the tower and every training
step.
"""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from safety_modules import SafetyConfig, attach_safety, train_safety
from safety_modules.config import LoraSettings
from safety_modules.records import Record
from safety_modules.training import features, trainer
from safety_modules.training.recipe import Recipe

SMALL = SafetyConfig(
    width=16, num_head_tokens=2, num_lm_tokens=2, attention_heads=2, lora=LoraSettings(r=2, dropout=0.1)
)
RESULT, EVENTS = "result.safetensors", "events"


def recipes(steps: int, save_every: int) -> list[Recipe]:
    """Both stages with everything random switched on."""
    common = {"steps": steps, "batch_size": 4, "learning_rate": 3e-3, "save_every": save_every, "log_every": 1}
    noise = {"feature_noise": 0.1, "patch_dropout": 0.5}
    return [
        Recipe(stage=1, **common, **noise),
        Recipe(stage=2, **common, **noise, text_only_share=0.2, answer_tokens=2, evaluate_every=save_every),
    ]


def records() -> list[Record]:
    """With pictures of noise; the text-only one is answered by the base itself."""
    found = []
    for seed in range(9):
        pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        type, level = (("clean", "safe"), ("illegal", "high"), ("privacy", "low"))[seed % 3]
        answer = "a cup" if type == "clean" else None
        found.append(
            Record(image=Image.fromarray(pixels), question="what is this?", answer=answer, type=type, level=level)
        )
    return [*found, Record(image=None, question="a knife?", answer=None, type="clean", level="safe")]


def run(base: Path, folder: Path, steps: int, save_every: int, kill_at: int) -> None:
    """One process: train, save, and note the number of events; or die at event number `kill_at`."""
    torch.set_num_threads(1)
    seen = 0

    def event() -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name.split(".")[0] in ("open", "os", "shutil") and str(folder) in str(arguments[:2]):
            event()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            event()
            return function(*args, **kwargs)

        return call

    features.SHARD_ROWS = 3
    features._run_tower = counted(features._run_tower)
    trainer.SafetyTrainer.training_step = counted(trainer.SafetyTrainer.training_step)
    sys.addaudithook(audit)
    model = LlavaForConditionalGeneration.from_pretrained(base).eval()
    safety = attach_safety(model, AutoProcessor.from_pretrained(base), config=SMALL)
    train_safety(safety, records(), recipes(steps, save_every), records(), folder / "run", progress=False)
    save_file({name: parameter.detach() for name, parameter in safety.named_parameters()}, folder / RESULT)
    (folder / EVENTS).write_text(str(seen), encoding="utf-8")


@pytest.fixture(scope="module")
def start(tiny_base: Any, processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Runs the process to its end, and returns its exit code."""
    # Not fork: a copy of a process with threads may hang. The server imports once and forks before any thread is there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["safety_modules.training.train", __name__])
    base = tmp_path_factory.mktemp("base")
    tiny_base.save_pretrained(base)
    processor.save_pretrained(base)

    def call(folder: Path, steps: int, save_every: int, kill_at: int = 0) -> int:
        folder.mkdir(exist_ok=True)
        process = context.Process(target=run, args=(base, folder, steps, save_every, kill_at))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode

    return call


def survive(start: Callable[..., int], tmp_path: Path, steps: int, save_every: int, runs: int, kills: int) -> None:
    """Each of the runs is killed at random points of what it had left, then ends like the one that was not."""
    whole = tmp_path / "whole"
    assert start(whole, steps, save_every) == 0
    expected, events = load_file(whole / RESULT), int((whole / EVENTS).read_text(encoding="utf-8"))
    rng = random.Random(0)
    for number in range(runs):
        folder = tmp_path / str(number)
        for _ in range(kills):
            # The runs share out the length between them, so that each part of it sees a kill.
            begin, end = events * number // runs, events * (number + 1) // runs
            start(folder, steps, save_every, kill_at=rng.randint(begin + 1, end))
        assert start(folder, steps, save_every) == 0
        found = load_file(folder / RESULT)
        assert all(torch.equal(found[name], expected[name]) for name in expected), f"run {number} ended elsewhere"


def test_killed_runs_end_with_the_very_same_weights(start: Callable[..., int], tmp_path: Path) -> None:
    survive(start, tmp_path, steps=4, save_every=2, runs=2, kills=1)


@pytest.mark.slow
def test_runs_killed_again_and_again_end_with_the_very_same_weights(start: Callable[..., int], tmp_path: Path) -> None:
    survive(start, tmp_path, steps=10, save_every=3, runs=20, kills=3)


def test_finished_run_is_not_trained_again(start: Callable[..., int], tmp_path: Path) -> None:
    """Killed after the training, before the adapter was saved: the weights are there at once."""
    folder = tmp_path / "run"
    assert start(folder, 2, 1) == 0
    expected, first = load_file(folder / RESULT), int((folder / EVENTS).read_text(encoding="utf-8"))
    assert start(folder, 2, 1) == 0
    assert int((folder / EVENTS).read_text(encoding="utf-8")) < first / 2
    found = load_file(folder / RESULT)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
