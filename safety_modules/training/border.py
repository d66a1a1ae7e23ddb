"""Training of `davsp`: a border by sign steps, after arXiv 2506.09353 (`train/optimize.py` of its code).

Behind one block, at the last token of the prompt, lies a direction from benign pictures to risky ones. The border is
painted so that risky pictures lie far along it and benign ones do not, and so that benign ones are answered as before.
"""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.guard.steer import Sample, build_inputs, lm_forward
from safety_modules.defences.shift import last_states
from safety_modules.errors import ConfigError, DataError
from safety_modules.metrics import auroc
from safety_modules.mount.hooks import noted
from safety_modules.records.record import GoodRecords, Record
from safety_modules.training.checkpoints import data_digest
from safety_modules.training.features import with_digests
from safety_modules.training.losses import language_model_loss
from safety_modules.training.steps import Kept, base_key, begin_steps, check_precision, train_steps

BATCH = 16
"""Pictures of a pass in which nothing is trained."""


class BorderRecipe(BaseModel):
    """How `davsp` is trained; the defaults are the published values where there are some.

    Attributes:
        steps: sign steps.
        batch_size: pictures of a step, all risky or all benign.
        risky_share: probability that a step is of risky ones.
        step_size: how far each pixel goes in a step, of the way from black to white.
        answer_weight: of the answers' cross-entropy beside the projection.
        risky_answers: probability that the answers of a risky step count.
        layer: the block behind which the direction lies, from 0; None = where it tells pictures best that it was not
            fitted to. (Published: the 20th of 40.)
        pictures: of each kind that it is fitted to, at most; half as many more are held out.
        far: a risky picture costs nothing from this quantile of the risky ones' projections on.
        near: a benign one costs nothing up to this quantile of the benign ones'. (Published: fixed numbers, of a 13B.)
        seed: of all that is drawn.
        keep_every: steps between two checkpoints, where there is a folder for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=1200, gt=0)
    batch_size: int = Field(default=2, gt=0)
    risky_share: float = Field(default=0.5, gt=0, lt=1)
    step_size: float = Field(default=1 / 255, gt=0, le=1)
    answer_weight: float = Field(default=0.02, ge=0)
    risky_answers: float = Field(default=0.05, ge=0, le=1)
    layer: int | None = Field(default=None, ge=0)
    pictures: int = Field(default=200, gt=1)
    far: float = Field(default=0.9, ge=0, le=1)
    near: float = Field(default=0.1, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    keep_every: int = Field(default=50, gt=0)


class Aim(NamedTuple):
    """What the border is trained towards.

    Attributes:
        layer: behind which block.
        auc: how well the direction tells risky from benign pictures that it was not fitted to.
        top: the projection up to which a risky picture costs.
        bottom: the one from which on a benign picture does.
        direction: from benign to risky states, of length 1: (D,).
    """

    layer: int
    auc: float
    top: float
    bottom: float
    direction: torch.Tensor


def projection_loss(along: torch.Tensor, risky: bool, aim: Aim) -> torch.Tensor:
    """The paper's hinges on projections (B,): max(0, top - p) of risky ones, max(0, p - bottom) of benign ones."""
    return functional.relu(aim.top - along if risky else along - aim.bottom).mean()


