"""Base models: published ones by name, with sizes from their configuration alone; and how to load one in 4 or 8 bit."""

import copy
import os
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.config import BaseSizes
from safety_modules.errors import ConfigError
from safety_modules.io.hub import download, hub_id
from safety_modules.io.optional import install
from safety_modules.paths import shipped

# Where these checkpoints' text config differs from transformers' LlamaConfig, whose defaults are the 7B's.
PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {"vocab_size": 32_064, "max_position_embeddings": 4096},
    "llava-1.5-13b": {
        "vocab_size": 32_064,
        "max_position_embeddings": 4096,
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
}

LORA_PREFIX = "base_model.model.model.language_model."
"""What peft puts before the in-memory name of a LLaVA's language model (transformers >= 4.52)."""


PROJECTOR_PREFIX = "base_model.model.model.multi_modal_projector."
"""The same of its projector."""
PROJECTOR_LINEARS = ("linear_1", "linear_2")
"""Names of the projector's linears there."""


def lora_targets(linears: Iterable[str], projector: bool = False) -> str:
    """peft's `target_modules`: these linears of the language model's blocks (the vision tower has a q_proj too), or of
    the projector.
    """
    if projector:
        return rf".*multi_modal_projector\.({'|'.join(linears)})"
    return rf".*language_model\.layers\.\d+\..*\.({'|'.join(linears)})"


NEXT_STEP = "Use a LLaVA-1.5 checkpoint in transformers' format, such as llava-hf/llava-1.5-7b-hf."


def published_config(name: str) -> Any:
    """The LlavaConfig of a published base, one of `PUBLISHED`. Raises ConfigError for an unknown name."""
    if name not in PUBLISHED:
        raise ConfigError(f"unknown base: expected one of {', '.join(PUBLISHED)}, got {name!r}. Pick one of them.")
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    return LlavaConfig(vision_config=vision, text_config=LlamaConfig(**PUBLISHED[name]))


BASE_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is downloaded of a base: no pickled weights."""


def find_base(name: str | PathLike[str]) -> Path:
    """The local folder of a base model, downloaded first if it is on the hub.

    Args:
        name: a folder, a shipped checkpoint's name, or a hub id (see `hub.hub_id`).

    Raises:
        ConfigError: the hub has no such model, or cannot be reached and its cache has none.
    """
    if not os.path.exists(name) and (repository := hub_id(name)):
        return download(repository, lambda problem: ConfigError(f"base {name} {problem}"), files=BASE_FILES)
    return shipped("checkpoints", name) or Path(name)


def local_config(folder: Path) -> Any:
    """The config in a folder with a checkpoint of one of the `FAMILIES`.

    Raises:
        ConfigError: none, a damaged one, or not a LLaVA's: transformers would make one of random weights of it.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"no base model: expected a folder with config.json or a hub id (owner/name), got {folder}. Check the name."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises kinds of its own for what it cannot read
        raise ConfigError(
            f"base not supported: expected a LLaVA-1.5's config.json in {folder}, got {error}. {NEXT_STEP}"
        ) from error
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"base not supported: expected a LLaVA-1.5, LLaVA-NeXT or LLaVA-OneVision, got {config.model_type}. "
            f"{NEXT_STEP}"
        )
    return config


FAMILIES = {
    "llava": ("LlavaForConditionalGeneration", "hf_llava:HFModules"),
    "llava_next": ("LlavaNextForConditionalGeneration", "hf_llava_next:NextModules"),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", "hf_llava_onevision:OnevisionModules"),
}
"""By transformers' `model_type`: the class of the model, and where its parts are named."""


def model_class(config: Any) -> Any:
    """The class of transformers for a model with this config, one of the `FAMILIES`."""
    import transformers

    return getattr(transformers, FAMILIES[config.model_type][0])


def modules_of(model: Any) -> Any:
    """A model's parts by the field's names, as `hf_llava.HFModules`; its weights may be on the meta device."""
    file, _, name = FAMILIES[model.config.model_type][1].partition(":")
    return getattr(import_module(f"safety_modules.backbones.{file}"), name)(model)


def load_whole(base: str | PathLike[str], **options: Any) -> tuple[Any, Any]:
    """Base and processor from a folder or the hub, as `from_pretrained` gives them: the project's one way to load both.

    Args:
        base: see `find_base`.
        options: of `from_pretrained`.

    Raises:
        ConfigError: no such base; a tensor is missing or has another shape, where transformers would take random
            numbers; or there is no processor.
    """
    from transformers import AutoProcessor

    folder = find_base(base)
    kind = model_class(local_config(folder))
    try:
        processor = AutoProcessor.from_pretrained(folder)
        return load_weights(kind, folder, "base", **options), processor
    except (OSError, ValueError, ImportError) as error:  # the latter: a processor's own libraries, such as torchvision
        raise ConfigError(f"base not loaded: expected weights and a processor in {base}, got {error}") from error


