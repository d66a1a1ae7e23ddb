"""Whether a base is still the one that was looked at: by identity and torch's count of writes, not by its numbers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from safety_modules.backbones.weights import adapter_state


class Watch:
    """Notes the tensors and modules below some modules; asking again takes a fraction of a microsecond each.

    `changed` errs to one side only: a base that was moved, cast or wrapped, but computes the same, counts as changed.

    Args:
        modules: what to note.

    Does not cover: numbers written through `tensor.data`, which torch keeps no count of (peft's merging, which does so,
    is seen by its layers' state); weights that are offloaded, or spread over processes since.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._children: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._tensors: list[tuple[dict[str, Any], str, torch.Tensor, tuple[Any, ...]]] = []
        self._adapters: list[tuple[nn.Module, tuple[Any, ...]]] = []
        for module in modules:
            for part in module.modules():
                if part._modules:
                    self._children.append((part._modules, dict(part._modules)))
                state = adapter_state(part)
                if state:
                    self._adapters.append((part, state))
                for name, tensor in part._parameters.items():
                    if not (tensor is None or tensor.is_meta or hasattr(tensor, "placements")):
                        self._tensors.append((part._parameters, name, tensor, state_of(tensor)))

    def changed(self) -> bool:
        """Whether anything was replaced, written to, moved, or switched on or off since."""
        return (
            any(now != before for now, before in self._children)
            or any(_differs(holder.get(name), tensor, state) for holder, name, tensor, state in self._tensors)
            or any(adapter_state(part) != state for part, state in self._adapters)
        )


def _differs(now: torch.Tensor | None, before: torch.Tensor, state: tuple[Any, ...]) -> bool:
    if now is before:
        return state_of(before) != state
    return now is None or not hasattr(now, "placements")  # spread over processes: the same numbers elsewhere


def state_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Changes once the tensor does. Those made in torch.inference_mode have no count, and cannot change outside it."""
    return tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version
