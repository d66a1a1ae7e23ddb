"""Muon (Jordan et al. 2024) in fp32, batched by shape, with AdamW for what is not a matrix.

`torch.optim.Muon` orthogonalises in bfloat16, one matrix at a time; on a CPU without bf16 instructions that costs more
than the rest of the step. Used only to build pocket.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards U V^T of each matrix; (N, rows, cols) -> same shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Matrices of `hidden` move along orthogonalised momentum, everything else by AdamW; one learning rate for both."""

    def __init__(self, hidden: Iterable[nn.Parameter], other: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(list(other), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
        groups = defaultdict(list)
        for parameter in hidden:
            groups[tuple(parameter.shape)].append(parameter)
        self.hidden = list(groups.values())
        self.momentum = [[torch.zeros_like(p) for p in group] for group in self.hidden]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"momentum": self.momentum}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "momentum"})
        for group, saved in zip(self.momentum, state_dict["momentum"], strict=True):
            torch._foreach_copy_(group, saved)

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        super().step(closure)
        lr, decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        for group, momenta in zip(self.hidden, self.momentum, strict=True):
            parameters: list[Tensor] = [*group]
            gradients = [p.grad for p in group if p.grad is not None]
            torch._foreach_mul_(momenta, 0.95)
            torch._foreach_add_(momenta, gradients)
            ahead = torch.stack(torch._foreach_add(gradients, momenta, alpha=0.95))
            scale = 0.2 * max(ahead.shape[-2:]) ** 0.5  # Moonlight: the update's size then matches AdamW's
            update = orthogonalise(ahead)
            torch._foreach_mul_(parameters, 1 - lr * decay)
            torch._foreach_add_(parameters, list(update), alpha=-lr * scale)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for group in self.hidden:
            for parameter in group:
                parameter.grad = None
