"""Trains everything of the comparison that is trained, on the same records.

| name | what | budget |
|---|---|---|
| `gated` | this package's default design | the recipes' stage I and stage II |
| `paper` | `SafetyConfig.preset("paper")` | the same, without patch dropout, which its projector cannot have |
| `lora` | LoRA of the default design's rank alone | steps of stage II x `TIMES`, the head's stage spent on it |
| `meta-token` | meta tokens, head on them, LoRA | the same |
| `tga` | its queries, on captions of harmless pictures | its own steps |
| `davsp` | its border | its own steps |
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meta_training import train_meta
from pocket_trainings import Budget, Trainings, check_names
from pydantic import BaseModel

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.base import Defence
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.lora_tuning import LoraTuning, LoraTuningSettings
from safety_modules.defences.tga import Tga
from safety_modules.pocket import mix, splits
from safety_modules.training import train_safety
from safety_modules.training.border import BorderRecipe, train_border
from safety_modules.training.transfer import TransferRecipe, train_transfer

CAPTIONS = 4000
"""Pictures with captions of the full budget."""
TIMES = 2.5
"""Steps of designs without a stage I over those of stage II: so they take as long as both stages of `gated` do."""

NO_HEAD = {"type_weight": 0.0, "level_weight": 0.0}


def train_systems(
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
    budget: Budget | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Train what is not finished yet; the same call goes on after any interruption.

    Args:
        out: folder of the comparison, see `pocket_trainings`.
        seeds: one training of each system for each.
        only: names; default: all.
        budget: default: the shipped adapter's.
        progress: show bars.
        say: told of every system that is done.

    Returns:
        Folders with weights, for `make_system`.

    Raises:
        ConfigError: unknown name, or the folder holds other trainings.
        DataError: too few records for the recipes or the promise of calibration.
    """
    names = check_names(only, SYSTEMS, "system")
    trainings = Trainings(out, budget or Budget(), progress)
    folders = []
    for seed in seeds:
        for name in names:
            began, there = time.perf_counter(), trainings.finished(name, seed)
            folders.append(SYSTEMS[name](trainings, seed))
            took = "finished before" if there else f"{time.perf_counter() - began:.0f} s"
            say(f"{folders[-1]}: {took}")
    return folders


def train_gated(trainings: Trainings, seed: int) -> Path:
    """This package's default design."""
    recipes = [trainings.recipe(stage, seed) for stage in (1, 2)]
    return trainings.train_adapter("gated", seed, SafetyConfig(), recipes)


def train_paper(trainings: Trainings, seed: int) -> Path:
    """The published design."""
    recipes = [trainings.recipe(stage, seed, patch_dropout=0.0) for stage in (1, 2)]
    return trainings.train_adapter("paper", seed, SafetyConfig.preset("paper"), recipes)


def train_lora(trainings: Trainings, seed: int) -> Path:
    """Refusals for risky records, answers for clean ones; no modules, no hints."""
    name, target = "lora", trainings.folder("lora", seed)
    if trainings.finished(name, seed):
        return target
    recipe = trainings.recipe(2, seed, TIMES, hint_rate=0.0, **NO_HEAD)
    # The head of the design is neither trained nor kept.
    config = SafetyConfig(num_lm_tokens=0, mode="always")
    assert config.lora is not None
    backbone = find_backbone(trainings.model, trainings.processor)
    attachment = SafetyAttachment(backbone, [Guard(backbone, GuardSettings(design=config), seed)], trainings.policy)
    attachment.install()
    try:
        train_safety(
            attachment,
            trainings.records,
            recipe,
            output_dir=trainings.runs(name, seed),
            cache_dir=trainings.cache,
            progress=trainings.progress,
        )
    finally:
        attachment.detach()
    assert attachment.lora is not None
    tuning = LoraTuning(backbone, LoraTuningSettings(lora=config.lora))
    tuning.lora, tuning.trained = attachment.lora, True
    saved = SafetyAttachment(backbone, [tuning], trainings.policy)
    return saved.save_pretrained(target, metadata=trainings.metadata(name, seed, [recipe]))


def train_meta_token(trainings: Trainings, seed: int) -> Path:
    """Meta tokens, the head on them and LoRA, with hints as in stage II."""
    return train_meta(trainings, "meta-token", seed, trainings.recipe(2, seed, TIMES, **NO_HEAD))


def train_tga(trainings: Trainings, seed: int) -> Path:
    """Queries that read captions out of pictures; no label is seen."""
    recipe = TransferRecipe()
    recipe = recipe.model_copy(update={"seed": seed, "steps": trainings.steps(recipe.steps)})
    records = splits.make("captioned_clean", trainings.part_of(CAPTIONS), split="train", seed=seed)
    return _alone(trainings, Tga, seed, recipe, lambda safety: train_transfer(safety, records, recipe, progress=False))


def train_davsp(trainings: Trainings, seed: int) -> Path:
    """A border, on risky pictures and benign ones in the same layouts."""
    recipe = BorderRecipe()
    recipe = recipe.model_copy(update={"seed": seed, "steps": trainings.steps(recipe.steps)})
    records, runs = mix.border_records(trainings.part_of(mix.BORDER), seed), trainings.runs(Davsp.kind, seed)
    train = partial(train_border, data=records, recipe=recipe, runs=runs, progress=trainings.progress)
    return _alone(trainings, Davsp, seed, recipe, train)


def _alone(
    trainings: Trainings, kind: type[Defence], seed: int, recipe: BaseModel, train: Callable[[SafetyAttachment], Any]
) -> Path:
    """A defence of this kind with its own settings, trained by itself."""
    target = trainings.folder(kind.kind, seed)
    if trainings.finished(kind.kind, seed):
        return target
    backbone = find_backbone(trainings.model, trainings.processor)
    safety = SafetyAttachment(backbone, [kind(backbone)], trainings.policy)
    safety.install()
    try:
        train(safety)
        return safety.save_pretrained(target, metadata=trainings.metadata(kind.kind, seed, [recipe]))
    finally:
        safety.detach()


SYSTEMS: dict[str, Callable[[Trainings, int], Path]] = {
    "gated": train_gated,
    "lora": train_lora,
    "paper": train_paper,
    "meta-token": train_meta_token,
    "tga": train_tga,
    "davsp": train_davsp,
}
