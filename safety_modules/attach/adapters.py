"""The adapters of one model: several at hand by name, one of them active, switched in microseconds."""

import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.adapter.folder import read_adapter, save_adapter
from safety_modules.adapter.hub import find_adapter, push_adapter
from safety_modules.backbones import Backbone
from safety_modules.defences.base import Defence, Settings, check_order
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.registry import GUARD_MODES, arranged, in_mode, make
from safety_modules.errors import AdapterError, AttachError, ConfigError
from safety_modules.mount.lora import is_mounted
from safety_modules.policy.policy import Policy

DEFAULT_NAME = "default"
"""peft's name for an adapter that was given none."""

Wanted = list[str | Settings | Defence]


def fit_adapter(backbone: Backbone, adapter: str | PathLike[str], revision: str | None = None) -> list[Defence]:
    """A trained adapter's defences on a base: found, checked whole, and only then fitted.

    Raises:
        AdapterError: it was refused.
    """
    loaded = read_adapter(
        find_adapter(adapter, revision),
        fingerprint=backbone.fingerprint,
        sizes=backbone.sizes,
        processor=backbone.pixel_settings(),
    )
    with backbone.lock:
        return loaded.fitted(backbone)


def _kind_of(wanted: str | Settings | Defence) -> str:
    if isinstance(wanted, str):
        return Guard.kind if wanted in GUARD_MODES else wanted
    return str(getattr(wanted, "kind", wanted))


class Adapters:
    """Sets of defences by name, peft's way. A SafetyAttachment has one.

    Args:
        backbone: the base all of them are made for.
        parts: the first adapter's defences.
        wanted: order, and defences beside every adapter's own (see `registry.arranged`).
        name: of the first.

    Attributes:
        active: name of the one that judges and answers.
        defences: its defences, the outermost first.

    Raises:
        ConfigError: the defences are no order.
    """

    def __init__(self, backbone: Backbone, parts: list[Defence], wanted: Wanted, name: str = DEFAULT_NAME) -> None:
        self.backbone = backbone
        own = {part.kind for part in parts}
        self._wanted = [(_kind_of(one), one if one in GUARD_MODES else None) for one in wanted]
        beside = [make(backbone, one) for one in wanted if not (isinstance(one, str) and _kind_of(one) in own)]
        self._beside = {one.kind: one for one in beside}
        twice = [kind for kind, _ in self._wanted if [known for known, _ in self._wanted].count(kind) > 1]
        if twice or own & self._beside.keys():
            kind = (twice or [*(own & self._beside.keys())])[0]
            raise ConfigError(f"one defence twice: expected each kind once, got {kind} again. Leave one out.")
        self.defences = self._ordered(parts)
        self.active, self._sets = name, {name: self.defences}

    def _ordered(self, parts: list[Defence]) -> tuple[Defence, ...]:
        """An adapter's parts with what is attached beside every adapter; a part takes the place of one of its kind."""
        known = {**self._beside, **{part.kind: part for part in parts}}
        for kind, mode in self._wanted:
            if mode is not None and isinstance(guard := known[kind], Guard):
                in_mode(guard, mode)
        found = arranged(parts, [known[kind] for kind, _ in self._wanted])
        check_order(found)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters at hand, in the order they came."""
        return tuple(self._sets)

    @property
    def kinds(self) -> list[str]:
        """Of the defences of all adapters at hand, the active one's first."""
        every = [*self.defences, *(one for found in self._sets.values() for one in found)]
        return [*dict.fromkeys(one.kind for one in every)]

    def replace(self, defence: Defence) -> None:
        """Put a defence in the place of the active adapter's of its kind."""
        self.defences = tuple(defence if one.kind == defence.kind else one for one in self.defences)
        self._sets[self.active] = self.defences

    def merge_lora(self, on: bool) -> None:
        """See `SafetyAttachment.merge_lora`."""
        for one in (one for defences in self._sets.values() for one in defences):
            if isinstance(one, Guard):
                one.merge_lora = on
        if not on:
            self.free_merged()

    def free_merged(self) -> None:
        """Free the active adapter's merged copies of the base's linears."""
        for one in self.defences:
            if one.lora is not None:
                one.lora.free_merged()

    def load(self, adapter: str | PathLike[str], name: str, revision: str | None = None) -> None:
        """Read one more adapter and keep it ready. See `SafetyAttachment.load_adapter`."""
        self._check_free(name)
        parts = fit_adapter(self.backbone, adapter, revision)
        with self.backbone.lock:
            self._check_free(name)
            merged = any(one.merge_lora for one in self.defences if isinstance(one, Guard))
            self._sets[name] = self._ordered(parts)
            self.merge_lora(merged)

    def use(self, name: str, policy: Policy, busy: bool) -> None:
        """Switch to another adapter. See `SafetyAttachment.set_adapter`."""
        found = self.of(name)
        for one in found:
            one.policy_for(policy)
        # The lock lets this thread in again: from a streamer, say, in the middle of its own call.
        if busy or is_mounted(self.backbone.language_model):
            raise AttachError(
                "not switched: expected no call or mounted LoRA in this thread, got one. Switch between two calls."
            )
        if name != self.active:
            self.free_merged()  # one adapter's copies at a time
        self.active, self.defences = name, found

    def delete(self, name: str) -> None:
        """Forget an adapter. See `SafetyAttachment.delete_adapter`."""
        self.of(name)
        if name == self.active:
            raise AdapterError(name, ["not deleted: expected an adapter at rest, got the active one. Set another."])
        del self._sets[name]

    def save(self, directory: str | PathLike[str], dtype: str, metadata: Mapping[str, Any] | None) -> Path:
        """Write the active adapter's folder. See `SafetyAttachment.save_pretrained`."""
        if not all(one.trained for one in self.defences):
            raise AdapterError(
                directory,
                ["not saved: expected trained safety modules, got new ones. Train them (train_safety) first."],
            )
        for one in self.defences:
            one.check_base()
        widest = max(self.defences, key=lambda one: len(one.depends_on(one.current_settings())))
        return save_adapter(
            directory,
            self.defences,
            fingerprint=widest.fingerprint or self.backbone.fingerprint(),
            sizes=self.backbone.sizes,
            processor=self.backbone.pixel_settings(),
            dtype=dtype,
            metadata=metadata,
        )

    def push(self, repo_id: str, dtype: str, metadata: Mapping[str, Any] | None, **options: Any) -> str:
        """Save the active adapter and upload it. See `SafetyAttachment.push_to_hub`."""
        with tempfile.TemporaryDirectory() as folder:
            return push_adapter(self.save(Path(folder) / "adapter", dtype, metadata), repo_id, **options)

    def of(self, name: str) -> tuple[Defence, ...]:
        """An adapter's defences, those beside it among them. Raises AdapterError: no such adapter."""
        if name not in self._sets:
            raise AdapterError(
                name, [f"not loaded: expected one of {', '.join(self._sets)}, got {name!r}. Load it first."]
            )
        return self._sets[name]

    def _check_free(self, name: str) -> None:
        if name in self._sets:
            raise AdapterError(name, ["name taken: expected a new one. Choose another, or delete that adapter first."])
