"""Training recipes: one YAML file a stage, validated; unknown keys are errors."""

from difflib import get_close_matches
from math import gcd
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safety_modules.errors import ConfigError, validation_problems
from safety_modules.io.strict import load_yaml

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

STAGE_2_ONLY = (
    "modules_learning_rate",
    "text_only_share",
    "hint_rate",
    "caution",
    "answer_tokens",
    "lora_dropout",
    "activation_checkpointing",
)


class Recipe(BaseModel):
    """How one stage is trained.

    Attributes:
        stage: 1 = projector, head tokens and head on cached features; 2 = LoRA and language-model tokens, with
            the head's losses beside, so that the head does not drift.
        steps: optimizer steps.
        batch_size: samples of one forward pass.
        gradient_accumulation: forward passes of one step. Several processes share a step's passes, or, where they do
            not divide, the samples of each: a step has batch_size x gradient_accumulation samples, whoever runs it.
        learning_rate: the highest; AdamW.
        modules_learning_rate: stage 2: of projector, head tokens and head; None = learning_rate.
        schedule: of the learning rate after the warm-up.
        warmup_steps: steps of linear rise.
        weight_decay: on matrices only; not on biases, norms and tokens.
        max_grad_norm: gradients are clipped to it.
        seed: of the order of the samples, dropout and noise.
        clean_share: share of clean samples among those with an image; None = as in the data.
        balance: among risky samples: `level` (every type and level equally often), `type`, or `none`.
        no_question_rate: share of samples whose question the head does not see, so that it can also judge images
            alone.
        feature_noise: standard deviation of noise on the vision features, relative to theirs; the head only.
        patch_dropout: share of each picture's patches that the head does not see in a step (PatchDropout, arXiv
            2208.07220): steps get cheaper, and the head cannot lean on one patch. Not with the `c_abstractor`.
        label_smoothing: of the head's losses.
        type_weight: of CE(type).
        level_weight: of CE(level). Stage 2 with both weights zero leaves the head as it is.
        text_only_share: stage 2: share of samples without an image.
        hint_rate: stage 2: share of risky samples whose prompt holds the policy's hint.
        caution: stage 2: the target of a sample of the mildest level; {reason}, {type} and {answer} are filled in.
        answer_tokens: stage 2: longest answer asked from the base where a record has none.
        length_window: samples are sorted by length within this many batches, to save padding; 1 = not.
        lora_dropout: stage 2: whether the design's dropout on LoRA's inputs is on. On a CPU it can take two fifths of a
            step.
        precision: of the forward and backward passes; what is trained stays float32. The base keeps its own.
        activation_checkpointing: stage 2: the language model's activations are computed again in the backward pass
            instead of kept; a step takes less memory and a third more time.
        evaluate_every: steps between measurements of the head on the validation data; the weights with the best
            AUROC are kept. 0 = only measured, at the end.
        patience: measurements without a better AUROC after which the stage ends; 0 = it runs to its last step.
        log_every: steps between log entries.
        save_every: steps between checkpoints; 0 = only at the end. With evaluate_every, one comes with each
            measurement instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal[1, 2]
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    gradient_accumulation: int = Field(default=1, gt=0)
    learning_rate: float = Field(gt=0)
    modules_learning_rate: NotNegative | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: NotNegative = 0.0
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
    clean_share: Share | None = None
    balance: Literal["level", "type", "none"] = "level"
    no_question_rate: Share = 0.1
    feature_noise: NotNegative = 0.0
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    type_weight: NotNegative = 1.0
    level_weight: NotNegative = 1.0
    text_only_share: Share = 0.0
    hint_rate: Share = 0.6
    caution: str = "Please be careful. {reason} {answer}"
    answer_tokens: int = Field(default=48, gt=0)
    length_window: int = Field(default=4, gt=0)
    lora_dropout: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = False
    evaluate_every: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)
    log_every: int = Field(default=25, gt=0)
    save_every: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _fits_stage(self) -> "Recipe":
        if self.stage == 1:
            extra = [name for name in STAGE_2_ONLY if name in self.model_fields_set]
            if extra:
                raise ValueError(f"stage 1 does not know {', '.join(extra)}")
            if self.type_weight == self.level_weight == 0:
                raise ValueError("stage 1 trains the head: type_weight and level_weight cannot both be 0")
        if self.patience and not self.evaluate_every:
            raise ValueError("patience counts measurements: evaluate_every cannot be 0")
        if self.evaluate_every and not self.trains_head:
            raise ValueError("evaluate_every measures the head: type_weight and level_weight cannot both be 0")
        if self.evaluate_every > self.steps:
            raise ValueError("evaluate_every cannot be more than steps")
        return self

    @property
    def trains_head(self) -> bool:
        """Whether projector, head tokens and head are trained."""
        return self.type_weight > 0 or self.level_weight > 0

    @property
    def samples(self) -> int:
        """Samples drawn in all steps, by all processes together."""
        return self.steps * self.batch_size * self.gradient_accumulation

    def per_process(self, processes: int) -> tuple[int, int]:
        """Batch size and gradient accumulation of each process, so that a step has the same samples, whoever runs it.

        The forward passes of a step are shared out; where they do not divide, each pass is split.

        Raises:
            ConfigError: neither divides.
        """
        passes = gcd(self.gradient_accumulation, processes)
        parts = processes // passes
        if self.batch_size % parts:
            raise ConfigError(
                f"step not shared: expected {self.gradient_accumulation} x {self.batch_size} samples "
                f"(gradient_accumulation x batch_size) to divide among the processes, got {processes} of them. "
                "Change one of the three."
            )
        return self.batch_size // parts, self.gradient_accumulation // passes

    @classmethod
    def from_yaml(cls, path: str | PathLike[str], **overrides: Any) -> "Recipe":
        """Read a recipe.

        Args:
            path: the YAML file.
            overrides: values that replace the file's.

        Raises:
            ConfigError: naming every problem; for an unknown key also the nearest valid one.
        """
        try:
            values = load_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"recipe {path} not read: expected a YAML file, got {error}. Correct it.") from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"recipe {path} refused: expected keys and values, got {type(values).__name__}. Correct it."
            )
        return cls._checked({**values, **overrides}, f"recipe {path}", "Correct the file.")

    def changed(self, **overrides: Any) -> "Recipe":
        """A copy with other values. Raises ConfigError naming every problem."""
        values = {**self.model_dump(exclude_unset=True), **overrides}
        return self._checked(values, f"recipe of stage {self.stage}, changed,", "Correct the changes.")

    @classmethod
    def _checked(cls, values: dict[Any, Any], what: str, next_step: str) -> "Recipe":
        known, recipe = cls.model_fields, None
        problems = [
            f"unknown key {key!r}: did you mean {get_close_matches(key, known, n=1, cutoff=0)[0]!r}?"
            for key in map(str, values)
            if key not in known
        ]
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            problems += [line for line in validation_problems(error) if not line.startswith("unknown key")]
        if problems or recipe is None:
            lines = "".join(f"\n  - {problem}" for problem in problems)
            raise ConfigError(f"{what} refused:{lines}\n{next_step}")
        return recipe
