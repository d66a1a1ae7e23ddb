"""train_safety: from records and recipes to trained modules, both stages through one loop.

A stage that is interrupted, at any moment, goes on from its folder; one that is finished gives its weights.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file
from transformers import TrainerCallback

from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment, attached_to
from safety_modules.backbones import Backbone
from safety_modules.errors import ConfigError, DataError, SafetyModulesError
from safety_modules.io.files import write_json
from safety_modules.io.optional import install
from safety_modules.io.places import check_writable
from safety_modules.io.progress import bar
from safety_modules.records.readers import read_records
from safety_modules.records.record import GoodRecords, Record, good_records
from safety_modules.taxonomy import Taxonomy
from safety_modules.training import checkpoints, distributed
from safety_modules.training.corpus import Collator, Corpus
from safety_modules.training.features import with_digests
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.outside import LEAST, fit_outside
from safety_modules.training.predictions import corpus_judgements, verdict_metrics
from safety_modules.training.recipe import Recipe
from safety_modules.training.result_plots import write_plots
from safety_modules.training.sampling import TrainingItem, training_order
from safety_modules.training.target_answers import target_ids
from safety_modules.training.trainer import SafetyTrainer, activation_checkpointing, training_arguments

Pathlike = str | PathLike[str]
Data = Pathlike | GoodRecords | Iterable[Record]
TITLES = {1: "stage I", 2: "stage II"}


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    attachment: SafetyAttachment
    corpus: Corpus
    held_out: Corpus | None  # what the head is measured on
    keep: bool  # the folders outlive the run
    progress: bool
    tensorboard: bool
    make_objective: Callable[[SafetyAttachment, Recipe], SafetyObjective] = SafetyObjective


def train_safety(
    attachment: Any,
    data: Data,
    recipe: Recipe | Pathlike | Sequence[Recipe | Pathlike],
    validation: Data | None = None,
    output_dir: Pathlike | None = None,
    *,
    cache_dir: Pathlike | None = None,
    processor: Any = None,
    progress: bool = True,
    tensorboard: bool = False,
) -> SafetyAttachment:
    """Train safety modules and LoRA (arXiv 2405.13581, section 3.3); the base stays as it is.

    With an `output_dir` a run survives any interruption, `kill -9` included: the same call goes on where it was,
    while features are computed, in either stage and between them, and on one CPU process its weights are
    bit-identical to those of an uninterrupted run. A finished run gives its weights at once; any other run is refused.

    Several processes (`accelerate launch`) share the samples of a step, and its losses are means over all of them:
    where nothing is random (noise, patch dropout and LoRA's dropout are each process's own) the weights are those
    of one process, up to rounding.

    Args:
        attachment: from `attach_safety`, or its model, trained in place; or a base model to attach to.
        data: records, what `read_good_records` found, or a file (see `read_records`).
        recipe: of one stage, or of both in order; Recipe objects or YAML files.
        validation: as data; after each stage, and where the recipe asks for it, the head is measured on
            those with a picture.
        output_dir: gets of each stage, in `stage<N>`: log.json, training.png, checkpoints and final weights.
        cache_dir: keeps vision features between runs; None = `features` in output_dir; without both, in memory only.
        processor: of a base model to attach to.
        progress: show bars.
        tensorboard: write event files into output_dir too.

    Returns:
        The attachment. Thresholds calibrated for the head as it was are gone: calibrate again.

    Raises:
        ConfigError: recipes, design, processes or output_dir do not fit, or tensorboard is not installed.
        DataError: a record, a picture or the feature cache cannot be used, or the recipe asks for samples the
            data does not hold. All that can be known of these without the vision tower is refused before it runs.
        AttachError: the base was changed since safety was attached.
        SafetyModulesError: the loss is no longer a number, or something changed the base meanwhile.

    Does not cover: thresholds (`calibrate`) and saving (`attachment.save_pretrained`); two runs in one output_dir at
    the same time.
    """
    recipes = _recipes(recipe)
    with _attached(attachment, processor) as safety:
        backbone, taxonomy = safety.backbone, safety.config.taxonomy
        safety.check_base()
        distributed.join(backbone.device)
        for one in recipes:
            SafetyObjective(safety, one)  # a recipe that does not fit the design is refused before any work
            one.per_process(distributed.count())
        output = None if output_dir is None else Path(output_dir)
        _check_output(output, tensorboard)
        known = records_of(data, taxonomy)
        held_out = None if validation is None else records_of(validation, taxonomy).with_images()
        _check_validation(recipes, held_out)
        orders = [training_order(known.records, one) for one in recipes]

        parts = [None if part is None else with_digests(part) for part in (known, held_out)]
        keys = [checkpoints.run_key(safety, one, parts) for one in recipes]
        with distributed.sharded_as_launched(backbone), tempfile.TemporaryDirectory() as scratch:
            folders = [(output or Path(scratch)) / f"stage{one.stage}" for one in recipes]
            for folder, key in zip(folders, keys, strict=True):
                checkpoints.check(folder, key)
            cache = output / "features" if cache_dir is None and output is not None else cache_dir
            shown = progress and distributed.rank() == 0
            with safety.modules.one_look():
                corpora = [
                    None if part is None else Corpus.make(backbone, part, cache, shown, safety.modules)
                    for part in parts
                ]
                assert corpora[0] is not None
                run = Run(safety, corpora[0], corpora[1], output is not None, shown, tensorboard)
                for stage in zip(recipes, orders, keys, folders, strict=True):
                    train_stage(run, *stage)
    return safety


@contextmanager
def _attached(given: Any, processor: Any) -> Iterator[SafetyAttachment]:
    """The attachment; a model that was not attached to leaves as it came if its training fails."""
    known = given if isinstance(given, SafetyAttachment) else attached_to(given)
    if known is None and processor is None:
        raise ConfigError(
            f"nothing to train: expected a SafetyAttachment, got {type(given).__name__} without a processor. "
            "Call attach_safety(model, processor) first, or pass the processor too."
        )
    safety = attach_safety(given, processor) if known is None else known
    try:
        yield safety
    except BaseException:
        if known is None:
            safety.detach()
        raise


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


def _check_output(output: Path | None, tensorboard: bool) -> None:
    if tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(f"no TensorBoard log: expected the package tensorboard, got none. {install('tensorboard')}")
    if output is None:
        if tensorboard:
            raise ConfigError("no TensorBoard log: expected an output_dir to write it to, got None. Name one.")
        if distributed.count() > 1:
            raise ConfigError(
                f"no shared folder: expected an output_dir for {distributed.count()} processes, got None. Name one."
            )
        return
    check_writable(output)
    output.mkdir(parents=True, exist_ok=True)


def records_of(data: Data, taxonomy: Taxonomy) -> GoodRecords:
    """What is given as data, read and checked. Raises DataError."""
    return good_records(read_records(data, taxonomy=taxonomy) if isinstance(data, str | PathLike) else data, taxonomy)


def _check_validation(recipes: Sequence[Recipe], held_out: GoodRecords | None) -> None:
    if held_out is not None and not held_out.records:
        raise DataError("nothing to measure on: expected validation records with a picture, got none. Add some.")
    if not any(one.evaluate_every for one in recipes):
        return
    if held_out is None:
        raise ConfigError(
            "nothing to measure on: expected validation data for evaluate_every, got none. Pass some, or take "
            "evaluate_every out of the recipe."
        )
    risky = sum(record.is_risky for record in held_out.records)
    if risky in (0, len(held_out.records)):  # there is no best AUROC where there is none
        raise DataError(
            f"no AUROC: expected clean and risky records in the validation data, got {risky} risky of "
            f"{len(held_out.records)}. Add the others."
        )


def train_stage(run: Run, recipe: Recipe, order: list[TrainingItem], key: dict[str, Any], folder: Path) -> None:
    """Train, or go on, or take what a finished run left in the stage's folder; `checkpoints.run_key` names the run."""
    attachment = run.attachment
    checkpoint = checkpoints.begin(folder, key, attachment)
    objective = run.make_objective(attachment, recipe)
    final = checkpoints.final_weights(folder)
    if final is None:
        log, types = _train_objective(run, recipe, order, objective, checkpoint, folder), None
        if run.held_out is not None:
            found, types = head_quality(run)
            step = max((entry["step"] for entry in log), default=0)
            log.append({"step": step, **{f"validation_{name}": value for name, value in found.items()}})
            if run.progress:
                Console().print(" ".join(f"{name} {value:.4f}" for name, value in found.items()))
        if run.keep and distributed.rank() == 0:
            write_json(folder / "log.json", log)
            records = () if run.held_out is None else run.held_out.records
            write_plots(folder / "training.png", log, attachment.config.taxonomy, types, records)
            checkpoints.finish(folder, objective.state_dict())
        distributed.wait()
    else:
        objective.load_state_dict(final)
    if recipe.trains_head:
        attachment.thresholds, attachment.temperature = {}, 1.0
        attachment.trained = True
        if not fit_outside(attachment, run.corpus) and run.progress:
            Console().print(f"verdicts will not say what is outside: fewer than {LEAST} different pictures")


