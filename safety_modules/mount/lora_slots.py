"""Which linears of a language model LoRA goes on: peft builds the adapted ones, and none stays in the tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from peft import LoraConfig, LoraModel
from torch import nn

from safety_modules.backbones.weights import is_adapted, without_adapters
from safety_modules.config import LoraSettings
from safety_modules.errors import AttachError
from safety_modules.mount.flags import flags_restored
from safety_modules.mount.lora_layer import ADAPTER, at_inference


class Slot(NamedTuple):
    """One place in the language model where an adapted linear can stand; `original` may be another adapter's."""

    path: str
    parent: nn.Module
    child: str
    original: nn.Module
    adapted: Any


def lora_config(settings: LoraSettings) -> LoraConfig:
    """peft's config of the LoRA that is trained."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        bias="none",
    )


def build_slots(language_model: nn.Module, settings: LoraSettings) -> list[Slot]:
    """Let peft build the adapted linears, note where they go, and put the tree back as it was."""
    slots: list[Slot] = []
    with flags_restored(language_model), _bare(language_model) as standing:
        try:
            LoraModel(language_model, lora_config(settings), ADAPTER)
        except ValueError as error:
            raise AttachError(f"LoRA not placed: {error} Change lora.target_modules.") from error
        finally:
            adapted = _take_out(language_model)
    for path, layer in adapted.items():
        parent_path, _, child = path.rpartition(".")
        original = standing.get(path, layer.get_base_layer())
        layer.base_layer = original
        at_inference(layer)
        slots.append(Slot(path, language_model.get_submodule(parent_path), child, original, layer))
    missing = set(settings.target_modules) - {slot.child for slot in slots}
    if missing:
        raise AttachError(
            f"LoRA not placed: expected linears named {', '.join(settings.target_modules)} in the language "
            f"model, got none named {', '.join(sorted(missing))}. Change lora.target_modules."
        )
    for slot in slots:
        if slot.adapted.lora_A[ADAPTER].weight.is_meta:
            _bring_in(slot)
        for part in ("lora_A", "lora_B"):
            getattr(slot.adapted, part).float()  # as peft loads adapters: half precision is too coarse to train in
    return slots


@contextmanager
def _bare(language_model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Inside this block the tree holds no adapter: peft would otherwise add ours to the layers of the user's.

    Yields:
        The adapters' layers by their paths; afterwards they are back.
    """
    config = vars(language_model).pop("peft_config", None)
    standing = _take_out(language_model)
    try:
        yield standing
    finally:
        vars(language_model).pop("peft_config", None)
        if config is not None:
            language_model.peft_config = config
        for path, layer in standing.items():
            parent, _, child = path.rpartition(".")
            language_model.get_submodule(parent)._modules[child] = layer


def _bring_in(slot: Slot) -> None:
    """Real LoRA weights on an offloaded linear: peft puts them on the meta device, where they would be lost."""
    linear = slot.adapted.get_base_layer()
    device = getattr(getattr(linear, "_hf_hook", None), "execution_device", None) or "cpu"
    for part in ("lora_A", "lora_B"):
        getattr(slot.adapted, part)[ADAPTER].to_empty(device=device)
    slot.adapted.reset_lora_parameters(ADAPTER, True)


def _take_out(language_model: nn.Module) -> dict[str, Any]:
    """Put the base's own modules in the place of all adapted ones; returns those by their paths."""
    outermost: dict[str, Any] = {}
    for path, module in language_model.named_modules():
        if is_adapted(module) and not any(path.startswith(f"{outer}.") for outer in outermost):
            outermost[path] = module
    for path, layer in outermost.items():
        parent, _, child = path.rpartition(".")
        language_model.get_submodule(parent)._modules[child] = without_adapters(layer)
    return outermost
