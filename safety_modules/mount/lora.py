"""LoRA on the language model, through peft, mounted only while a guarded call needs it (arXiv 2106.09685).

At rest the base's module tree holds its own linears and nothing else, so its `state_dict`, `save_pretrained`
and answers are the base's. `with lora.mounted():` swaps the adapted linears in and out again: one dictionary
entry per linear, a few microseconds each. Where peft has adapted a linear already (the user's own adapter),
that layer counts as the base's and the LoRA is stacked on it.
"""

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, LoraModel
from torch import nn
from torch.nn import functional as F

from safety_modules.backbones.weights import is_adapted, state_of, without_adapters
from safety_modules.config import LoraSettings
from safety_modules.errors import AdapterError, AttachError
from safety_modules.mount.flags import flags_restored

ADAPTER = "safety"

_COMBINED: dict[type, type] = {}
_OURS: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Layers of LoRAs made here, whatever their class."""


class InferenceLora:
    """What is put before a class of peft's LoRA layers, whichever of them it is (plain, 4 bit, 8 bit).

    Attributes:
        merged_weight: W + alpha/r * B A in the base's dtype, used if LoRA acts on all rows; None = not merged.
    """

    merged_weight: torch.Tensor | None = None

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As peft's: the linear's output for x (..., inputs) plus scale * B A x."""
        if torch.is_grad_enabled() or self.training or self.disable_adapters or args or kwargs:
            self.merged_weight = None  # a step may follow that trains what it was made of
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        scale = self.scaling[ADAPTER]
        a, b = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        by_row = isinstance(scale, torch.Tensor)
        if self.merged_weight is not None and not by_row:
            return F.linear(x, self.merged_weight, self.base_layer.bias)
        low = F.linear(x.to(a.dtype), a)  # (..., r)
        if by_row:
            return self.base_layer(x).add_(F.linear(low * scale, b))
        return self.base_layer(x).add_(F.linear(low, b), alpha=scale)


def at_inference(layer: Any) -> None:
    """Let one of peft's LoRA layers compute as `InferenceLora` says."""
    kind = type(layer)
    if kind not in _COMBINED:
        _COMBINED[kind] = type(kind.__name__, (InferenceLora, kind), {"__module__": kind.__module__})
    layer.__class__ = _COMBINED[kind]
    _OURS.add(layer)


class MergedWeights:
    """Copies of a language model's linears with LoRA added in, made when first asked for; the base's stay untouched.

    They cost the memory of the linears. One is made anew once the linear or its LoRA changed.

    Does not cover: values that were changed through `tensor.data`, which torch keeps no count of.
    """

    def __init__(self) -> None:
        self._made: dict[nn.Module, tuple[tuple[Any, ...], torch.Tensor]] = {}

    @torch.no_grad()
    def of(self, layer: Any) -> torch.Tensor | None:
        """The merged weight of a LoRA layer; None where there can be none.

        That is: over another adapter, quantised or offloaded weights, sharded ones, and linears that somebody hooked.
        """
        linear = layer.base_layer
        if not _is_plain(linear):
            return None
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        scale, state = layer.scaling[ADAPTER], (*map(state_of, (linear.weight, a, b)),)
        if layer in self._made and self._made[layer][0] == state:
            return self._made[layer][1]
        self._made.pop(layer, None)  # its memory first
        weight = torch.addmm(linear.weight.to(a.dtype), b, a, alpha=scale).to(linear.weight.dtype)
        self._made[layer] = state, weight
        return weight

    def clear(self) -> None:
        """Free their memory."""
        self._made.clear()


def _is_plain(linear: nn.Module) -> bool:
    if type(linear) is not nn.Linear or "forward" in vars(linear):
        return False
    hooked = linear._forward_hooks or linear._forward_pre_hooks
    return not (hooked or linear.weight.is_meta or hasattr(linear.weight, "placements"))


class Slot(NamedTuple):
    """One place in the language model where an adapted linear can stand; `original` may be another adapter's."""

    path: str
    parent: nn.Module
    child: str
    original: nn.Module
    adapted: Any


def is_mounted(module: nn.Module) -> bool:
    """Whether one of our LoRA's layers, or a user's of the same name, stands in a module's tree."""
    return any(ADAPTER in getattr(part, "lora_A", ()) for part in module.modules())


