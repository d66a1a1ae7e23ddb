"""What a stage needs: memory of each process, disk, and arithmetic, from configurations alone (nothing is loaded)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import LlavaConfig

from safety_modules.adapter.parameters import WORDS, count_parameters
from safety_modules.backbones.bases import (
    PUBLISHED,
    QUANTISED,
    config_sizes,
    find_base,
    local_config,
    published_config,
    without_weights,
)
from safety_modules.backbones.hf_llava import HFModules
from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.errors import ConfigError
from safety_modules.training import processes
from safety_modules.training.dry_step import Step, tower_flops
from safety_modules.training.metering import ATTENTION, Metered
from safety_modules.training.recipe import Recipe

FEW, MORE = 2, 3
"""Blocks of the two metered models: what one block more costs, every block costs."""


@dataclass(frozen=True)
class Setting:
    """How a stage is run, as far as the recipe does not say it.

    Attributes:
        dtype: of the base's weights where they are not quantised.
        quantise: of the linears in the language model's blocks.
        processes: training together; a step's samples are shared out.
        sharded: the blocks are spread over the processes (FSDP).
        text_tokens: of a sample beside its picture: question, hint and answer.
        answer_tokens: those of them that are learned.
        pictures: distinct ones in the data.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    quantise: str | None = None
    processes: int = 1
    sharded: bool = False
    text_tokens: int = 256
    answer_tokens: int = 128
    pictures: int = 0


@dataclass(frozen=True)
class Budget:
    """What a stage needs.

    Attributes:
        memory: bytes on the device of each process, by what they hold; activations as the recipe keeps them.
        activations: the same step's activations without and with checkpointing.
        features: bytes of the feature cache on disk.
        read: bytes of it that each process reads in one optimizer step; in stage I this, not arithmetic, is what takes
            the time.
        tower_flops: to fill the cache.
        step_flops: of one optimizer step, on each process.
        steps: of the stage.
    """

    memory: dict[str, int]
    activations: dict[str, int]
    features: int
    read: int
    tower_flops: int
    step_flops: int
    steps: int

    @property
    def total(self) -> int:
        """Bytes on the device of each process. Not in it: the CUDA context and what the allocator loses to gaps."""
        return sum(self.memory.values())


def base_config(base: str) -> LlavaConfig:
    """The configuration of a base: a published name, a folder with config.json, or a hub id.

    Raises:
        ConfigError: neither, or not a LLaVA-1.5.
    """
    if base in PUBLISHED:
        return published_config(base)
    folder = find_base(base)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"no base to plan for: expected one of {', '.join(PUBLISHED)}, a folder with config.json or a hub id, got "
            f"{base}. Check the name."
        )
    return local_config(folder)


def make_budget(config: LlavaConfig, design: SafetyConfig, recipe: Recipe, setting: Setting) -> Budget:
    """What a stage needs on a base.

    Raises:
        ConfigError: the design does not fit the base, a step cannot be shared out, or the base is to be quantised in
            an unknown way, or quantised and spread over processes.
    """
    if setting.quantise not in (None, *QUANTISED):
        raise ConfigError(
            f"unknown quantisation: expected {' or '.join(QUANTISED)}, got {setting.quantise!r}. Pick one of them."
        )
    if setting.sharded and setting.quantise:
        raise ConfigError(
            f"no plan: expected a base that is sharded or quantised, got both ({setting.quantise}). Drop one of them."
        )
    model = _model(config, FEW, setting)
    sizes = config_sizes(config)
    rows, passes = processes.share(recipe, setting.processes)
    step = Step(design, recipe, sizes, rows, setting.text_tokens, setting.answer_tokens)
    kept = _step(config, step, setting, checkpointed=False)
    again = _step(config, step, setting, checkpointed=True) if recipe.stage == 2 else kept
    chosen = again if recipe.activation_checkpointing else kept
    trained = _trained(design, recipe, sizes)
    weights, borrowed = _weights(model, sizes, setting)
    picture = 2 * sizes.num_patches * sizes.vision_width  # float16
    return Budget(
        memory={
            "base weights": weights,
            "weights unpacked or gathered while used": borrowed if recipe.stage == 2 else 0,
            "safety modules and LoRA": 4 * count_parameters(Guard.kind, GuardSettings(design=design), sizes).total,
            "gradients": 4 * trained,
            "AdamW's two moments": 8 * trained,
            "activations": chosen.peak,
        },
        activations={"kept": kept.peak, "checkpointed": again.peak},
        features=setting.pictures * picture,
        read=rows * passes * picture,
        tower_flops=-(-setting.pictures // setting.processes) * tower_flops(model, sizes),
        step_flops=passes * chosen.flops,
        steps=recipe.steps,
    )


def _model(config: LlavaConfig, blocks: int, setting: Setting) -> Any:
    return without_weights(config, blocks, dtype=getattr(torch, setting.dtype), attn_implementation=ATTENTION)


def _step(config: LlavaConfig, step: Step, setting: Setting, checkpointed: bool) -> Metered:
    """One forward and backward pass with all blocks, from two models with a few."""
    few, more = (step.metered(_model(config, blocks, setting), checkpointed) for blocks in (FEW, MORE))
    blocks = step.sizes.num_layers - FEW
    return Metered(*(low + blocks * (high - low) // (MORE - FEW) for low, high in zip(few, more, strict=True)))


def _trained(design: SafetyConfig, recipe: Recipe, sizes: BaseSizes) -> int:
    """Parameters that a stage trains."""
    parts = count_parameters(Guard.kind, GuardSettings(design=design), sizes).parts
    head = {WORDS[name] for name in ("projector", "head_tokens", "head", "peers")}
    return sum(size for name, size in parts.items() if (recipe.trains_head if name in head else recipe.stage == 2))


def _weights(model: Any, sizes: BaseSizes, setting: Setting) -> tuple[int, int]:
    """Bytes of the base on each process, and of what is unpacked or gathered while blocks run."""
    blocks = HFModules(model).blocks
    everything, block = _bytes(model), _bytes(blocks[0])
    rest = everything - len(blocks) * block
    if setting.sharded:
        # One runs while the next one's weights arrive.
        return rest + sizes.num_layers * block // setting.processes, 2 * block
    if setting.quantise is None:
        return rest + sizes.num_layers * block, 0
    linears = [inputs * outputs for _, inputs, outputs in sizes.linears]
    width = model.dtype.itemsize
    packed = sum(quantised_bytes(setting.quantise, inputs, outputs) for _, inputs, outputs in sizes.linears)
    return rest + sizes.num_layers * (block - width * sum(linears) + packed), width * max(linears)


def quantised_bytes(way: str, inputs: int, outputs: int) -> int:
    """A linear's weight as bitsandbytes holds it.

    nf4: half a byte each, a float32 scale for every 64. int8: a byte each, a float32 scale for every output.
    """
    count = inputs * outputs
    return count // 2 + 4 * (count // 64) if way == "nf4" else count + 4 * outputs


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