def _train_objective(
    run: Run,
    recipe: Recipe,
    order: list[TrainingItem],
    objective: SafetyObjective,
    checkpoint: Path | None,
    folder: Path,
) -> list[dict[str, Any]]:
    """Returns the log."""
    attachment, backbone = run.attachment, run.attachment.backbone
    best = None if checkpoint is None else checkpoints.ended_early(checkpoint, recipe)
    if checkpoint is not None and best is not None:
        objective.load_state_dict(load_file(best / checkpoints.WEIGHTS))
        return json.loads((checkpoint / checkpoints.STATE).read_bytes())["log_history"]
    answers = None
    if recipe.stage == 2:
        asked = {item.record for item in order}
        answers = target_ids(attachment, run.corpus, asked, recipe, run.progress, folder / "answers.jsonl")
    args = training_arguments(recipe, str(folder), backbone.device, save=run.keep)
    collator = Collator(attachment, run.corpus, recipe, answers)
    checkpointing = activation_checkpointing(backbone.language_model, recipe.activation_checkpointing)
    with bar(run.progress) as shown, checkpointing, attachment.base_frozen(), _untouched(backbone):
        line = shown.add_task(TITLES[recipe.stage], total=recipe.steps, note="")
        callbacks = _tensorboard(folder) if run.tensorboard and distributed.rank() == 0 else []
        trainer = SafetyTrainer(
            objective, args, order, collator, (shown, line), lambda: head_quality(run)[0], callbacks
        )
        try:
            if checkpoint is not None and run.progress:
                shown.console.print(f"resuming {TITLES[recipe.stage]} at step {checkpoints.step_of(checkpoint)}")
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            attachment.train(False)
    return trainer.state.log_history


def head_quality(run: Run) -> tuple[dict[str, float], Any]:
    """Metrics of the head on the validation data, and its probabilities of the types."""
    assert run.held_out is not None
    found = corpus_judgements(run.attachment, run.held_out)
    taxonomy = run.attachment.config.taxonomy
    return verdict_metrics(found.types, found.levels, run.held_out.records, taxonomy), found.types


def _tensorboard(folder: Path) -> list[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))]


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
