"""train_safety: from records and recipes to trained modules, both stages through one loop."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment, attached_to
from safety_modules.errors import ConfigError, DataError
from safety_modules.io.optional import install
from safety_modules.io.places import check_writable
from safety_modules.records.readers import read_records
from safety_modules.records.record import GoodRecords, Record, good_records
from safety_modules.training import checkpoints, processes
from safety_modules.training.corpus import Corpus
from safety_modules.training.draws import make_draws
from safety_modules.training.features import digests_of
from safety_modules.training.recipe import Recipe
from safety_modules.training.sharding import sharded_as_launched
from safety_modules.training.stage import Run, train_stage
from safety_modules.training.task import SafetyTask

Pathlike = str | PathLike[str]
Data = Pathlike | GoodRecords | Iterable[Record]


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
    found = attachment if isinstance(attachment, SafetyAttachment) else attached_to(attachment)
    safety = _attach(attachment, processor) if found is None else found
    try:
        _train(safety, data, recipes, validation, output_dir, cache_dir, progress, tensorboard)
    except BaseException:
        if found is None:  # a model that was not attached to leaves as it came
            safety.detach()
        raise
    return safety


def _train(
    attachment: SafetyAttachment,
    data: Data,
    recipes: Sequence[Recipe],
    validation: Data | None,
    output_dir: Pathlike | None,
    cache_dir: Pathlike | None,
    progress: bool,
    tensorboard: bool,
) -> None:
    backbone = attachment.backbone
    attachment.check_base()
    processes.join(backbone.device)
    for one in recipes:
        SafetyTask(attachment, one)  # a recipe that does not fit the design is refused before any work
        processes.share(one, processes.count())
    output = None if output_dir is None else Path(output_dir)
    _check_output(output, tensorboard)
    known = _records(attachment, data)
    held_out = None if validation is None else _with_images(_records(attachment, validation))
    _check_validation(recipes, held_out)
    draws = [make_draws(known.records, one) for one in recipes]

    parts = [None if part is None else _with_digests(part) for part in (known, held_out)]
    keys = [checkpoints.run_key(attachment, one, parts) for one in recipes]
    with sharded_as_launched(backbone), tempfile.TemporaryDirectory() as scratch:
        folders = [(output or Path(scratch)) / f"stage{one.stage}" for one in recipes]
        for folder, key in zip(folders, keys, strict=True):
            checkpoints.check_run(folder, key)
        cache = output / "features" if cache_dir is None and output is not None else cache_dir
        shown = progress and processes.rank() == 0
        corpora = [None if part is None else Corpus.make(backbone, part, cache, shown) for part in parts]
        assert corpora[0] is not None
        run = Run(attachment, corpora[0], corpora[1], output is not None, shown, tensorboard)
        for stage in zip(recipes, draws, keys, folders, strict=True):
            train_stage(run, *stage)


def _attach(given: Any, processor: Any) -> SafetyAttachment:
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


def _records(attachment: SafetyAttachment, data: Data) -> GoodRecords:
    taxonomy = attachment.config.taxonomy
    return good_records(read_records(data, taxonomy=taxonomy) if isinstance(data, str | PathLike) else data, taxonomy)


def _with_digests(data: GoodRecords) -> GoodRecords:
    return data if data.digests is not None else replace(data, digests=digests_of(data.records))


def _with_images(data: GoodRecords) -> GoodRecords:
    found = data.with_images()
    if not found.records:
        raise DataError("nothing to measure on: expected validation records with a picture, got none. Add some.")
    return found


def _check_output(output: Path | None, tensorboard: bool) -> None:
    if tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(f"no TensorBoard log: expected the package tensorboard, got none. {install('tensorboard')}")
    if output is None:
        if tensorboard:
            raise ConfigError("no TensorBoard log: expected an output_dir to write it to, got None. Name one.")
        if processes.count() > 1:
            raise ConfigError(
                f"no shared folder: expected an output_dir for {processes.count()} processes, got None. Name one."
            )
        return
    check_writable(output)
    output.mkdir(parents=True, exist_ok=True)


def _check_validation(recipes: Sequence[Recipe], held_out: GoodRecords | None) -> None:
    """Whoever asks for the best AUROC needs data that has one."""
    if not any(one.evaluate_every for one in recipes):
        return
    if held_out is None:
        raise ConfigError(
            "nothing to measure on: expected validation data for evaluate_every, got none. Pass some, or take "
            "evaluate_every out of the recipe."
        )
    risky = sum(record.is_risky for record in held_out.records)
    if risky in (0, len(held_out.records)):
        raise DataError(
            f"no AUROC: expected clean and risky records in the validation data, got {risky} risky of "
            f"{len(held_out.records)}. Add the others."
        )
