"""What a module's layers compute with, by the names they have without peft and torch.compile.

An adapter of the user's own changes a layer's weights, whether it stands beside the layer or was merged into it, and
whatever it is called; one at rest changes nothing. So these are the numbers that identify a base.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn


def weights(module: nn.Module, *, own: bool = False, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The module's parameters, with the user's adapters where these act; offloaded ones are brought in.

    A tensor is to be used before the next one is asked for.

    Args:
        module: any part of a base.
        own: without the user's adapters.
        path: what stands before the names.
    """
    if own:
        module = without_adapters(module)
    else:
        module = inner(module)
        if isinstance(module, BaseTunerLayer):
            below = _merged(module) if _acts(module) else module.get_base_layer()
            yield from weights(below, path=path)
            return
    with align_module_device(module):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield path + name, parameter.detach()
    for name, child in module.named_children():
        yield from weights(child, own=own, path=f"{path}{name}.")


def inner(module: Any) -> nn.Module:
    """The module without wrappers: compiled -> what was compiled; trained beside its original -> the one that acts."""
    while True:
        if "_orig_mod" in module._modules:  # torch.compile's; its class takes a second to import
            module = module._modules["_orig_mod"]
        elif isinstance(module, ModulesToSaveWrapper):
            module = module.modules_to_save[module.active_adapters[0]] if _acts(module) else module.original_module
        elif isinstance(module, AuxiliaryTrainingWrapper):  # single tokens trained beside an embedding
            module = module.token_adapter
        else:
            return module


def is_adapted(module: nn.Module) -> bool:
    """Whether peft made this layer, or this wrapper around one."""
    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)


def without_adapters(module: nn.Module) -> nn.Module:
    """The base's own module below all that peft and torch.compile put around it."""
    while True:
        if isinstance(module, BaseTunerLayer):
            module = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            module = module.original_module
        elif (below := inner(module)) is not module:
            module = below
        else:
            return module


def adapter_state(module: Any) -> tuple[Any, ...]:
    """What of an adapter's layer or wrapper is no tensor and says which weights act; empty for any other module."""
    if not is_adapted(module):
        return ()
    scales = getattr(module, "scaling", {})
    return (
        module.disable_adapters,
        tuple(module.active_adapters),
        tuple(getattr(module, "merged_adapters", ())),
        tuple((name, scale) for name, scale in scales.items() if isinstance(scale, int | float)),
    )


def _acts(part: Any) -> bool:
    """Whether one of the adapters in a layer or wrapper is on."""
    if isinstance(part, ModulesToSaveWrapper):
        return not part.disable_adapters and part.active_adapters[0] in part.modules_to_save
    known = {name for names in part.adapter_layer_names for name in getattr(part, names)}
    return not part.disable_adapters and any(name in known for name in part.active_adapters)


def _merged(layer: Any) -> nn.Module:
    """A copy of the layer below an adapter, with the adapter merged in as peft's merge_and_unload would."""
    own = layer.get_base_layer()
    copied = copy.deepcopy(layer)
    copied.merge()
    merged = copied.get_base_layer()
    if not layer.merged:
        with torch.no_grad():
            for new, old in zip(merged.parameters(), own.parameters(), strict=True):
                new.copy_(torch.where(new == old, old, new))  # peft's sum makes 0 of -0
    return merged
