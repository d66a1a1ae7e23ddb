"""What a base's layers compute with, by the names they have without peft and torch.compile; and whether it changed.

An adapter of the user's own (peft) changes a layer's weights, whether it stands beside the layer or was merged into it,
and whatever it is called; one at rest changes nothing. So these are the numbers that identify a base.
"""

import copy
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import torch
from accelerate.utils import align_module_device
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from safety_modules.errors import AttachError

_PROBED = 4  # numbers of each tensor: peft merges through tensor.data, which torch keeps no count of


def without_peft(model: Any) -> Any:
    """The model inside a `PeftModel`, with the user's adapter in its layers; any other model itself.

    Raises:
        AttachError: the adapter lengthens the prompt, which only the wrapper knows about.
    """
    if not isinstance(model, PeftModel):
        return model
    config = model.active_peft_config
    kind = type(config).__name__.removesuffix("Config")
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise AttachError(
            f"adapter not supported: expected one that adapts layers (LoRA and its kin), got {kind}, which "
            "adds to the prompt. Attach to the base without it."
        )
    return model.get_base_model()


def weights(module: nn.Module, *, own: bool = False, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The module's parameters, with the user's adapters where these act; offloaded ones are brought in.

    A tensor is to be used before the next one is asked for. `own`: without the user's adapters; `path`: what stands
    before the names.
    """
    if own:
        module = without_adapters(module)
    else:
        module = unwrapped(module)
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


def unwrapped(module: Any) -> nn.Module:
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
        elif (below := unwrapped(module)) is not module:
            module = below
        else:
            return module


def linears_of(block: nn.Module) -> tuple[tuple[str, int, int], ...]:
    """(path, inputs, outputs) of the linears of one block; one that peft adapted counts as the linear it was."""
    linears: dict[str, nn.Linear] = {}
    for path, module in block.named_modules():
        linear = without_adapters(module)
        if isinstance(linear, nn.Linear) and not any(path.startswith(f"{outer}.") for outer in linears):
            linears[path] = linear
    return tuple((path, linear.in_features, linear.out_features) for path, linear in linears.items())


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


class _Seen(NamedTuple):
    """A tensor, the dictionary that holds it, its name there, and its state."""

    holder: dict[str, Any]
    name: str
    tensor: torch.Tensor
    state: tuple[Any, ...]


class Watch:
    """Notes the tensors and modules below some modules; asking again takes some microseconds each.

    `changed` errs to one side: a base that was moved, cast or wrapped, but computes the same, counts as changed.

    Args:
        modules: what to note.
        above: modules that hold these: only whether they still do.

    Does not cover: single numbers written through `tensor.data`; weights that are offloaded, or were spread over
    processes since.
    """

    def __init__(self, modules: Iterable[nn.Module], above: Iterable[nn.Module] = ()) -> None:
        parts = [part for module in modules for part in module.modules()]
        holders = [part._modules for part in (*parts, *above) if part._modules]
        self._children = [(holder, dict(holder)) for holder in holders]
        self._adapters = [(part, state) for part in parts if (state := adapter_state(part))]
        seen = [
            _Seen(part._parameters, name, tensor, state_of(tensor))
            for part in parts
            for name, tensor in part._parameters.items()
            if not (tensor is None or tensor.is_meta or hasattr(tensor, "placements"))
        ]
        self._seen = sorted(seen, key=lambda one: _kind(one.tensor))
        self._values = self._probe()

    def changed(self) -> bool:
        """Whether anything was replaced, written to, moved, or switched on or off since."""
        return (
            any(now != before for now, before in self._children)
            or any(_differs(one) for one in self._seen)
            or any(adapter_state(part) != state for part, state in self._adapters)
            or not all(map(torch.equal, self._values, self._probe()))
        )

    @torch.no_grad()
    def _probe(self) -> list[torch.Tensor]:
        """A few numbers of every tensor that is where it was, by dtype and device."""
        here = [
            one.tensor for one in self._seen if one.holder.get(one.name) is one.tensor and one.tensor.is_contiguous()
        ]
        return [torch.cat([_few(tensor) for tensor in alike]) for _, alike in groupby(here, _kind)]


def state_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Changes once the tensor does. Those made in torch.inference_mode have no count, and cannot change outside it."""
    return tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version


def _differs(seen: _Seen) -> bool:
    now = seen.holder.get(seen.name)
    if now is seen.tensor:
        return state_of(now) != seen.state
    return now is None or not hasattr(now, "placements")  # spread over processes: the same numbers elsewhere


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tensor.device}"


def _few(tensor: torch.Tensor) -> torch.Tensor:
    count = tensor.numel()
    return tensor.as_strided((min(count, _PROBED),), (max(1, count // _PROBED),))
