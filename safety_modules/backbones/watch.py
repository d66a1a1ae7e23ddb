"""Whether a base is still the one that was looked at: by identity, torch's count of writes, and a few numbers."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn

from safety_modules.backbones.weights import adapter_state

_PROBED = 4  # numbers of each tensor: peft merges through tensor.data, which torch keeps no count of


class _Seen(NamedTuple):
    """A tensor, the dictionary that holds it, its name there, and its state."""

    holder: dict[str, Any]
    name: str
    tensor: torch.Tensor
    state: tuple[Any, ...]


class Watch:
    """Notes the tensors and modules below some modules; asking again takes some microseconds each.

    `changed` errs to one side: a base that was moved, cast or wrapped, but computes the same, counts as changed.

    Args:
        modules: what to note.
        above: modules that hold these: only whether they still do.

    Does not cover: single numbers written through `tensor.data`; weights that are offloaded, or were spread over
    processes since.
    """

    def __init__(self, modules: Iterable[nn.Module], above: Iterable[nn.Module] = ()) -> None:
        parts = [part for module in modules for part in module.modules()]
        holders = [part._modules for part in (*parts, *above) if part._modules]
        self._children = [(holder, dict(holder)) for holder in holders]
        self._adapters = [(part, state) for part in parts if (state := adapter_state(part))]
        seen = [
            _Seen(part._parameters, name, tensor, state_of(tensor))
            for part in parts
            for name, tensor in part._parameters.items()
            if not (tensor is None or tensor.is_meta or hasattr(tensor, "placements"))
        ]
        self._seen = sorted(seen, key=lambda one: _kind(one.tensor))
        self._values = self._probe()

    def changed(self) -> bool:
        """Whether anything was replaced, written to, moved, or switched on or off since."""
        return (
            any(now != before for now, before in self._children)
            or any(_differs(one) for one in self._seen)
            or any(adapter_state(part) != state for part, state in self._adapters)
            or not all(map(torch.equal, self._values, self._probe()))
        )

    @torch.no_grad()
    def _probe(self) -> list[torch.Tensor]:
        """A few numbers of every tensor that is where it was, by dtype and device."""
        here = [
            one.tensor for one in self._seen if one.holder.get(one.name) is one.tensor and one.tensor.is_contiguous()
        ]
        return [torch.cat([_few(tensor) for tensor in alike]) for _, alike in groupby(here, _kind)]


def state_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Changes once the tensor does. Those made in torch.inference_mode have no count, and cannot change outside it."""
    return tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version


def _differs(seen: _Seen) -> bool:
    now = seen.holder.get(seen.name)
    if now is seen.tensor:
        return state_of(now) != seen.state
    return now is None or not hasattr(now, "placements")  # spread over processes: the same numbers elsewhere


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tensor.device}"


def _few(tensor: torch.Tensor) -> torch.Tensor:
    count = tensor.numel()
    return tensor.as_strided((min(count, _PROBED),), (max(1, count // _PROBED),))
