"""A second look at each picture, for the verdict alone: the vision tower with small changes that make it robust.

Gradients move a tower's features anywhere with changes nobody sees. FARE (arXiv 2402.12336) trains a tower so that the
features of perturbed pictures stay near those that the plain tower has of the clean ones; so a head that learned on
these reads them too. Here the tower stays as it is, and low-rank changes of its linears (arXiv 2106.09685) stand on it
for the length of the second run. The language model sees the first.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from safety_modules.backbones import Backbone
from safety_modules.config import RobustSettings
from safety_modules.errors import ConfigError


class LowRank(nn.Module):
    """What is added to a linear's output: B A x, nothing at first. In float32."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.normal_(self.a, std=inputs**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.a) @ self.a.T) @ self.b.T


class RobustTower(nn.Module):
    """The changes of all layers, in order.

    Args:
        settings: how many layers, and the linears of each.
    """

    def __init__(self, settings: RobustSettings) -> None:
        super().__init__()
        self.settings = settings
        self.layers = nn.ModuleList(
            nn.ModuleList(LowRank(inputs, outputs, settings.rank) for _, inputs, outputs in settings.linears)
            for _ in range(settings.layers)
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Without gradients for the changes inside this block: for those of the pixels through them."""
        self.requires_grad_(False)
        try:
            yield
        finally:
            self.requires_grad_(True)

    def digest(self) -> str:
        """Of all numbers."""
        numbers = b"".join(one.detach().float().cpu().numpy().tobytes() for one in self.parameters())
        return hashlib.sha256(numbers).hexdigest()

    @contextmanager
    def mounted(self, backbone: Backbone) -> Iterator[None]:
        """On the tower inside this block, in this thread.

        Raises:
            ConfigError: the tower has other layers or linears.
        """
        thread = threading.get_ident()

        def added(change: nn.Module) -> Any:
            def hook(_module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
                return output + change(inputs[0]).to(output) if threading.get_ident() == thread else None

            return hook

        with ExitStack() as stack:
            for block, changes in zip(self._blocks(backbone), self.layers, strict=True):
                assert isinstance(changes, nn.ModuleList)
                for (path, _, _), change in zip(self.settings.linears, changes, strict=True):
                    linear = block.get_submodule(path)
                    stack.callback(linear.register_forward_hook(added(change)).remove)
            yield

    def _blocks(self, backbone: Backbone) -> Sequence[nn.Module]:
        there = robust_settings(backbone, self.settings.rank)
        if there != self.settings:
            raise ConfigError(
                f"no second look: expected a tower of {self.settings.layers} layers with the linears it was trained "
                f"for, got one of {there.layers}. Use the base that the adapter was made for."
            )
        return backbone.tower_layers


def robust_settings(backbone: Backbone, rank: int) -> RobustSettings:
    """Of changes to every linear of the layers that a base uses of its tower.

    Raises:
        ConfigError: the base cuts pictures into tiles, or its layers are not all alike.
    """
    if backbone.sizes.tile is not None:
        raise ConfigError(
            "no second look: expected a base that sees whole pictures, got one that cuts them into tiles. Leave it out."
        )
    kinds = {
        tuple(
            (path, int(one.in_features), int(one.out_features))
            for path, one in layer.named_modules()
            if isinstance(one, nn.Linear)
        )
        for layer in backbone.tower_layers
    }
    if len(kinds) != 1 or not (linears := kinds.pop()):
        raise ConfigError(
            "no second look: expected a vision tower whose layers have the same linears, got another. Leave it out."
        )
    return RobustSettings(rank=rank, layers=len(backbone.tower_layers), linears=linears)
