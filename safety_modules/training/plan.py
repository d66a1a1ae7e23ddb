"""Memory of each process, disk and arithmetic that a stage needs, from configurations alone (nothing is loaded).

A step is run without data, on torch's meta device, and it is the library's own code: what transformers, peft and torch
keep for the backward pass is counted as they keep it. Only attention is replaced, by the kernel that GPUs use.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from safety_modules.adapter.parameters import WORDS, count_parameters
from safety_modules.backbones.bases import QUANTISED, config_sizes, modules_of, without_weights
from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import ConfigError
from safety_modules.mount.lora import ADAPTER, lora_config
from safety_modules.training.losses import head_loss, language_model_loss
from safety_modules.training.recipe import Recipe
from safety_modules.training.trainer import activation_checkpointing

FEW, MORE = 2, 3
"""Blocks of the two models that are run: what one block more costs, every block costs."""
ATTENTION = "metered"
"""Name of the attention they have: on the meta device torch would choose one that no GPU uses."""


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
class Resources:
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


class Cost(NamedTuple):
    """What a computation takes.

    Attributes:
        peak: bytes at the highest point, beside those that were there before.
        flops: floating-point operations of matrix products, convolutions and attention.
    """

    peak: int
    flops: int


def stage_resources(config: Any, design: SafetyConfig, recipe: Recipe, setting: Setting) -> Resources:
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
    model, blocks = _model(config, FEW, setting), config.text_config.num_hidden_layers
    sizes = config_sizes(config)
    rows, passes = recipe.per_process(setting.processes)

    def step(checkpointed: bool) -> Cost:
        models = (_model(config, few, setting) for few in (FEW, MORE))
        few, more = (step_cost(one, design, recipe, setting, rows, checkpointed) for one in models)
        return Cost(*(low + (blocks - FEW) * (high - low) // (MORE - FEW) for low, high in zip(few, more, strict=True)))

    kept = step(checkpointed=False)
    again = step(checkpointed=True) if recipe.stage == 2 else kept
    chosen = again if recipe.activation_checkpointing else kept
    parts = count_parameters(Guard.kind, GuardSettings(design=design), sizes).parts
    head = {WORDS[name] for name in ("projector", "head_tokens", "head", "peers")}
    trained = sum(size for name, size in parts.items() if (recipe.trains_head if name in head else recipe.stage == 2))
    weights, borrowed = _weights(model, sizes, setting)
    picture = 2 * sizes.num_patches * sizes.vision_width  # float16
    return Resources(
        memory={
            "base weights": weights,
            "weights unpacked or gathered while used": borrowed if recipe.stage == 2 else 0,
            "safety modules and LoRA": 4 * sum(parts.values()),
            "gradients": 4 * trained,
            "AdamW's two moments": 8 * trained,
            "activations": chosen.peak,
        },
        activations={"kept": kept.peak, "checkpointed": again.peak},
        features=setting.pictures * picture,
        read=rows * passes * picture,
        tower_flops=-(-setting.pictures // setting.processes) * _tower_flops(model),
        step_flops=passes * chosen.flops,
        steps=recipe.steps,
    )


def step_cost(
    model: Any, design: SafetyConfig, recipe: Recipe, setting: Setting, rows: int, checkpointed: bool
) -> Cost:
    """One forward and backward pass of rows with a picture each, beside the weights and gradients.

    The model is on the meta device, and LoRA is put on it.

    Does not cover: torch's autocast, which knows no meta tensors. Where the recipe's precision is bfloat16, LoRA is
    taken to be bfloat16, as autocast computes it, and the modules float32, which is more than they take.
    """
    base = modules_of(model)
    sizes, language_model = base.read_sizes(), base.language_model
    with torch.device("meta"):
        modules = SafetyModules(design, sizes).train()
        modules.judge_by(None)  # training looks once
        known = [*model.parameters(), *model.buffers(), *modules.parameters()]
        if recipe.stage == 2 and design.lora is not None:
            LoraModel(language_model, lora_config(design.lora), ADAPTER)
            lora = [parameter for parameter in language_model.parameters() if parameter.requires_grad]
            for parameter in lora:
                parameter.data = parameter.data.to(getattr(torch, recipe.precision))
            known += lora
        for tensor in known:
            if tensor.requires_grad:
                tensor.grad = torch.zeros_like(tensor)
        known += [tensor.grad for tensor in known if tensor.grad is not None]

        def head() -> torch.Tensor:
            seen = max(1, round(sizes.num_patches * (1 - recipe.patch_dropout)))
            vision = torch.empty(rows, seen, sizes.vision_width)
            question = torch.empty(rows, setting.text_tokens - setting.answer_tokens, sizes.text_width)
            output = modules(vision, question, torch.ones(question.shape[:2], dtype=torch.bool))
            labels = torch.zeros(rows, dtype=torch.long)
            return head_loss(output.type_logits, output.level_logits, labels, labels).total

        def answers() -> torch.Tensor:
            kept = setting.answer_tokens + 1
            prompt = torch.empty(rows, sizes.num_patches + setting.text_tokens, sizes.text_width, dtype=model.dtype)
            tokens = modules.lm_tokens().to(model.dtype).expand(rows, -1, -1)
            embedded = torch.cat([tokens, prompt], 1)
            length = embedded.shape[1]
            # A whole mask, as for a padded batch: transformers would look into a shorter one; there is nothing in it.
            mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
            places = torch.arange(length).expand(rows, -1)
            output = language_model(inputs_embeds=embedded, attention_mask=mask, position_ids=places, use_cache=False)
            logits = model.get_output_embeddings()(output.last_hidden_state[:, -kept:])
            return language_model_loss(logits, torch.zeros(rows, kept, dtype=torch.long))

        def run() -> None:
            losses = [head()] if recipe.trains_head else []
            if recipe.stage == 2:
                losses.append(answers())
            torch.stack(losses).sum().backward()

        with activation_checkpointing(language_model, checkpointed):
            return cost(run, known)


def _tower_flops(model: Any) -> int:
    """Operations of the vision tower on one picture; where it is cut into tiles, into as many as can be."""
    base, vision = modules_of(model), model.config.vision_config
    tower, tiles = base.vision_tower, base.most_in_a_picture
    with torch.device("meta"), torch.no_grad():
        pixels = torch.empty(1, vision.num_channels, vision.image_size, vision.image_size, dtype=model.dtype)
        return tiles * cost(lambda: tower(pixels), []).flops


def _model(config: Any, blocks: int, setting: Setting) -> Any:
    return without_weights(config, blocks, dtype=getattr(torch, setting.dtype), attn_implementation=ATTENTION)


def _weights(model: Any, sizes: BaseSizes, setting: Setting) -> tuple[int, int]:
    """Bytes of the base on each process, and of what is unpacked or gathered while blocks run."""
    blocks = modules_of(model).blocks
    everything, block = (sum(p.nbytes for p in part.parameters()) for part in (model, blocks[0]))
    rest = everything - len(blocks) * block
    if setting.sharded:
        # One runs while the next one's weights arrive.
        return rest + sizes.num_layers * block // setting.processes, 2 * block
    if setting.quantise is None:
        return rest + sizes.num_layers * block, 0
    linears = [inputs * outputs for _, inputs, outputs in sizes.linears]
    width = model.dtype.itemsize
    packed = sum(_quantised_bytes(setting.quantise, inputs, outputs) for _, inputs, outputs in sizes.linears)
    return rest + sizes.num_layers * (block - width * sum(linears) + packed), width * max(linears)


def _quantised_bytes(way: str, inputs: int, outputs: int) -> int:
    """A linear's weight as bitsandbytes holds it.

    nf4: half a byte each, a float32 scale for every 64. int8: a byte each, a float32 scale for every output.
    """
    count = inputs * outputs
    return count // 2 + 4 * (count // 64) if way == "nf4" else count + 4 * outputs


def cost(compute: Callable[[], Any], known: Iterable[torch.Tensor]) -> Cost:
    """Run a computation on meta tensors and count; `known` are tensors that are there before it, with their gradients.

    Does not cover: what a GPU's allocator loses to rounding and gaps, and the workspaces of its libraries.
    """
    with _Meter(known) as meter, _autocast_on_meta():
        compute()
    return Cost(meter.peak, meter.flops)


@contextmanager
def _autocast_on_meta() -> Iterator[None]:
    """Inside this block `torch.autocast` takes meta tensors, as transformers before 5 asks of it, and does nothing."""
    own: Any = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else own(device_type, *args, **kwargs)

    torch.autocast = autocast  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.autocast = own  # type: ignore[misc]


class _Meter(TorchDispatchMode):
    """Counts the bytes of living storages, and operations by torch's own formulas."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen: Any = WeakIdKeyDictionary({tensor.untyped_storage(): True for tensor in known})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf.untyped_storage())
        return result

    def _meet(self, storage: Any) -> None:
        if storage not in self._seen:
            self._seen[storage] = True
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any
) -> tuple[torch.Tensor, None]:
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    causal = bool(getattr(module, "is_causal", True))
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, None, True, 0.0, causal)[0].transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
