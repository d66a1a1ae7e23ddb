"""Training in many processes (`accelerate launch`): who this one is, waiting for the others, sharing a step."""

import math
import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from safety_modules.errors import ConfigError
from safety_modules.training.recipe import Recipe


def join(device: torch.device) -> None:
    """Meet the other processes, if a launcher started several (gloo on the CPU)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A base that is to be sharded waits in the CPU's memory, whatever device will train.
        waits = parse_flag_from_env("ACCELERATE_USE_FSDP") and not parse_flag_from_env("ACCELERATE_USE_CPU")
        PartialState(cpu=device.type == "cpu" and not waits)


def count() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _met() else 1


def rank() -> int:
    """Number of this one; 0 writes the files."""
    return torch.distributed.get_rank() if _met() else 0


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        torch.distributed.barrier()


def total(values: list[int], device: torch.device) -> list[int]:
    """Sums over all processes."""
    if count() == 1:
        return values
    tensor = torch.tensor(values, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def share(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Batch size and gradient accumulation of each process, so that a step has the recipe's samples, whoever runs it.

    The forward passes of a step are shared out; where they do not divide, each pass is split.

    Raises:
        ConfigError: neither divides.
    """
    passes = math.gcd(recipe.gradient_accumulation, processes)
    parts = processes // passes
    if recipe.batch_size % parts:
        raise ConfigError(
            f"step not shared: expected {recipe.gradient_accumulation} x {recipe.batch_size} samples "
            f"(gradient_accumulation x batch_size) to divide among the processes, got {processes} of them. "
            "Change one of the three."
        )
    return recipe.batch_size // parts, recipe.gradient_accumulation // passes


def _met() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
