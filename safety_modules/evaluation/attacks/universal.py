"""The same pixels over every picture: a border, or a patch in a corner, found on some pictures and shown on others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from safety_modules.backbones import find_backbone
from safety_modules.defences.davsp import ring
from safety_modules.errors import DataError
from safety_modules.evaluation.attacks.adversary import Aim, as_pictures, attackable, objective_of, targets
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.systems import System

Shape = Literal["border", "patch"]


@dataclass(frozen=True)
class UniversalAttack:
    """A `Transform` that covers a part of each picture, as the base's processor makes it, with the same pixels.

    Attributes:
        shape: `border`, or `patch`: a square in the lower right corner.
        width: pixels of the border, or of the patch's side.
        aim: `clean` covers risky pictures, so that they are not flagged; `flagged` benign ones, so that they are.
        pixels: values (C, H, W); what lies outside of the shape does not count.
        shuffled: whether these are an attack's in another order: a control.
    """

    shape: Shape
    width: int
    aim: Aim
    pixels: torch.Tensor
    shuffled: bool = False

    @property
    def name(self) -> str:
        """`border-8-clean`."""
        return f"{self.shape}-{self.width}-{self.aim}{', shuffled' if self.shuffled else ''}"

    def describe(self) -> dict[str, Any]:
        """All of it, pixels as their sum."""
        return {"name": self.name, "width": self.width, "aim": self.aim, "sum": float(self.pixels.double().sum())}

    def __call__(self, cases: Sequence[Case], system: System | None = None) -> list[Case]:
        """The cases, in order, the pictures of those it is for covered, for any system on a base.

        Raises:
            DataError: no system, or a case with several pictures.
        """
        if system is None:
            raise DataError(f"{self.name} shown to nobody: expected a system, got none. Name it.")
        shown, found = targets(self.name, cases, self.aim), [*cases]
        if shown:
            backbone = find_backbone(system.model, system.processor)
            low, high = backbone.pixel_range()
            pixels = backbone.pixel_values([cases[place].load_images()[0] for place in shown]).float()
            inside = covered(self.shape, self.width, pixels.shape[-2:])
            pictures = as_pictures(torch.where(inside, self.pixels.to(pixels), pixels), low, high)
            for place, picture in zip(shown, pictures, strict=True):
                found[place] = cases[place].model_copy(update={"images": (picture,)})
        return found

    def in_another_order(self, seed: int = 0) -> "UniversalAttack":
        """A control: as many pixels of the same values."""
        inside = covered(self.shape, self.width, self.pixels.shape[-2:])
        other, own = self.pixels.clone(), self.pixels[:, inside]
        order = torch.randperm(own.shape[1], generator=torch.Generator().manual_seed(seed))
        other[:, inside] = own[:, order]
        return replace(self, pixels=other, shuffled=True)


def universal(
    system: System,
    cases: Sequence[Case],
    shape: Shape = "border",
    width: int = 8,
    aim: Aim = "clean",
    *,
    steps: int = 300,
    batch_size: int = 32,
    step: float = 8.0,
    seed: int = 0,
) -> UniversalAttack:
    """Find the pixels: sign steps up the mean of what an attacker of single pictures wants (1712.09665).

    Args:
        system: with a guard, whose weights are known.
        cases: found on these, and to be shown on others.
        shape, width, aim: see `UniversalAttack`; `readable` is not among the aims.
        steps: gradients.
        batch_size: pictures of each.
        step: how far a pixel goes in one, of 255; falls to nothing.
        seed: of the start and the batches.

    Raises:
        DataError: as `PixelAttack`, no case for this aim, or a shape that leaves nothing of the picture.
    """
    name = f"{shape}-{width}-{aim}"
    safety, shown = attackable(name, system, aim), targets(name, cases, aim)
    backbone, (low, high) = safety.backbone, safety.backbone.pixel_range()
    if aim == "readable" or not shown:
        raise DataError(f"{name} not found: expected clean or flagged, and cases to find it on, got others. Name some.")
    rng = np.random.default_rng(seed)
    size = backbone.pixel_values([cases[shown[0]].load_images()[0]]).shape[-3:]
    inside = covered(shape, width, size[-2:])
    if not 0 < int(inside.sum()) < inside.numel():
        raise DataError(
            f"{name} not found: expected a part of {size[-1]} pixels, got all or none. Choose another width."
        )
    low, high = (one.view(-1, 1, 1).to(backbone.device) for one in (low, high))
    draw = torch.rand(size, generator=torch.Generator().manual_seed(seed)).to(backbone.device)
    cover = low + draw * (high - low)
    inside = inside.to(backbone.device)
    with system.on_model(), safety.base_frozen(), backbone.lock:
        for number in range(steps):
            chosen = [cases[shown[place]] for place in rng.integers(len(shown), size=batch_size)]
            pixels = backbone.pixel_values([case.load_images()[0] for case in chosen]).to(backbone.device).float()
            worth = objective_of(safety, chosen, pixels, aim)
            cover.requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(worth(torch.where(inside, cover, pixels)).mean(), cover)
            far = step / 255 * (high - low) * (1 - number / steps)
            cover = torch.maximum(torch.minimum(cover.detach() + far * gradient.sign(), high), low)
    return UniversalAttack(shape, width, aim, cover.cpu())


def covered(shape: Shape, width: int, size: Sequence[int]) -> torch.Tensor:
    """Which pixels (H, W) of a picture of this size lie in the shape."""
    if shape == "border":
        return ring(size, width)
    rows, columns = (torch.arange(length) for length in size)
    return (rows >= size[0] - width)[:, None] & (columns >= size[1] - width)
