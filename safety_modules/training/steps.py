"""One loop for trainings that are no `Trainer`'s: step by step, with checkpoints that it goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from safety_modules.backbones import Backbone
from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.io.files import write_whole
from safety_modules.io.progress import track
from safety_modules.io.run_manifest import begin_run

NOTE, STATE = "run.json", "state.safetensors"


class Kept(NamedTuple):
    """What a training goes on from: tensors by name, and words by name; `step` among these says how far it is."""

    tensors: dict[str, torch.Tensor]
    words: dict[str, str]


class InSteps(Protocol):
    """A training, a step at a time.

    Attributes:
        what: for messages.
        advice: what to do where the loss is no longer a number: a sentence.
        backbone: the base, locked during each step.
    """

    what: str
    advice: str
    backbone: Backbone

    def step(self, number: int) -> float:
        """Do one, counted from 0; gives its loss."""

    def kept(self) -> Kept:
        """What it goes on from."""

    def take(self, kept: Kept) -> None:
        """Take up what `kept` gave; a damaged one raises KeyError, TypeError, ValueError or RuntimeError."""


def begin_steps(training: InSteps, runs: Path | None, key: Mapping[str, Any]) -> int:
    """Begin a run in a folder, or go on with it.

    Args:
        training: takes up what an earlier call kept.
        runs: the folder; None = nothing is kept.
        key: what must be the same, see `io.run_manifest`.

    Returns:
        Steps done before.

    Raises:
        ConfigError: the folder holds another run, or a damaged checkpoint.
    """
    if runs is None:
        return 0
    begin_run(runs / NOTE, key)
    path = runs / STATE
    if not path.exists():
        return 0
    try:
        with safetensors.safe_open(path, "pt") as file:
            words = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        done = int(words["step"])
        training.take(Kept(tensors, words))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"run damaged: expected a checkpoint of a {training.what} in {path}, got {error}. Delete the file: the run "
            "begins anew."
        ) from error
    return done


def train_steps(
    training: InSteps, done: int, steps: int, runs: Path | None, keep_every: int, progress: bool
) -> list[float]:
    """Train from step `done` on; where there is a folder, with a checkpoint every so many steps and at the end.

    Returns:
        The loss of each step of this call.

    Raises:
        SafetyModulesError: one is no longer a number.
    """
    losses = list[float]()
    with track(training.what, steps - done, enabled=progress) as advance:
        for number in range(done, steps):
            with training.backbone.lock:
                losses.append(training.step(number))
            if not np.isfinite(losses[-1]):
                raise SafetyModulesError(
                    f"training diverged at step {number + 1}: expected a number as loss, got {losses[-1]}. "
                    f"{training.advice}"
                )
            if runs is not None and ((number + 1) % keep_every == 0 or number + 1 == steps):
                _keep(training, runs / STATE, number + 1)
            advance(1)
    return losses


def _keep(training: InSteps, path: Path, step: int) -> None:
    tensors, words = training.kept()
    whole = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    raw = safetensors.torch.save(whole, words | {"step": str(step)})
    write_whole(path, lambda file: file.write(raw))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's state as tensors by name."""
    return {
        f"optimizer.{place}.{name}": torch.as_tensor(one)
        for place, kept in optimizer.state_dict()["state"].items()
        for name, one in kept.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take up what `optimizer_tensors` gave; other names are passed over."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, one in tensors.items():
        if name.startswith("optimizer."):
            _, place, what = name.split(".")
            state.setdefault(int(place), {})[what] = one
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def check_precision(backbone: Backbone, what: str) -> None:
    """Raises ConfigError for a base in float16."""
    if backbone.model.dtype == torch.float16:
        raise ConfigError(
            f"{what} not trained: expected a base in bfloat16 or float32, got float16, where small gradients vanish. "
            "Load it in bfloat16 (--dtype bfloat16)."
        )


def base_key(backbone: Backbone) -> dict[str, Any]:
    """What of the base must be the same for a run to go on."""
    return {
        "base": backbone.fingerprint(),
        "pixels": backbone.pixel_settings(),
        "precision of the base": str(backbone.model.dtype),
    }
