"""Memory for time: activations of the language model computed again in the backward pass (arXiv 1604.06174)."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from safety_modules.errors import ConfigError

FLAG, FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


@contextmanager
def activation_checkpointing(language_model: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside this block the language model's blocks keep their inputs only; afterwards the model is as it was.

    transformers' own switch would leave a function in every block, and hooks on a model with an adapter.

    Args:
        language_model: of transformers.
        on: False = nothing happens.

    Raises:
        ConfigError: it has no blocks that can.
    """
    blocks = [part for part in language_model.modules() if hasattr(part, FLAG)] if on else []
    if on and not blocks:
        raise ConfigError(
            f"no activation checkpointing: expected a language model that supports it, got "
            f"{type(language_model).__name__}. Take activation_checkpointing out of the recipe."
        )
    before: list[dict[str, Any]] = []
    for block in blocks:
        own = vars(block)
        before.append({name: own[name] for name in (FLAG, FUNCTION) if name in own})
        own[FLAG], own[FUNCTION] = True, functools.partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for block, known in zip(blocks, before, strict=True):
            for name in (FLAG, FUNCTION):
                vars(block).pop(name, None)
            vars(block).update(known)
