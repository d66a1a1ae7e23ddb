"""Bases that carry an adapter of the user's own (peft): what is the base, and which linears it has."""

from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from safety_modules.backbones.weights import without_adapters
from safety_modules.errors import AttachError


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


def linears_of(block: nn.Module) -> tuple[tuple[str, int, int], ...]:
    """(path, inputs, outputs) of the linears of one block; one that peft adapted counts as the linear it was."""
    linears: dict[str, nn.Linear] = {}
    for path, module in block.named_modules():
        linear = without_adapters(module)
        if isinstance(linear, nn.Linear) and not any(path.startswith(f"{outer}.") for outer in linears):
            linears[path] = linear
    return tuple((path, linear.in_features, linear.out_features) for path, linear in linears.items())


def split_parameters(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
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