class Lora:
    """LoRA for the linears of one language model, kept outside its module tree.

    Args:
        language_model: the module whose linears are adapted; nothing outside it is touched.
        settings: rank, scale, dropout and target names.
        lock: held while mounted, because a mounted LoRA is seen by every thread that runs the model.

    Raises:
        AttachError: peft finds no such linears, or layers of this name are there already. The model is as
            before.

    Does not cover: a module tree that is copied or saved *while* mounted; that shows the adapted linears.
    """

    def __init__(
        self,
        language_model: nn.Module,
        settings: LoraSettings,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        if is_mounted(language_model):
            raise AttachError(
                f"LoRA not placed: expected a language model without an adapter named {ADAPTER!r}, got one that "
                "has it already. Detach the first set, or give your own adapter another name."
            )
        self.settings = settings
        self.lock = lock or threading.RLock()
        self._mounted = False
        self._rows: Sequence[bool] | None = None
        self._merged = False
        self._weights = MergedWeights()
        self._slots = build_slots(language_model, settings)
        self._scale = self._slots[0].adapted.scaling[ADAPTER]
        self.train(False)  # peft makes new layers in training mode

    @contextmanager
    def mounted(self, on: bool = True, rows: Sequence[bool] | None = None, merged: bool = False) -> Iterator[None]:
        """The language model with LoRA (or, `on=False`, without) inside this block; may be nested.

        What was mounted before comes back afterwards, on exceptions too.

        Args:
            on: False = without.
            rows: which rows of the batch LoRA acts on; the others get what the base's linears give, bit for bit.
                As many as the model is called with: a row counts once per beam. None = all.
            merged: answer from copies of the linears with LoRA added in, which takes no longer than the base and as
                much memory as they have. They are kept for the next time (see `free_merged`). Where that cannot be
                (see `MergedWeights`), where not all rows are meant and with gradients: as without.

        Raises:
            AttachError: other modules stand where the linears were when safety was attached.
        """
        with self.lock:
            before = self._mounted, self._rows, self._merged
            some = rows if on and rows is not None and not all(rows) else None
            try:
                self._swap(on, some, merged and on and some is None and not torch.is_grad_enabled())
                yield
            finally:
                self._swap(*before)

    def free_merged(self) -> None:
        """Free the memory of merged copies; the next block that wants them makes new ones."""
        with self.lock:
            self._weights.clear()

    def _swap(self, on: bool, rows: Sequence[bool] | None, merged: bool) -> None:
        if on != self._mounted:
            # Somebody's get_peft_model or merge_and_unload since: mounting would undo it without a word.
            changed = [slot.path for slot in self._slots if on and _layers(slot)[-1] is not slot.original]
            if changed:
                raise AttachError(
                    f"LoRA not mounted: expected {changed[0]} to be the module it was when safety was attached, got "
                    "another. Detach safety, change the model's own adapters, then attach again."
                )
            # Noted first: after an interrupt in the loop, the way back goes through all places again.
            self._mounted = on
            for slot in self._slots:
                _put_on(slot) if on else _take_off(slot)
        if rows != self._rows:
            self._rows = rows
            self._scale_rows(rows)
        if merged != self._merged:
            self._merged = merged
            for slot in self._slots:
                slot.adapted.merged_weight = self._weights.of(slot.adapted) if merged else None

    def _scale_rows(self, rows: Sequence[bool] | None) -> None:
        """Let the layers scale what they add to each row: a tensor (B, 1, 1) in the place of the one number.

        As fast as one number, unlike peft's own mixed batches (`adapter_names`), which pick rows out in every layer.
        """
        scales: dict[torch.device, torch.Tensor] = {}
        for slot in self._slots:
            if rows is None:
                slot.adapted.scaling[ADAPTER] = self._scale
                continue
            weight = slot.adapted.lora_B[ADAPTER].weight
            if weight.device not in scales:
                scales[weight.device] = self._scale * weight.new_tensor(rows).view(-1, 1, 1)
            slot.adapted.scaling[ADAPTER] = scales[weight.device]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """LoRA parameters (no base parameter), named as inside the language model.

        Such as "layers.0.self_attn.q_proj.lora_A.weight".
        """
        for slot in self._slots:
            for part in ("lora_A", "lora_B"):
                yield f"{slot.path}.{part}.weight", getattr(slot.adapted, part)[ADAPTER].weight

    def parameters(self) -> Iterator[nn.Parameter]:
        """LoRA parameters; no base parameter."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, torch.Tensor]:
        """LoRA tensors by the names of `named_parameters`; views, not copies."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors in; all problems are reported at once and before the first copy.

        Raises:
            AdapterError: a tensor is missing, unknown, or of another shape.
        """
        own = dict(self.named_parameters())
        problems = [f"LoRA tensor missing: {name}." for name in own if name not in state]
        problems += [f"LoRA tensor unknown: {name}." for name in state if name not in own]
        problems += [
            f"LoRA tensor {name}: expected shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}."
            for name, tensor in state.items()
            if name in own and own[name].shape != tensor.shape
        ]
        if problems:
            raise AdapterError("lora", problems)
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def train(self, mode: bool = True) -> None:
        """Training mode of the LoRA layers (their dropout), never of the base's linears."""
        for slot in self._slots:
            slot.adapted.training = mode
            for part in ("lora_dropout", "lora_A", "lora_B"):
                getattr(slot.adapted, part).train(mode)

    @property
    def training(self) -> bool:
        """Whether LoRA's dropout is on."""
        return any(slot.adapted.training for slot in self._slots)

    def to_base_device(self) -> None:
        """Follow the base's linears to the device each of them is on (they may have been moved since)."""
        for slot in self._slots:
            device = next(slot.original.parameters()).device
            if device.type == "meta" or slot.adapted.lora_A[ADAPTER].weight.device == device:
                continue  # offloaded layers are brought in by their own hooks
            for part in ("lora_A", "lora_B"):
                getattr(slot.adapted, part).to(device)


def _layers(slot: Slot) -> list[Any]:
    """What stands in a slot, the outermost first: layers of mounted LoRAs, then the base's own module."""
    found: list[Any] = [slot.parent._modules[slot.child]]
    while found[-1] in _OURS:
        found.append(found[-1]._modules["base_layer"])
    return found


def _put_on(slot: Slot) -> None:
    """The slot's layer around whatever stands there, once."""
    standing = _layers(slot)
    if slot.adapted not in standing:
        slot.adapted._modules["base_layer"] = standing[0]
        slot.parent._modules[slot.child] = slot.adapted


def _take_off(slot: Slot) -> None:
    """The slot's layer out of wherever it stands, those around it stay."""
    standing = _layers(slot)
    if slot.adapted in standing:
        place = standing.index(slot.adapted)
        if place:
            standing[place - 1]._modules["base_layer"] = standing[place + 1]
        else:
            slot.parent._modules[slot.child] = standing[1]
    slot.adapted._modules["base_layer"] = slot.original


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
