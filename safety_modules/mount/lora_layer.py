"""What a linear with LoRA computes where nobody wants gradients: the sum of peft's layer, in fewer operations.

One token through one linear is so little work that calls weigh more than arithmetic: peft's `forward` goes through
dropout, casts, a loop over adapters and a product with the scale, seven times a block. Here it is two products and one
sum, or, with merged weights, the linear's own product alone. Training, and whatever else needs more, gets peft's.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from safety_modules.backbones.weights import state_of

ADAPTER = "safety"

_COMBINED: dict[type, type] = {}


class InferenceLora:
    """What is put before a class of peft's LoRA layers, whichever of them it is (plain, 4 bit, 8 bit).

    Attributes:
        merged_weight: W + alpha/r * B A in the base's dtype, used if LoRA acts on all rows; None = not merged.
    """

    merged_weight: torch.Tensor | None = None

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As peft's: the linear's output for x (..., inputs) plus scale * B A x."""
        if torch.is_grad_enabled() or self.training or self.disable_adapters or args or kwargs:
            self.merged_weight = None  # a step may follow that trains what it was made of
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        scale = self.scaling[ADAPTER]
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        by_row = isinstance(scale, torch.Tensor)
        if self.merged_weight is not None and not by_row:
            return F.linear(x, self.merged_weight, self.base_layer.bias)
        low = F.linear(x.to(a.dtype), a)  # (..., r)
        if by_row:
            return self.base_layer(x).add_(F.linear(low * scale, b))
        return self.base_layer(x).add_(F.linear(low, b), alpha=scale)


def at_inference(layer: Any) -> None:
    """Let one of peft's LoRA layers compute as `InferenceLora` says."""
    kind = type(layer)
    if kind not in _COMBINED:
        _COMBINED[kind] = type(kind.__name__, (InferenceLora, kind), {"__module__": kind.__module__})
    layer.__class__ = _COMBINED[kind]


class MergedWeights:
    """Copies of a language model's linears with LoRA added in, made when first asked for; the base's stay untouched.

    They cost the memory of the linears. One is made anew once the linear or its LoRA changed.

    Does not cover: values that were changed through `tensor.data`, which torch keeps no count of.
    """

    def __init__(self) -> None:
        self._made: dict[nn.Module, tuple[tuple[Any, ...], torch.Tensor]] = {}

    @torch.no_grad()
    def of(self, layer: Any) -> torch.Tensor | None:
        """The merged weight of a LoRA layer; None where there can be none.

        That is: over another adapter, quantised or offloaded weights, sharded ones, and linears that somebody hooked.
        """
        linear = layer.base_layer
        if not _is_plain(linear):
            return None
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        scale, state = layer.scaling[ADAPTER], (*map(state_of, (linear.weight, a, b)),)
        if layer in self._made and self._made[layer][0] == state:
            return self._made[layer][1]
        self._made.pop(layer, None)  # its memory first
        weight = torch.addmm(linear.weight.to(a.dtype), b, a, alpha=scale).to(linear.weight.dtype)
        self._made[layer] = state, weight
        return weight

    def clear(self) -> None:
        """Free their memory."""
        self._made.clear()


def _is_plain(linear: nn.Module) -> bool:
    if type(linear) is not nn.Linear or "forward" in vars(linear):
        return False
    hooked = linear._forward_hooks or linear._forward_pre_hooks
    return not (hooked or linear.weight.is_meta or hasattr(linear.weight, "placements"))
