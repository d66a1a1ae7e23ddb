"""How much memory and arithmetic a step takes, found by running it without data, on torch's meta device.

The step is the library's own code: what transformers, peft and torch keep for the backward pass is counted as they
keep it, and no formula here has to follow them. Only attention is replaced, by the kernel that GPUs use.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

ATTENTION = "metered"
"""Name of the attention for models that are metered: on the meta device torch would choose one no GPU uses."""


class Metered(NamedTuple):
    """What a step takes.

    Attributes:
        peak: bytes at the highest point, beside those that were there before.
        flops: floating-point operations of matrix products, convolutions and attention.
    """

    peak: int
    flops: int


def metered(step: Callable[[], Any], known: Iterable[torch.Tensor]) -> Metered:
    """Run a step on meta tensors.

    Args:
        step: runs it, backward pass included.
        known: tensors that are there before it, such as parameters and their gradients.

    Does not cover: what a GPU's allocator loses to rounding and gaps, and the workspaces of its libraries.
    """
    meter = _Meter(known)
    with meter:
        step()
    return Metered(meter.peak, meter.flops)


class _Meter(TorchDispatchMode):
    """Counts the bytes of living storages, and operations by torch's own formulas."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen: Any = WeakIdKeyDictionary({tensor.untyped_storage(): True for tensor in known})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf.untyped_storage())
        return result

    def _meet(self, storage: Any) -> None:
        if storage not in self._seen:
            self._seen[storage] = True
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any
) -> tuple[torch.Tensor, None]:
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    causal = bool(getattr(module, "is_causal", True))
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, None, True, 0.0, causal)[0].transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