def sign_step(border: torch.Tensor, gradient: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    """A border (C, n) after one step against the sign of its gradient, so far (C,) in each channel."""
    return border - far[:, None] * gradient.sign()


def train_border(
    safety: SafetyAttachment,
    data: Sequence[Record] | GoodRecords,
    recipe: BorderRecipe | None = None,
    *,
    runs: str | PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[Aim, list[float]]:
    """Train the `davsp` of an attachment; the base stays as it is.

    Args:
        safety: from `attach_safety(model, processor, defence="davsp")`.
        data: risky and benign records; those without a picture are passed over. Where an answer is missing only the
            projection is trained.
        recipe: how.
        runs: a folder for checkpoints: the same call goes on where it was interrupted.
        progress: show a bar.

    Returns:
        The direction, and the loss of each step of this call.

    Raises:
        ConfigError: no `davsp`, a block that the base does not have, a base in float16, or another run's folder.
        DataError: too few risky or benign pictures, or one that cannot be read.
        AttachError: the base was changed since.
        SafetyModulesError: the loss is no longer a number.

    Does not cover: several processes.
    """
    recipe = recipe or BorderRecipe()
    davsp = next((one for one in safety.defences if isinstance(one, Davsp)), None)
    if davsp is None:
        raise ConfigError(
            "nothing to train: expected an attachment with davsp, got one without. Attach defence='davsp'."
        )
    backbone, count = safety.backbone, safety.backbone.sizes.num_layers
    check_precision(backbone, "davsp")
    if recipe.layer is not None and recipe.layer >= count:
        raise ConfigError(f"no such block: expected a layer from 0 to {count - 1}, got {recipe.layer}. Name another.")
    good = with_digests(data).with_images()
    short = [
        name
        for name, wanted in (("risky", True), ("benign", False))
        if [r.is_risky for r in good.records].count(wanted) < 4
    ]
    if short:
        raise DataError(
            f"nothing to train on: expected at least 4 risky and 4 benign records with pictures, got fewer {short[0]} "
            "ones. Add some."
        )
    safety.check_base()
    trainer, folder = _Border(davsp, good.records, recipe), None if runs is None else Path(runs)
    with safety.base_frozen():
        with backbone.lock:
            done = begin_steps(trainer, folder, _key(davsp, good, recipe))
            aim = trainer.aim = trainer.aim or trainer.find_aim()
        losses = train_steps(trainer, done, recipe.steps, folder, recipe.keep_every, progress)
    davsp.trained = True
    return aim, losses


def _key(davsp: Davsp, good: GoodRecords, recipe: BorderRecipe) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "border": davsp.settings.model_dump(mode="json"),
        "data": data_digest(good.records, good.digests or ()),
        **base_key(davsp.backbone),
    }


class _Border:
    """One training."""

    what, advice = "border", "Load the base in bfloat16 or float32."

    def __init__(self, davsp: Davsp, records: Sequence[Record], recipe: BorderRecipe) -> None:
        self.davsp, self.recipe = davsp, recipe
        self.backbone: Backbone = davsp.backbone
        self.kinds = {risky: [one for one in records if one.is_risky is risky] for risky in (True, False)}
        self.aim: Aim | None = None
        low, high = self.backbone.pixel_range()
        self.far = (recipe.step_size * (high - low)).to(davsp.border)

    def find_aim(self) -> Aim:
        """The direction behind each block from some pictures, and by others the block where it tells them best."""
        rng, known, others = np.random.default_rng(self.recipe.seed), dict[bool, Any](), dict[bool, Any]()
        layers = range(self.backbone.sizes.num_layers) if self.recipe.layer is None else [self.recipe.layer]
        for risky, records in self.kinds.items():
            some = [records[place] for place in rng.permutation(len(records))[: self.recipe.pictures * 3 // 2]]
            states = self._states(some, [*layers])  # (N, L, D)
            fitted = len(some) * 2 // 3
            known[risky], others[risky] = states[:fitted], states[fitted:]
        unit = functional.normalize(known[True].mean(0) - known[False].mean(0), dim=-1)  # (L, D)
        if not bool(torch.isfinite(unit).all()):
            raise DataError(
                "no direction: expected finite hidden states, got NaN or infinity. Load the base in bfloat16."
            )
        held_out = {risky: (states * unit).sum(-1) for risky, states in others.items()}  # (N, L)
        labels = [risky for risky, scores in held_out.items() for _ in scores]
        aucs = [auroc(labels, torch.cat([*held_out.values()])[:, n].tolist()).value for n in range(len(layers))]
        best = int(np.argmax(aucs))
        along = {risky: (states[:, best] * unit[best]).sum(-1) for risky, states in known.items()}
        top, bottom = along[True].quantile(self.recipe.far), along[False].quantile(self.recipe.near)
        return Aim(layers[best], aucs[best], float(top), float(bottom), unit[best])

    def _states(self, records: Sequence[Record], layers: Sequence[int]) -> torch.Tensor:
        """States (N, L, D) at the last token of the prompts, the pictures without a border."""
        found = []
        for at in range(0, len(records), BATCH):
            part = records[at : at + BATCH]
            with torch.no_grad():
                pictures = self.backbone.encode_images(self._pixels(part)).projected
            found.append(last_states(self.backbone, layers, self._samples(part, pictures, answers=False)))
        return torch.cat(found)

    def _pixels(self, records: Sequence[Record]) -> torch.Tensor:
        return self.backbone.pixel_values([one.load_image() for one in records])

    def _samples(self, records: Sequence[Record], pictures: Sequence[torch.Tensor], answers: bool) -> list[Sample]:
        backbone = self.backbone
        return [
            Sample(
                backbone.prompt_ids(one.question, 1, one.history),
                [picture],
                answer=(() if one.answer is None else backbone.answer_ids(one.answer)) if answers else None,
            )
            for one, picture in zip(records, pictures, strict=True)
        ]

    def step(self, number: int) -> float:
        """One; all that it draws comes from its number, so that one that goes on draws what it would have drawn."""
        recipe, border, rng = self.recipe, self.davsp.border, np.random.default_rng([self.recipe.seed, number])
        risky = bool(rng.random() < recipe.risky_share)
        kind = self.kinds[risky]
        records = [kind[place] for place in rng.integers(len(kind), size=recipe.batch_size)]
        answers = not risky or bool(rng.random() < recipe.risky_answers)
        with torch.enable_grad():
            loss = self.loss(records, risky, answers)
            (gradient,) = torch.autograd.grad(loss, border)
        if not bool(torch.isfinite(gradient).all()):
            return float("nan")
        with torch.no_grad():
            border.copy_(sign_step(border, gradient, self.far))
        return float(loss.detach())

    def loss(self, records: Sequence[Record], risky: bool, answers: bool) -> torch.Tensor:
        """Of a batch of one kind."""
        aim = self.aim
        assert aim is not None
        pictures = self.davsp.look(self._pixels(records)).projected
        samples = self._samples(records, pictures, answers=True)
        none = self.backbone.embed_text(torch.empty(1, 0, dtype=torch.long))[0]
        inputs = build_inputs(self.backbone, none, samples)
        lengths = [len(one.answer or ()) for one in samples]
        kept = max(lengths) + 1
        assert inputs.labels is not None
        with noted(self.backbone.blocks[aim.layer]) as found:
            unlabelled = inputs._replace(labels=None)
            logits = lm_forward(self.backbone, unlabelled, logits_to_keep=kept, use_cache=False).logits
        ends = [-length - 1 for length in lengths]
        states = found[0][range(len(ends)), ends].float()  # (B, D), where the answers begin
        loss = projection_loss(states @ aim.direction.to(states), risky, aim)
        if answers and any(lengths):
            loss = loss + self.recipe.answer_weight * language_model_loss(logits, inputs.labels[:, -kept:])
        return loss

    def kept(self) -> Kept:
        """Border and aim."""
        assert self.aim is not None
        aim = {name: value for name, value in self.aim._asdict().items() if name != "direction"}
        return Kept({"border": self.davsp.border, "direction": self.aim.direction}, {"aim": json.dumps(aim)})

    def take(self, kept: Kept) -> None:
        """Take up what was kept."""
        border, direction = kept.tensors["border"], kept.tensors["direction"].to(self.davsp.border)
        aim = Aim(**json.loads(kept.words["aim"]), direction=direction)
        with torch.no_grad():
            self.davsp.border.copy_(border)
        self.aim = aim
