"""The training loop: transformers' Trainer around a SafetyObjective."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from safety_modules.errors import ConfigError, SafetyModulesError
from safety_modules.training import distributed
from safety_modules.training.checkpoints import mark, out_of_patience
from safety_modules.training.corpus import PARTS, Collator, count_items
from safety_modules.training.objective import SafetyObjective
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import TrainingItem

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
AUROC = "eval_auroc"
LOSSES = ("type_loss", "level_loss", "lm_loss")
CHECKPOINTING, FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"  # in transformers' blocks


def training_arguments(recipe: Recipe, output_dir: str, device: torch.device, save: bool) -> TrainingArguments:
    """transformers' arguments for a recipe (4.57 to the newest), as this one of the processes needs them."""
    batch_size, accumulation = recipe.per_process(distributed.count())
    best = recipe.evaluate_every > 0
    arguments = TrainingArguments(
        output_dir=output_dir,
        max_steps=recipe.steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bfloat16",
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,  # a loss that is no number must show
        eval_strategy="steps" if best else "no",
        eval_steps=recipe.evaluate_every or None,
        load_best_model_at_end=best,
        metric_for_best_model=AUROC if best else None,
        greater_is_better=True if best else None,
        save_strategy="steps" if save or best else "no",
        save_steps=recipe.evaluate_every or recipe.save_every or recipe.steps,
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=True,  # a batch without pictures trains no head
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # the base lies on its own device; DataParallel would copy only the task
    return arguments


class SafetyTrainer(Trainer):
    """Trainer that keeps the order of the samples, mounts LoRA for its steps only and gives each part its own rate.

    Losses are means over a whole step: over all its pictures, or answer tokens, in all forward passes of all
    processes. Checkpoints hold what the objective trains, the optimizer and the random state; no base tensor.
    `measure` gives the head's quality on validation data, where the recipe asks for it.
    """

    def __init__(
        self,
        objective: SafetyObjective,
        args: TrainingArguments,
        items: list[TrainingItem],
        collator: Collator,
        progress: tuple[Progress, TaskID],
        measure: Callable[[], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._measure = measure
        super().__init__(
            model=objective,
            args=args,
            train_dataset=items,
            eval_dataset=items if args.load_best_model_at_end else None,  # Trainer wants one; `evaluate` has its own
            data_collator=collator,
            callbacks=[_Follow(*progress), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if args.world_size > 1:
            set_seed(args.seed + args.process_index)  # else all processes would hide the same patches

    def _get_train_sampler(self, *_args: Any) -> Sampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_args: Any) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            make, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = make(self.model.parameter_groups(), **options)
        return self.optimizer

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step. Each gets the factor that makes its mean losses count by their share of the step,
        after DistributedDataParallel and Trainer have divided them by processes and forward passes.
        """
        batches, counted = super().get_batch_samples(*args, **kwargs)
        passes = distributed.count() * len(batches)
        if passes > 1:
            counts = [count_items(batch) for batch in batches]
            totals = distributed.total([sum(count[part] for count in counts) for part in PARTS], self.args.device)
            whole = dict(zip(PARTS, totals, strict=True))
            for batch, count in zip(batches, counts, strict=True):
                batch["shares"] = {part: passes * count[part] / max(whole[part], 1) for part in PARTS}
        return batches, counted

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Until after backward: checkpointed activations run the layers again.
        with self.model.attachment.lora_mounted(self.model.recipe.stage == 2):
            return super().training_step(model, *args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_kwargs: Any
    ) -> Any:
        counts = count_items(inputs)
        outputs = model(**inputs)
        for name, value in outputs.items():
            if name != "loss":
                count = counts["lm" if name == "lm" else "head"]
                self._sums[name] = self._sums.get(name, 0) + value.detach() * count
                self._counts[name] = self._counts.get(name, 0) + count
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for name, total in self._sums.items():
                logs[f"{name}_loss"] = round(float(total) / max(self._counts[name], 1), 4)
            self._sums.clear()
            self._counts.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        assert self._measure is not None
        found = {f"eval_{name}": value for name, value in self._measure().items()}
        self.log(found)
        control = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, found)
        return found

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        distributed.wait()
        folder, best = Path(self.args.output_dir), self.state.best_global_step
        if distributed.rank() == 0:
            mark(folder / f"checkpoint-{self.state.global_step}", keep=f"checkpoint-{best}")
        recipe = self.model.recipe
        if best is not None and out_of_patience(self.state.global_step, best, recipe):
            self.control.should_training_stop = True

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        wrong = [*load_result.missing_keys, *load_result.unexpected_keys]
        if wrong:
            raise SafetyModulesError(
                f"checkpoint refused: expected the tensors this design trains, got others: {', '.join(wrong[:10])}. "
                "Resume with the design the run began with."
            )


class _Follow(TrainerCallback):
    """Shows steps and losses; stops a run whose loss is no longer a number."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise SafetyModulesError(
                f"training diverged at step {state.global_step}: expected a number as loss, got {logs['loss']}. "
                "Lower the recipe's learning_rate."
            )
        parts = " ".join(f"{name[:-5]} {logs[name]:.3f}" for name in logs if name in LOSSES)
        self.progress.update(self.task, note=f"loss {logs['loss']:.3f} ({parts})")


@contextmanager
def activation_checkpointing(language_model: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside this block the language model's blocks keep their inputs only, and the backward pass computes the rest
    again (arXiv 1604.06174); afterwards the model is as it was.

    transformers' own switch would leave a function in every block, and hooks on a model with an adapter.

    Raises:
        ConfigError: it has no blocks that can.
    """
    blocks = [part for part in language_model.modules() if hasattr(part, CHECKPOINTING)] if on else []
    if on and not blocks:
        raise ConfigError(
            f"no activation checkpointing: expected a language model that supports it, got "
            f"{type(language_model).__name__}. Take activation_checkpointing out of the recipe."
        )
    before: list[dict[str, Any]] = []
    for block in blocks:
        own = vars(block)
        before.append({name: own[name] for name in (CHECKPOINTING, FUNCTION) if name in own})
        own[CHECKPOINTING], own[FUNCTION] = True, functools.partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for block, known in zip(blocks, before, strict=True):
            for name in (CHECKPOINTING, FUNCTION):
                vars(block).pop(name, None)
            vars(block).update(known)
