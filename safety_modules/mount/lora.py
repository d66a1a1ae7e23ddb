"""LoRA on the language model, through peft, mounted only while a guarded call needs it (arXiv 2106.09685).

At rest the base's module tree holds its own linears and nothing else, so its `state_dict`, `save_pretrained`
and answers are the base's. `with lora.mounted():` swaps the adapted linears in and out again: one dictionary
entry per linear, a few microseconds each. Where peft has adapted a linear already (the user's own adapter),
that layer counts as the base's and the LoRA is stacked on it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from safety_modules.config import LoraSettings
from safety_modules.errors import AdapterError, AttachError
from safety_modules.mount.lora_layer import ADAPTER, InferenceLora, MergedWeights
from safety_modules.mount.lora_slots import Slot, build_slots


def is_mounted(module: nn.Module) -> bool:
    """Whether one of our LoRA's layers stands in a module's tree."""
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
            changed = [slot.path for slot in self._slots if on and _own(_standing(slot)) is not slot.original]
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


def _standing(slot: Slot) -> Any:
    """The outermost module in a slot: the base's, or the layer of a LoRA that is mounted."""
    return slot.parent._modules[slot.child]


def _own(layer: Any) -> Any:
    """What is below all mounted layers."""
    while isinstance(layer, InferenceLora):
        layer = layer._modules["base_layer"]  # type: ignore[attr-defined]
    return layer


def _put_on(slot: Slot) -> None:
    """The slot's layer around whatever stands there, once."""
    layer = _standing(slot)
    while isinstance(layer, InferenceLora):
        if layer is slot.adapted:
            return
        layer = layer._modules["base_layer"]  # type: ignore[attr-defined]
    slot.adapted._modules["base_layer"] = _standing(slot)
    slot.parent._modules[slot.child] = slot.adapted


def _take_off(slot: Slot) -> None:
    """The slot's layer out of wherever it stands, those around it stay."""
    holder, name = slot.parent._modules, slot.child
    while isinstance(layer := holder[name], InferenceLora):
        if layer is slot.adapted:
            holder[name] = slot.adapted._modules["base_layer"]
            break
        holder, name = layer._modules, "base_layer"
    slot.adapted._modules["base_layer"] = slot.original
