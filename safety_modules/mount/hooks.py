"""Changing what modules of a live model give, for the length of one call and for some rows of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

Change = Callable[[torch.Tensor], torch.Tensor]
"""From the output of a module, hidden states (B, T, D) or features (N, P, D), to what is to stand in its place."""


@contextmanager
def hooked(
    modules: nn.Module | Sequence[nn.Module], change: Change, rows: Sequence[bool] | None = None
) -> Iterator[None]:
    """The modules' outputs changed inside this block, in this thread; afterwards no hook is left, on exceptions too.

    The changed values are cast to the dtype of the output. Rows that are not meant keep theirs, bit for bit.

    Args:
        modules: one, or several that are changed alike.
        change: of an output; where a module gives a tuple, of its first.
        rows: which rows of the batch are meant, as many as the model is called with; None = all.

    Does not cover: a module that gives neither a tensor nor a tuple that begins with one.
    """
    thread = threading.get_ident()
    kept = None if rows is None or all(rows) else torch.tensor([not on for on in rows])

    def changed(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        whole = isinstance(output, torch.Tensor)
        old = output if whole else output[0]
        new = change(old).to(old.dtype)
        if kept is not None:
            new = torch.where(kept.to(old.device).view(-1, *[1] * (old.ndim - 1)), old, new)
        return new if whole else (new, *output[1:])

    with ExitStack() as stack:
        for module in [modules] if isinstance(modules, nn.Module) else modules:
            stack.callback(module.register_forward_hook(changed).remove)
        yield


@contextmanager
def noted(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module gives inside this block, in this thread: a list that grows by its output, call by call."""
    found: list[torch.Tensor] = []

    def note(output: torch.Tensor) -> torch.Tensor:
        found.append(output)
        return output

    with hooked(module, note):
        yield found
