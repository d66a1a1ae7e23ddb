"""What identifies a LLaVA: digests of its weights, and the settings that change its pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from accelerate.utils import align_module_device
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from safety_modules.backbones.weights import weights
from safety_modules.errors import AttachError

# Settings of the image processor that change pixels. Its class is not one of them: it changes between
# versions of transformers.
_PIXEL_SETTINGS = (
    "do_convert_rgb",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_pad",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


DIGEST_VERSION = 2
"""Of the digests that are written. The first looked at a few tensors only; adapters that have it are compared by it."""

SAMPLED_ROWS = 16
"""Of each weight of the language model: all of its 13 GB (7B) would take 3 to 11 seconds of one core, and whatever
trains or merges something into a weight of it changes all rows."""

_UNUSED = (
    "post_layernorm.",
    "head.",
)  # of the tower: only its pooled output, which a LLaVA does not use, is made by it


class Parts(NamedTuple):
    """What of a base is looked at."""

    tower: nn.Module
    projector: Sequence[nn.Module]  # its linears, in order
    embeddings: nn.Module
    language: dict[str, nn.Module]  # the language model's blocks and last norm
    # Rows of the embeddings that text can name. What is beyond (padding, `<image>`, added tokens) differs between
    # conversions of one checkpoint.
    words: int


def digests(parts: Parts, feature_layer: Any, language: bool = True) -> dict[str, Any]:
    """Digests of a base's weights, each tensor rounded to bfloat16.

    So that one checkpoint has one digest whether it is loaded in float32, bfloat16 or float16, and, where its vision
    tower and projector are not quantised, in 8 or 4 bit.

    Does not cover: a checkpoint of float32 values (LLaVA-1.5's are float16) loaded in float16, which rounds them twice.

    Args:
        parts: of the base.
        feature_layer: which layer of the tower is used; what comes after it does not count.
        language: also look at the language model.

    Returns:
        `digest`: of all that the verdict and the projected features come from, every number of it. `language_model`:
        of the language model's own weights, below adapters, by samples; None where they are quantised, offloaded or
        spread over processes, or not looked at.

    Raises:
        AttachError: a tensor of the first kind is neither in memory nor offloaded by accelerate.
    """
    tensors = {
        f"tower.{name.removeprefix('vision_model.')}": sums
        for name, sums in _summed(parts.tower)
        if not _unused(name, parts.tower, feature_layer)
    }
    for number, linear in enumerate(parts.projector, 1):
        tensors |= {f"projector.{number}.{name}": sums for name, sums in _summed(linear)}
    tensors |= {f"embeddings.{name}": sums for name, sums in _summed(parts.embeddings, parts.words)}
    return {
        "digest_version": DIGEST_VERSION,
        "digest": _sha256(tensors),
        "language_model": language_digest(parts.language) if language else None,
    }


def tower_digest(tower: nn.Module) -> str:
    """Of every weight of a vision tower, those that a LLaVA does not use too, each rounded to bfloat16.

    Raises:
        AttachError: a tensor is neither in memory nor offloaded by accelerate.
    """
    return _sha256({name.removeprefix("vision_model."): sums for name, sums in _summed(tower)})


def used_layers(tower: Any, feature_layer: Any) -> tuple[nn.ModuleList, list[int]]:
    """The tower's layers, and which of their outputs are the features, counted from the embeddings' output, 0."""
    layers = tower.encoder.layers if hasattr(tower, "encoder") else tower.vision_model.encoder.layers
    places = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    return layers, [place if place >= 0 else len(layers) + 1 + place for place in places]


def _unused(name: str, tower: nn.Module, feature_layer: Any) -> bool:
    name = name.removeprefix("vision_model.")
    if name.startswith("encoder.layers."):
        return int(name.split(".")[2]) >= max(used_layers(tower, feature_layer)[1])  # above the last that is used
    return name.startswith(_UNUSED)


def _summed(module: nn.Module, rows: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Per tensor of a module: the sums over its rows and over its columns, of four bfloat16 at a time as one integer.

    Exact, so that order, device and number of threads do not matter; each number is in one sum of each kind. Sums of
    integers take a tenth of the time of hashing the bytes.
    """
    for name, tensor in weights(module):
        if tensor.is_meta:
            raise AttachError(
                f"base has no fingerprint: expected {name} in memory or offloaded by accelerate, got a tensor "
                "without values. Load the base's weights first."
            )
        if hasattr(tensor, "placements"):
            raise AttachError(
                f"base has no fingerprint: expected {name} whole, got a part of it (spread over processes). Attach "
                "before sharding; training/accelerate/fsdp.yaml spreads what may be."
            )
        whole = tensor[:rows] if tensor.ndim > 1 else tensor
        table = _rounded(whole).reshape(len(whole) if whole.ndim > 1 else 1, -1)  # (rows, columns)
        short = -table.shape[1] % 4
        words = (functional.pad(table, (0, short)) if short else table.contiguous()).view(torch.int64)
        sums = torch.cat([words.sum(0), words.sum(1)]).cpu()
        yield name, f"{tuple(whole.shape)}".encode() + sums.numpy().tobytes()


def language_digest(parts: dict[str, nn.Module]) -> str | None:
    """Of the language model's own weights (`Parts.language`), by samples; None: see `digests`."""
    found: dict[str, bytes] = {}
    for part, module in parts.items():
        if any(_elsewhere(parameter) for parameter in module.parameters()):
            return None
        for name, tensor in weights(module, own=True):
            some = tensor
            if tensor.ndim > 1:
                rows = torch.linspace(0, len(tensor) - 1, SAMPLED_ROWS, dtype=torch.float64).round().long()
                some = tensor[rows.to(tensor.device)]
            found[f"{part}.{name}"] = _rounded(some).cpu().contiguous().view(torch.int16).numpy().tobytes()
    return _sha256(found)


def _elsewhere(parameter: nn.Parameter) -> bool:
    return parameter.is_meta or not parameter.is_floating_point() or hasattr(parameter, "placements")


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To bfloat16; packed integers of a quantised weight as they are, in its place."""
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor.to(torch.int16).view(torch.bfloat16)


def _sha256(tensors: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):  # modules list their parts in an order of their own in every version
        total.update(name.encode())
        total.update(tensors[name])
    return total.hexdigest()


def pixel_settings(image_processor: Any) -> dict[str, Any]:
    """The image processor's settings that change pixels; JSON-able, the same in every version."""
    raw = image_processor.to_dict()
    return {name: _plain(raw[name]) for name in _PIXEL_SETTINGS if raw.get(name) is not None}


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):  # newer versions have size objects with empty fields
        return {key: item for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return list(value)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def first_digest(parts: Sequence[tuple[str, nn.Module]], adapted: Sequence[nn.Module]) -> dict[str, Any]:
    """The digest of version 1, for adapters that were saved with it: tensors that quantisation leaves alone.

    Of `parts`, each with what stands before its parameters' names; in `adapted` modules an adapter of the user's own
    counts.

    Does not cover: most of the base's numbers.
    """
    with ExitStack() as offloaded:
        for _, module in parts:
            for part in module.modules():
                offloaded.enter_context(align_module_device(part))
        tensors = [
            (prefix + name, parameter)
            for prefix, module in parts
            for name, parameter in _split_parameters(module)[0].items()
            if parameter.ndim != 2  # the weight of a linear, which may be quantised; its bias is not
        ]
        for module in adapted:
            tensors += _split_parameters(module)[1].items()
        total = hashlib.sha256()
        for name, tensor in tensors:
            total.update(name.encode())
            total.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return {"digest": total.hexdigest()}


def _split_parameters(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The module's own parameters, by the names they had before peft, and those of the user's adapters."""
    adapted = [f"{path}." if path else "" for path, part in module.named_modules() if isinstance(part, BaseTunerLayer)]
    own, added = {}, {}
    for name, parameter in module.named_parameters():
        inside = [name.removeprefix(path) for path in adapted if name.startswith(path)]
        if all(rest.startswith("base_layer.") for rest in inside):
            own[name.replace("base_layer.", "")] = parameter
        else:
            added[name] = parameter
    return own, added
