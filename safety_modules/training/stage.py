"""One stage of training, from its recipe to its final weights; interrupted at any moment, it goes on."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file
from transformers import TrainerCallback

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.errors import SafetyModulesError
from safety_modules.io.files import write_whole
from safety_modules.io.progress import bar
from safety_modules.training import checkpoints, processes
from safety_modules.training.corpus import Collator, Corpus
from safety_modules.training.draws import Draw
from safety_modules.training.loop import SafetyTrainer, training_arguments
from safety_modules.training.memory import activation_checkpointing
from safety_modules.training.plots import write_plots
from safety_modules.training.probabilities import corpus_probabilities, verdict_metrics
from safety_modules.training.recipe import Recipe
from safety_modules.training.targets import target_ids
from safety_modules.training.task import SafetyTask

TITLES = {1: "stage I", 2: "stage II"}


@dataclass(frozen=True)
class Run:
    """What all stages of a run share.

    Attributes:
        attachment: what is trained.
        corpus: what on.
        held_out: what the head is measured on.
        keep: whether the folders outlive the run.
        progress: show bars.
        tensorboard: write its event files too.
        make_task: what a stage trains, and its loss.
    """

    attachment: SafetyAttachment
    corpus: Corpus
    held_out: Corpus | None
    keep: bool
    progress: bool
    tensorboard: bool
    make_task: Callable[[SafetyAttachment, Recipe], SafetyTask] = SafetyTask


def train_stage(run: Run, recipe: Recipe, draws: list[Draw], key: dict[str, Any], folder: Path) -> None:
    """Train, or go on, or take what a finished run left in the folder.

    Args:
        run: see `Run`.
        recipe: of the stage.
        draws: the order of the samples.
        key: names the run (`checkpoints.run_key`).
        folder: of the stage.
    """
    attachment = run.attachment
    key = {**key, "weights it starts from": checkpoints.weights_digest(attachment)}
    checkpoint = checkpoints.begin(folder, key)
    task = run.make_task(attachment, recipe)
    final = checkpoints.final_weights(folder)
    if final is None:
        log = _train(run, recipe, draws, task, checkpoint, folder)
        types = _measure(run, log) if run.held_out is not None else None
        if run.keep and processes.rank() == 0:
            text = json.dumps(log, indent=1) + "\n"
            write_whole(folder / "log.json", lambda file: file.write(text.encode()))
            records = () if run.held_out is None else run.held_out.records
            write_plots(folder / "training.png", log, attachment.config.taxonomy, types, records)
            checkpoints.finish(folder, task.state_dict())
        processes.wait()
    else:
        task.load_state_dict(final)
    if recipe.trains_head:
        attachment.thresholds, attachment.temperature = {}, 1.0
        attachment.trained = True


def _train(
    run: Run, recipe: Recipe, draws: list[Draw], task: SafetyTask, checkpoint: Path | None, folder: Path
) -> list[dict[str, Any]]:
    """Train the task; returns the log."""
    attachment, backbone = run.attachment, run.attachment.backbone
    best = None if checkpoint is None else checkpoints.ended_early(checkpoint, recipe)
    if checkpoint is not None and best is not None:
        task.load_state_dict(load_file(best / checkpoints.WEIGHTS))
        return json.loads((checkpoint / checkpoints.STATE).read_bytes())["log_history"]
    answers = None
    if recipe.stage == 2:
        drawn = {draw.record for draw in draws}
        answers = target_ids(attachment, run.corpus, drawn, recipe, run.progress, folder / "answers.jsonl")
    args = training_arguments(recipe, str(folder), backbone.device, save=run.keep)
    collator = Collator(attachment, run.corpus, recipe, answers)
    checkpointing = activation_checkpointing(backbone.language_model, recipe.activation_checkpointing)
    with bar(run.progress) as shown, checkpointing, attachment.base_frozen(), _untouched(backbone):
        line = shown.add_task(TITLES[recipe.stage], total=recipe.steps, note="")
        callbacks = _tensorboard(folder) if run.tensorboard and processes.rank() == 0 else []
        trainer = SafetyTrainer(task, args, draws, collator, (shown, line), lambda: head_quality(run)[0], callbacks)
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
    types, levels = corpus_probabilities(run.attachment, run.held_out)
    taxonomy = run.attachment.config.taxonomy
    return verdict_metrics(types, levels, run.held_out.records, taxonomy), types


def _measure(run: Run, log: list[dict[str, Any]]) -> Any:
    """Add the final quality to the log; returns the probabilities of the types."""
    found, types = head_quality(run)
    step = max((entry["step"] for entry in log), default=0)
    log.append({"step": step, **{f"validation_{name}": value for name, value in found.items()}})
    if run.progress:
        Console().print(" ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return types


def _tensorboard(folder: Path) -> Sequence[TrainerCallback]:
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
