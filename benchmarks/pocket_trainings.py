"""What all trainings of one comparison share: base, records, recipes, seeds and folders. Pocket's data.

    DIR/settings.json          what was asked for; another run is refused there
    DIR/features/              vision features, computed once
    DIR/seed<S>/<name>/        finished weights
    DIR/seed<S>/runs/<name>/   logs and checkpoints; an interrupted training goes on

Seeds vary first weights, order of samples, noise and dropout. The pictures are the same for all.
"""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field

from safety_modules import pocket
from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import CONFIG_FILE
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.cli.options import writable_folder
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.errors import ConfigError
from safety_modules.io.run_manifest import begin_run
from safety_modules.paths import recipe_dir
from safety_modules.pocket import mix
from safety_modules.policy.policy import Policy
from safety_modules.records.record import Record
from safety_modules.training import Recipe, calibrate, train_safety

Out = Annotated[
    Path,
    typer.Option(
        callback=writable_folder, help="Folder for weights, logs and features; an interrupted run in it goes on."
    ),
]
Records = Annotated[int | None, typer.Option(min=1, help="Training records with a picture; default: 28,000.")]
Effort = Annotated[float | None, typer.Option(min=0.0001, help="Share of the recipes' steps; default: all.")]
Calibration = Annotated[int | None, typer.Option(min=1, help="Benign records thresholds are set on; default: 2,000.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="One of them; repeat. Default: all.")]


class Budget(BaseModel):
    """How much every system is trained on; the defaults are those of the shipped adapter.

    Attributes:
        records: training records with a picture.
        effort: share of the recipes' steps.
        calibration: benign validation records that thresholds are set on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: int = Field(default=28_000, gt=0)
    effort: float = Field(default=1.0, gt=0)
    calibration: int = Field(default=mix.CALIBRATION, gt=0)


class Trainings:
    """Pocket, its data and the folder of a comparison.

    Args:
        out: the folder.
        budget: of every system.
        progress: show bars.

    Raises:
        ConfigError: the folder holds trainings with another budget or other recipes.
    """

    def __init__(self, out: Path, budget: Budget, progress: bool = True) -> None:
        self.out, self.budget, self.progress = out, budget, progress
        self.cache = out / "features"
        self.policy = Policy.default()
        stages = {f"stage{stage}": self.recipe(stage, 0).model_dump(mode="json") for stage in (1, 2)}
        begin_run(out / "settings.json", {"budget": budget.model_dump(mode="json"), **stages})
        self.model, self.processor = pocket.load()

    @cached_property
    def records(self) -> list[Record]:
        """The training mix."""
        return mix.training_records(self.budget.records)

    @cached_property
    def benign(self) -> list[Record]:
        """What thresholds are set on."""
        return mix.calibration_records(self.budget.calibration)

    def recipe(self, stage: int, seed: int, times: float = 1.0, **changes: Any) -> Recipe:
        """A stage's recipe for a seed, within the budget.

        Args:
            stage: 1 or 2.
            seed: of order, noise and dropout.
            times: steps over those of the recipe.
            changes: values that replace the file's.
        """
        path = recipe_dir() / f"stage{stage}.yaml"
        known, effort = Recipe.from_yaml(path), times * self.budget.effort
        scaled = {"steps": self.steps(known.steps, times), "warmup_steps": round(known.warmup_steps * effort)}
        return Recipe.from_yaml(path, **{"seed": seed, **scaled, **changes})

    def steps(self, full: int, times: float = 1.0) -> int:
        """So many within the budget."""
        return max(1, round(full * times * self.budget.effort))

    def part_of(self, full: int) -> int:
        """Of records of another kind, as many as the budget has of the training mix."""
        return max(8, min(full, round(full * self.budget.records / Budget().records)))

    def folder(self, name: str, seed: int) -> Path:
        """Of finished weights."""
        return self.out / f"seed{seed}" / name

    def runs(self, name: str, seed: int) -> Path:
        """Of logs and checkpoints."""
        return self.out / f"seed{seed}" / "runs" / name

    def finished(self, name: str, seed: int) -> bool:
        """Whether the weights are there; they are written last, and whole."""
        return (self.folder(name, seed) / CONFIG_FILE).is_file()

    def metadata(self, name: str, seed: int, recipes: Sequence[BaseModel]) -> dict[str, Any]:
        """For the weights' folder: how they were trained."""
        return {
            "system": name,
            "seed": seed,
            "data": "pocket",
            "budget": self.budget.model_dump(mode="json"),
            "recipes": [recipe.model_dump(mode="json") for recipe in recipes],
        }

    def train_adapter(
        self, name: str, seed: int, config: SafetyConfig, recipes: list[Recipe], records: list[Record] | None = None
    ) -> Path:
        """Train, round to 16 bit and calibrate an adapter; one that is finished stays as it is.

        Args:
            name: of its folder.
            seed: see the module.
            config: the design.
            recipes: of both stages.
            records: default: the training mix.
        """
        target, runs = self.folder(name, seed), self.runs(name, seed)
        if self.finished(name, seed):
            return target
        backbone = find_backbone(self.model, self.processor)
        guard = Guard(backbone, GuardSettings(design=config), seed)
        attachment = SafetyAttachment(backbone, [guard], self.policy)
        attachment.install()
        try:
            data = self.records if records is None else records
            train_safety(attachment, data, recipes, output_dir=runs, cache_dir=self.cache, progress=self.progress)
            # An adapter on disk has 16-bit numbers: those are calibrated, because those will judge.
            read_adapter(attachment.save_pretrained(runs / "uncalibrated")).load_into([guard])
            found = calibrate(
                attachment, self.benign, mix.MAX_FALSE_ALARM, cache_dir=self.cache, progress=self.progress
            )
            metadata = {**self.metadata(name, seed, recipes), "calibration": found.to_dict()}
            return attachment.save_pretrained(target, metadata=metadata)
        finally:
            attachment.detach()


def check_names(only: Sequence[str] | None, known: Collection[str], what: str) -> list[str]:
    """The names, if all are known; all of them for None. Raises ConfigError."""
    for name in only or ():
        if name not in known:
            near = get_close_matches(name, list(known), n=1, cutoff=0)
            raise ConfigError(
                f"unknown {what}: expected one of {', '.join(known)}, got {name!r}. Did you mean {near[0]!r}?"
            )
    return [name for name in known if not only or name in only]


def budget_of(records: int | None, effort: float | None, calibration: int | None) -> Budget:
    """The budget that the options name; what they leave out is as in the shipped adapter's."""
    given = {"records": records, "effort": effort, "calibration": calibration}
    return Budget.model_validate({name: value for name, value in given.items() if value is not None})