def load_weights(kind: Any, where: str | PathLike[str], what: str, **options: Any) -> Any:
    """A model of this class of transformers from a folder or the hub, all of it; `what` it is to be, for the error.

    Raises:
        ConfigError: a tensor is missing or has another shape, where transformers would take random numbers.
        OSError, ValueError: transformers' own.
    """
    model, found = kind.from_pretrained(where, output_loading_info=True, **options)
    wrong = sorted({str(name) for kind in ("missing_keys", "mismatched_keys") for name in found.get(kind, ())})
    if wrong:
        raise ConfigError(
            f"{what} not whole: expected every tensor of {where}, got none or another shape for "
            f"{', '.join(wrong[:5])}. Download it again."
        )
    return model


def without_weights(config: Any, blocks: int, **options: Any) -> Any:
    """A base with this config, but so many blocks, on the meta device: shapes, no numbers."""
    import torch
    from transformers import AutoModelForImageTextToText

    config = copy.deepcopy(config)
    text = config.text_config
    text.num_hidden_layers = blocks
    if kinds := getattr(text, "layer_types", None):  # one name for each block
        text.layer_types = [kinds[0]] * blocks
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, **options).requires_grad_(False)


def config_sizes(config: Any) -> BaseSizes:
    """Sizes of a base with this config. Raises AttachError where it is not supported."""
    sizes = modules_of(without_weights(config, blocks=1)).read_sizes()
    return replace(sizes, num_layers=config.text_config.num_hidden_layers)


def published_sizes(name: str) -> BaseSizes:
    """Sizes of a published base. Raises ConfigError for an unknown name."""
    return config_sizes(published_config(name))


QUANTISED = ("nf4", "int8")


def quantisation(way: str, dtype: Any) -> Any:
    """Settings for `from_pretrained(quantization_config=...)` that leave alone what the safety head sees.

    Args:
        way: `nf4` (4 bit, arXiv 2305.14314) or `int8` (arXiv 2208.07339), through bitsandbytes.
        dtype: torch dtype that 4 bit weights are unpacked to.

    Raises:
        ConfigError: another way, or no bitsandbytes.
    """
    from transformers import BitsAndBytesConfig

    if way not in QUANTISED:
        raise ConfigError(f"unknown quantisation: expected {' or '.join(QUANTISED)}, got {way!r}. Pick one of them.")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"base not quantised: expected the package bitsandbytes for {way}, got none. {install('quant')}"
        )
    # Full paths: a bare "vision_tower" does not skip it, and the head is trained on features of an exact tower.
    skipped = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    if way == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=skipped
    )


def load_onto(
    base: str | PathLike[str], device: Any, dtype: str = "auto", quantize: str | None = None, move: bool = True
) -> tuple[Any, Any]:
    """`load_whole` for answering on one device.

    Args:
        base: see `find_base`.
        device: torch device.
        dtype: of the weights: `auto` or torch's name of one.
        quantize: see `quantisation`; unpacked to the dtype, bfloat16 for `auto`.
        move: whether one that is not quantised goes to the device.

    Raises:
        ConfigError: as `load_whole` and `quantisation`.
    """
    import torch

    options: dict[str, Any] = {"dtype": dtype}
    if quantize is not None:
        options["quantization_config"] = quantisation(quantize, getattr(torch, dtype, torch.bfloat16))
        options["device_map"] = {"": device}
    model, processor = load_whole(base, **options)
    if quantize is None and move:
        model = model.to(device)
    return model.eval(), processor


def check_wish(base: str | PathLike[str] | None, quantize: str | None, dtype: str | None) -> None:
    """Raises ConfigError for an unknown dtype, or for llava-pocket (None) in another form than its own."""
    if dtype not in (None, "bfloat16", "float32"):
        raise ConfigError(f"unknown dtype: expected bfloat16 or float32, got {dtype!r}. Pick one of them.")
    if base is None and (quantize or dtype):
        raise ConfigError(
            f"llava-pocket stays as it is: expected --model with {quantize or dtype}, got none. Name a base."
        )


def load_here(base: str | PathLike[str], quantize: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """`load_onto` this process's own device.

    Args:
        base: see `find_base`.
        quantize: see `quantisation`.
        dtype: bfloat16 or float32; None = as the checkpoint is.

    Raises:
        ConfigError: as `load_onto`.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    folder = find_base(base)
    local_config(folder)  # the first thing that is missing is the first that is told
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    # One that is to be spread over processes (FSDP) may fit on no single device.
    return load_onto(folder, device, dtype or "auto", quantize, move=not parse_flag_from_env("ACCELERATE_USE_FSDP"))
