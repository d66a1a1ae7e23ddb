"""train_safety: from records and recipes to trained modules, both stages through one loop."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.attach import attach_safety
from safety_modules.attachment import SafetyAttachment, attached_to
from safety_modules.backbones import Backbone
from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.records.readers import read_records
from safety_modules.records.record import Record, check_records
from safety_modules.training.calibration import corpus_probabilities, verdict_metrics
from safety_modules.training.corpus import Collator, Corpus
from safety_modules.training.draws import make_draws
from safety_modules.training.loop import SafetyTrainer, training_arguments
from safety_modules.training.progress import bar
from safety_modules.training.recipe import Recipe
from safety_modules.training.targets import target_ids
from safety_modules.training.task import SafetyTask

Pathlike = str | PathLike[str]
Data = Pathlike | Iterable[Record]
TITLES = {1: "stage I", 2: "stage II"}


def train_safety(
    attachment: Any,
    data: Data,
    recipe: Recipe | Pathlike | Sequence[Recipe | Pathlike],
    validation: Data | None = None,
    output_dir: Pathlike | None = None,
    *,
    cache_dir: Pathlike | None = None,
    processor: Any = None,
    resume: bool = False,
    progress: bool = True,
) -> SafetyAttachment:
    """Train safety modules and LoRA (arXiv 2405.13581, section 3.3); the base stays as it is.

    Args:
        attachment: from `attach_safety`, or its model, trained in place; or a base model to attach to.
        data: records, or a file (see `read_records`).
        recipe: of one stage, or of both in order; Recipe objects or YAML files.
        validation: records or a file; after each stage the head's quality on it is written to the log.
        output_dir: gets `stage<N>/log.json` and, where the recipe saves, checkpoints.
        cache_dir: keeps vision features between runs; None = in memory only.
        processor: of a base model to attach to.
        resume: go on from the last checkpoint of each stage in `output_dir`, made with the same recipe and data.
        progress: show bars.

    Returns:
        The attachment. Thresholds calibrated for the head as it was are gone: calibrate again.

    Raises:
        ConfigError: recipes, resume or design do not fit.
        DataError: a record, a picture or the feature cache cannot be used, or the recipe asks for samples the
            data does not hold.
        SafetyModulesError: the loss is no longer a number, or something changed the base meanwhile.

    Does not cover: thresholds (`calibrate`) and saving (`attachment.save_pretrained`).
    """
    attachment = _attachment(attachment, processor)
    recipes = _recipes(recipe)
    if resume and output_dir is None:
        raise ConfigError("nothing to resume: expected an output_dir, got None. Name the interrupted run's.")
    for one in recipes:
        SafetyTask(attachment, one)  # a recipe that does not fit the design is refused before any work
    corpus = _corpus(attachment, data, cache_dir, progress)
    held_out = None if validation is None else _corpus(attachment, validation, cache_dir, progress)
    with tempfile.TemporaryDirectory() as scratch:
        for one in recipes:
            folder = Path(scratch if output_dir is None else output_dir) / f"stage{one.stage}"
            _train_stage(attachment, corpus, one, folder, output_dir is not None, resume, progress, held_out)
    return attachment


def _train_stage(
    attachment: SafetyAttachment,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    keep: bool,
    resume: bool,
    progress: bool,
    held_out: Corpus | None,
) -> None:
    checkpoint = _checkpoint(folder, _run_key(corpus, recipe), resume)
    backbone = attachment.backbone
    args = training_arguments(recipe, str(folder), backbone.device, save=keep and recipe.save_every > 0)
    draws = make_draws(corpus.records, recipe, recipe.samples * args.world_size)
    answers = None
    if recipe.stage == 2:
        answers = target_ids(attachment, corpus, {draw.record for draw in draws}, recipe, progress)
    task = SafetyTask(attachment, recipe)
    with bar(progress) as shown, attachment.base_frozen(), _untouched(backbone):
        line = shown.add_task(TITLES[recipe.stage], total=recipe.steps, note="")
        collator = Collator(attachment, corpus, recipe, answers)
        trainer = SafetyTrainer(task, args, draws, collator, (shown, line))
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            attachment.train(False)
    if recipe.trains_head:
        attachment.thresholds = {}
    log = trainer.state.log_history
    if held_out is not None:
        found = verdict_metrics(
            *corpus_probabilities(attachment, held_out), held_out.records, attachment.config.taxonomy
        )
        log.append(
            {
                "step": trainer.state.global_step,
                **{f"validation_{name}": value for name, value in found.items()},
            }
        )
        if progress:
            shown.console.print(" ".join(f"{name} {value:.4f}" for name, value in found.items()))
    if keep and trainer.is_world_process_zero():
        (folder / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


def _attachment(given: Any, processor: Any) -> SafetyAttachment:
    found = given if isinstance(given, SafetyAttachment) else attached_to(given)
    if found is not None:
        return found
    if processor is None:
        raise ConfigError(
            f"nothing to train: expected a SafetyAttachment, got {type(given).__name__} without a processor. "
            "Call attach_safety(model, processor) first, or pass the processor too."
        )
    return attach_safety(given, processor)


def _recipes(given: Recipe | Pathlike | Sequence[Recipe | Pathlike]) -> list[Recipe]:
    several = [given] if isinstance(given, Recipe | str | PathLike) else list(given)
    recipes = [one if isinstance(one, Recipe) else Recipe.from_yaml(one) for one in several]
    stages = [one.stage for one in recipes]
    if not stages or sorted(set(stages)) != stages:
        raise ConfigError(
            f"recipes refused: expected one of stage 1, one of stage 2, or both in order, got stages {stages}. "
            "Train the same stage again in a call of its own."
        )
    return recipes


def _corpus(attachment: SafetyAttachment, data: Data, cache_dir: Pathlike | None, progress: bool) -> Corpus:
    taxonomy = attachment.config.taxonomy
    records = read_records(data, taxonomy=taxonomy) if isinstance(data, str | PathLike) else data
    return Corpus.make(attachment.backbone, check_records(records, taxonomy), cache_dir, progress)


def _run_key(corpus: Corpus, recipe: Recipe) -> dict[str, Any]:
    """What must be equal for a checkpoint to be resumed."""
    digest = hashlib.sha256()
    for record, picture in zip(corpus.records, corpus.digests, strict=True):
        digest.update(json.dumps([picture, record.question, record.answer, record.type, record.level]).encode())
    return {"recipe": recipe.model_dump(mode="json"), "data": digest.hexdigest()}


def _checkpoint(folder: Path, key: dict[str, Any], resume: bool) -> str | None:
    """The newest whole checkpoint of a stage; notes which run the folder belongs to."""
    note = folder / "run.json"
    # trainer_state.json is written last: a folder without it was interrupted.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    if whole and not resume:
        raise ConfigError(
            f"output folder in use: expected {folder} without checkpoints, got {len(whole)}. "
            "Pass resume=True, or another output_dir."
        )
    if whole and (not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != key):
        raise ConfigError(
            f"not resumed: expected the recipe and data that {folder} was begun with, got others. "
            "Use the same, or another output_dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


@contextmanager
def _untouched(backbone: Backbone) -> Iterator[None]:
    """Refuse a training that changed the base: torch counts every write to a tensor."""
    tensors = [*backbone.model.named_parameters(), *backbone.model.named_buffers()]
    before = [(name, tensor, tensor._version, tensor.grad) for name, tensor in tensors]
    yield
    changed = [name for name, t, version, grad in before if t._version != version or t.grad is not grad]
    if changed:
        raise SafetyModulesError(
            f"the base was changed in training: expected no write to it, got some to {', '.join(changed[:5])}. "
            "Reload the base; look for code that trains it at the same time."
        )
