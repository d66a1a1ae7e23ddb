"""A frozen base spread over processes: torch's FSDP2 (arXiv 2304.11277) on its blocks. What is trained stays whole.

A base that does not fit on one device can then be trained on: each process holds its part of every block and borrows
the others' while the block runs. Modules and LoRA are a thousandth of the base: every process has all of them, and
their gradients are averaged, as without FSDP.
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
from safety_modules.training import processes

_ASKED = "ACCELERATE_USE_FSDP"


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
    if not parse_flag_from_env(_ASKED):
        yield
        return
    plugin = FullyShardedDataParallelPlugin()  # reads what the launcher was configured with
    if getattr(plugin, "fsdp_version", 1) != 2:
        raise ConfigError(
            "base not sharded: expected fsdp_version: 2, got 1, which cannot keep frozen and trained parameters apart. "
            "Use training/accelerate/fsdp.yaml (accelerate >= 1.6, torch >= 2.6)."
        )
    spread = {parameter for parameter in backbone.blocks.parameters() if not hasattr(parameter, "placements")}
    if any(parameter.is_meta or not parameter.is_floating_point() for parameter in spread):
        raise ConfigError(
            "base not sharded: expected plain weights in memory, got quantised or offloaded ones. Load it without "
            "device_map; a quantised base is small: train on it with training/accelerate/multi-gpu.yaml."
        )
    if processes.count() > 1 and spread:
        _shard(backbone, plugin)
    asked = os.environ[_ASKED]
    # Heard and done: transformers' Trainer would spread what is trained, and nothing else.
    os.environ[_ASKED] = "false"
    try:
        yield
    finally:
        os.environ[_ASKED] = asked


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
    whole = {parameter for parameter in model.parameters() if not hasattr(parameter, "placements")}
    fully_shard(model, reshard_after_forward=False, ignored_params=whole, **options)
    for tensor in chain(backbone.model.parameters(), backbone.model.buffers()):
        if not hasattr(tensor, "placements"):
            tensor.data = tensor.data.to(device)
