"""Training of the meta-token design, through the loop of everything else: answers and labels of the head at once."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pocket_trainings import Trainings

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.steer import Steer, lm_forward
from safety_modules.defences.meta_token import MetaToken, MetaTokenSettings
from safety_modules.pocket import mix
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import judgements
from safety_modules.records.record import Record
from safety_modules.training import checkpoints
from safety_modules.training.calibration import by_picture
from safety_modules.training.corpus import PARTS, Corpus, LmRows
from safety_modules.training.features import with_digests
from safety_modules.training.losses import head_loss, language_model_loss
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import training_order
from safety_modules.training.thresholds import any_flagged, promised_limits
from safety_modules.training.train import Run, train_stage

BATCH_SIZE = 64


def make_meta(
    backbone: Backbone, settings: MetaTokenSettings, policy: Policy, seed: int
) -> tuple[MetaToken, SafetyAttachment]:
    """New parts, and what the loop trains in their place: a guard of no width with the same tokens and LoRA."""
    design = SafetyConfig(
        taxonomy=settings.taxonomy,
        width=1,
        attention_heads=1,
        num_head_tokens=1,
        num_lm_tokens=settings.tokens,
        mode="always",
        lora=settings.lora,
    )
    guard = Guard(backbone, GuardSettings(design=design), seed)
    meta = MetaToken(backbone, settings, seed)
    assert guard.lora is not None
    meta.modules.tokens, meta.lora = guard.modules.lm_tokens, guard.lora
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in meta.modules.head:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    return meta, SafetyAttachment(backbone, [guard], policy)


class MetaTask(SafetyObjective):
    """Tokens, head and LoRA, trained together on the answers and, with weight 1 each, on type and level.

    Args:
        meta: what is trained.
        carrier: the guard with its tokens and its LoRA.
        recipe: of stage 2, with both of its head weights 0: those are of another head.
    """

    def __init__(self, meta: MetaToken, carrier: SafetyAttachment, recipe: Recipe) -> None:
        super().__init__(carrier, recipe)
        self.meta = meta
        self.meta_head = meta.modules.head

    def forward(
        self,
        vision: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        type_labels: torch.Tensor | None = None,
        level_labels: torch.Tensor | None = None,
        lm: LmRows | None = None,
        shares: dict[str, float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch; see `SafetyObjective.forward`. The head sees no question: its tokens stand before it."""
        assert lm is not None
        shares, meta = shares or dict.fromkeys(PARTS, 1.0), self.meta
        projected = iter([] if vision is None else meta.backbone.project(vision))
        samples = [
            meta.sample(row.prompt, [next(projected)] if row.has_image else [], Steer(hint=row.steer.hint), row.answer)
            for row in lm.rows
        ]
        inputs = meta.inputs(samples)
        labels = inputs.labels
        assert labels is not None
        kept = max(len(row.answer) for row in lm.rows) + 1  # answers stand at the right end
        inputs = inputs._replace(labels=None)
        if vision is None:
            output = lm_forward(meta.backbone, inputs, use_cache=False, logits_to_keep=kept)
        else:
            head, output = meta.read(inputs, logits_to_keep=kept)
        losses = {"lm": language_model_loss(output.logits, labels[:, -kept:])}
        total = losses["lm"] * shares["lm"]
        if vision is not None:
            assert type_labels is not None and level_labels is not None
            types, levels = head.type_logits, head.level_logits
            targets = (type_labels.to(types.device), level_labels.to(levels.device))
            found = head_loss(types, levels, *targets, label_smoothing=self.recipe.label_smoothing)
            losses["type"], losses["level"] = found.type, found.level
            total = total + found.total * shares["head"]
        return {"loss": total, **losses}


def train_meta(trainings: Trainings, name: str, seed: int, recipe: Recipe) -> Path:
    """Train, round to 16 bit and calibrate; what is finished stays as it is.

    Args:
        trainings: base, data, folders.
        name: of the folder.
        seed: of first weights, order and dropout.
        recipe: of stage 2.
    """
    target, runs = trainings.folder(name, seed), trainings.runs(name, seed)
    if trainings.finished(name, seed):
        return target
    backbone = find_backbone(trainings.model, trainings.processor)
    meta, carrier = make_meta(backbone, MetaTokenSettings(), trainings.policy, seed)
    carrier.install()
    try:
        _train(meta, carrier, trainings, recipe, runs / "stage2")
        with torch.no_grad():
            for _, parameter in meta.named_parameters():
                parameter.copy_(parameter.half().float())
        limits, calibration = calibrate_meta(meta, carrier, trainings.benign, trainings.cache, trainings.progress)
    finally:
        carrier.detach()
    metadata = {**trainings.metadata(name, seed, [recipe]), "calibration": calibration}
    meta.settings, meta.trained = meta.settings.model_copy(update={"thresholds": limits}), True
    return SafetyAttachment(backbone, [meta], trainings.policy).save_pretrained(target, metadata=metadata)


def _train(meta: MetaToken, carrier: SafetyAttachment, trainings: Trainings, recipe: Recipe, folder: Path) -> None:
    records = trainings.records
    data = with_digests(records)
    key = checkpoints.run_key(carrier, recipe, (data, None))
    key |= {"meta tokens": meta.settings.model_dump(mode="json")}
    checkpoints.check(folder, key)
    order = training_order(records, recipe)
    corpus = Corpus.make(meta.backbone, data, trainings.cache, trainings.progress)
    run = Run(
        carrier,
        corpus,
        held_out=None,
        keep=True,
        progress=trainings.progress,
        tensorboard=False,
        make_objective=lambda _, recipe: MetaTask(meta, carrier, recipe),
    )
    train_stage(run, recipe, order, key, folder)


def calibrate_meta(
    meta: MetaToken, carrier: SafetyAttachment, benign: list[Record], cache: Path, progress: bool = True
) -> tuple[dict[str, float], dict[str, Any]]:
    """One threshold for all types with the promise of `training.calibrate`, on the same records.

    Returns:
        Thresholds by type, and what was promised and found.
    """
    corpus = Corpus.make(meta.backbone, benign, cache, progress)
    found = []
    with carrier.inference(), carrier.lora_mounted(True):
        meta.modules.eval()
        for start in range(0, len(benign), BATCH_SIZE):
            part = range(start, min(start + BATCH_SIZE, len(benign)))
            vision = corpus.vision(part)
            assert vision is not None
            projected = meta.backbone.project(vision)
            prompts = [meta.backbone.prompt_ids(benign[i].question) for i in part]
            samples = [meta.sample(prompt, [one]) for prompt, one in zip(prompts, projected, strict=True)]
            head, _ = meta.read(meta.inputs(samples), logits_to_keep=1)
            found.append(judgements(head, meta.settings.temperature).scores)
    taxonomy = meta.settings.taxonomy
    scores = by_picture(np.concatenate(found), corpus.digests)
    limits = promised_limits(scores, mix.MAX_FALSE_ALARM)
    record = {
        "max_false_alarm": mix.MAX_FALSE_ALARM,
        "images": len(scores),
        "flagged": int(any_flagged(scores, limits).sum()),
    }
    return dict(zip(taxonomy.types, limits.tolist(), strict=True)), record
