"""Leaving a module's flags as they were found."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint

_CHECKPOINTING = "_gradient_checkpointing_func"


@contextmanager
def flags_restored(module: nn.Module) -> Iterator[None]:
    """Afterwards every `requires_grad` and training flag is as before, whatever happened inside."""
    grads = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """The module without gradients and in evaluation mode inside this block; afterwards as it was.

    Blocks whose activation checkpointing is on keep it: transformers checkpoints only in training mode, so the
    block's own flag stays on (it has no other effect; its dropout is in its parts). Inside, checkpoints are not
    reentrant: the reentrant kind loses LoRA's gradients where a block's input needs none.
    """
    blocks = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    blocks = [part for part in blocks if _CHECKPOINTING in vars(part)]
    functions = [vars(part)[_CHECKPOINTING] for part in blocks]
    with flags_restored(module):
        module.requires_grad_(False)
        module.eval()
        for block in blocks:
            block.training = True
            setattr(block, _CHECKPOINTING, functools.partial(checkpoint, use_reentrant=False))
        try:
            yield
        finally:
            for block, function in zip(blocks, functions, strict=True):
                setattr(block, _CHECKPOINTING, function)
