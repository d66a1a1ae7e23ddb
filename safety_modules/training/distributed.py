"""Training in many processes (`accelerate launch`): who this one is, waiting for the others, a base spread over all.

A frozen base that does not fit on one device is spread by torch's FSDP2 (arXiv 2304.11277): each process holds its part
of every block and borrows the others' while the block runs. What is trained, a thousandth of the base, stays whole in
every process, and its gradients are averaged, as without FSDP.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env

from safety_modules.backbones import Backbone
from safety_modules.errors import ConfigError

_FSDP = "ACCELERATE_USE_FSDP"


def join(device: torch.device) -> None:
    """Meet the other processes, if a launcher started several (gloo on the CPU)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A base that is to be sharded waits in the CPU's memory, whatever device will train.
        waits = parse_flag_from_env(_FSDP) and not parse_flag_from_env("ACCELERATE_USE_CPU")
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


def _met() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def sharded_as_launched(backbone: Backbone) -> Iterator[None]:
    """Inside this block the base is spread over the processes, if `accelerate launch` was configured with FSDP.

    Every process has loaded the whole base, best on the CPU: its blocks move to the device one by one, a part of each.
    The base then works in all processes together only (one that generates alone waits for ever), and stays so, for
    later trainings too.

    Raises:
        ConfigError: FSDP 1, DeepSpeed's ZeRO 3, or a base that is quantised or offloaded. The base is as it was.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise ConfigError(
            "base not sharded: expected DeepSpeed's ZeRO 1 or 2, got 3, which would spread what is trained and leave "
            "the base whole. Use training/accelerate/fsdp.yaml, or deepspeed-zero2.yaml there."
        )
    if not parse_flag_from_env(_FSDP):
        yield
        return
    plugin = FullyShardedDataParallelPlugin()  # reads what the launcher was configured with
    if getattr(plugin, "fsdp_version", 1) != 2:
        raise ConfigError(
            "base not sharded: expected fsdp_version: 2, got 1, which cannot keep frozen and trained parameters apart. "
            "Use training/accelerate/fsdp.yaml (accelerate >= 1.6, torch >= 2.6)."
        )
    spread = _whole(backbone.blocks.parameters())
    if any(parameter.is_meta or not parameter.is_floating_point() for parameter in spread):
        raise ConfigError(
            "base not sharded: expected plain weights in memory, got quantised or offloaded ones. Load it without "
            "device_map; a quantised base is small: train on it with training/accelerate/multi-gpu.yaml."
        )
    if count() > 1 and spread:
        _shard(backbone, plugin)
    asked = os.environ[_FSDP]
    # Heard and done: transformers' Trainer would spread what is trained, and nothing else.
    os.environ[_FSDP] = "false"
    try:
        yield
    finally:
        os.environ[_FSDP] = asked


def _shard(backbone: Backbone, plugin: FullyShardedDataParallelPlugin) -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import OffloadPolicy, fully_shard

    device = PartialState().device
    # A group of its own: gradients are averaged in the default one, in an order of their own.
    mesh = DeviceMesh.from_group(torch.distributed.new_group(), device.type)
    options: dict[str, Any] = {"mesh": mesh, "offload_policy": plugin.cpu_offload or OffloadPolicy()}
    for block in backbone.blocks:
        fully_shard(block, reshard_after_forward=plugin.reshard_after_forward, **options)
    model = backbone.language_model
    # Embeddings and norms are asked for outside its forward too, so they stay whole.
    fully_shard(model, reshard_after_forward=False, ignored_params=_whole(model.parameters()), **options)
    for tensor in _whole(chain(backbone.model.parameters(), backbone.model.buffers())):
        tensor.data = tensor.data.to(device)


def _whole(tensors: Iterator[Any]) -> set[Any]:
    """Those that are not spread."""
    return {tensor for tensor in tensors if not hasattr(tensor, "placements")}
