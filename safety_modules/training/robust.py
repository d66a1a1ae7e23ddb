"""Training of the second look (`defences/guard/robust.py`), after FARE (arXiv 2402.12336): no label, no language model.

Pictures are perturbed so that their features move as far as they can; the changes of the tower are trained to bring
them back to where the plain tower has those of the clean pictures.
"""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.defences.guard.robust import RobustTower, robust_settings
from safety_modules.errors import ConfigError, DataError
from safety_modules.records.record import GoodRecords, Record
from safety_modules.training.features import with_digests
from safety_modules.training.perturbation import Ball, pgd
from safety_modules.training.steps import (
    Kept,
    base_key,
    begin_steps,
    check_precision,
    load_optimizer,
    optimizer_tensors,
    train_steps,
)


class RobustRecipe(BaseModel):
    """How the second look is trained.

    Attributes:
        rank: of the change of each linear.
        eps: of 255, how far a pixel is perturbed.
        attack_steps: gradients that a perturbation is made with.
        steps: optimizer steps.
        batch_size: pictures of a step.
        learning_rate: at first; falls to nothing as a cosine. (AdamW.)
        clean_weight: of the clean pictures' own distance, beside that of the perturbed ones.
        seed: of all that is drawn.
        keep_every: steps between two checkpoints, where there is a folder for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, gt=0)
    eps: float = Field(default=4, gt=0, le=255)
    attack_steps: int = Field(default=5, gt=0)
    steps: int = Field(default=1000, gt=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    clean_weight: float = Field(default=0.5, ge=0)
    seed: int = Field(default=0, ge=0)
    keep_every: int = Field(default=50, gt=0)


def feature_distance(features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of each picture (N, P, D) from what is wanted: squared, mean over the patches, in units of its own size (N,)."""
    wanted = wanted.float()
    far = (features.float() - wanted).square().sum(-1).mean(-1)
    return far / wanted.square().sum(-1).mean(-1)


def train_second_look(
    safety: SafetyAttachment,
    data: Sequence[Record] | GoodRecords,
    recipe: RobustRecipe | None = None,
    *,
    runs: str | PathLike[str] | None = None,
    progress: bool = True,
) -> list[float]:
    """Train a second look for the active guard, in the place of what it had. Its thresholds are to be set anew then.

    Args:
        safety: with a trained guard; base, projector and head stay as they are.
        data: records; only their pictures are looked at.
        recipe: how.
        runs: a folder for checkpoints: the same call goes on where it was interrupted.
        progress: show a bar.

    Returns:
        The loss of each step of this call.

    Raises:
        ConfigError: a guard of words, a base with tiles or in float16, or another run's folder.
        DataError: no picture, or one that cannot be read.
        AttachError: the base was changed since.
        SafetyModulesError: the loss is no longer a number.

    Does not cover: several processes.
    """
    recipe, backbone = recipe or RobustRecipe(), safety.backbone
    if safety.config.words is not None:
        raise ConfigError("no second look: expected a trained head, got one of words. Train a head.")
    check_precision(backbone, "second look")
    good = with_digests(data).with_images()
    if not good.records:
        raise DataError("nothing to train on: expected records with pictures, got none. Add some.")
    safety.check_base()
    training = _Training(backbone, good.records, recipe)
    folder = None if runs is None else Path(runs)
    done = begin_steps(training, folder, _key(backbone, good, recipe))
    with safety.base_frozen():
        losses = train_steps(training, done, recipe.steps, folder, recipe.keep_every, progress)
    with backbone.lock:
        safety.modules.know(robust=training.tower.requires_grad_(False))
    return losses


def _key(backbone: Backbone, good: GoodRecords, recipe: RobustRecipe) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": hashlib.sha256("".join(str(one) for one in good.digests or ()).encode()).hexdigest(),
        **base_key(backbone),
    }


class _Training:
    """One training."""

    what, advice = "second look", "Lower learning_rate."

    def __init__(self, backbone: Backbone, records: Sequence[Record], recipe: RobustRecipe) -> None:
        self.backbone, self.records, self.recipe = backbone, records, recipe
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            self.tower = RobustTower(robust_settings(backbone, recipe.rank)).to(backbone.device)
        self.optimizer = torch.optim.AdamW(self.tower.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        self.low, self.high = backbone.pixel_range()

    def step(self, number: int) -> float:
        """One; all that it draws comes from its number, so that one that goes on draws what it would have drawn."""
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, number])
        chosen = rng.integers(len(self.records), size=recipe.batch_size)
        pixels = self.backbone.pixel_values([self.records[place].load_image() for place in chosen])
        pixels = pixels.to(self.backbone.device).float()
        with torch.no_grad():
            wanted = self.seen(pixels)

        def away(perturbed: torch.Tensor) -> torch.Tensor:
            return feature_distance(self.seen(perturbed), wanted)

        ball = Ball(pixels, recipe.eps / 255 * (self.high - self.low), self.low, self.high)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        with self.tower.mounted(self.backbone):
            with self.tower.frozen():
                perturbed, _ = pgd(away, ball, recipe.attack_steps, generator)
            with torch.enable_grad():
                loss = away(perturbed).mean()
                if recipe.clean_weight:
                    loss = loss + recipe.clean_weight * away(pixels).mean()
                self.optimizer.zero_grad()
                loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1 + np.cos(np.pi * number / recipe.steps)) / 2
        self.optimizer.step()
        return float(loss.detach())

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (N, P, Dv)."""
        return self.backbone.encode_images(pixels.to(self.backbone.model.dtype)).vision

    def kept(self) -> Kept:
        """Changes and optimizer."""
        own = {f"tower.{name}": one for name, one in self.tower.state_dict().items()}
        return Kept(own | optimizer_tensors(self.optimizer), {})

    def take(self, kept: Kept) -> None:
        """Take up what was kept."""
        own = {name: one for name, one in kept.tensors.items() if name.startswith("tower.")}
        self.tower.load_state_dict({name.removeprefix("tower."): one for name, one in own.items()})
        load_optimizer(self.optimizer, kept.tensors)
