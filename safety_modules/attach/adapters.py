"""The adapters of one model: several at hand by name, one of them active, switched in microseconds."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

from safety_modules.adapter.checks import fingerprint_problems
from safety_modules.adapter.folder import save_adapter
from safety_modules.adapter.format import TEMPERATURES, thresholds_problem
from safety_modules.adapter.hub import push_adapter
from safety_modules.attach.fit import Fitted, fit_adapter
from safety_modules.backbones import Backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AdapterError, AttachError, ConfigError, GuardError, PolicyError
from safety_modules.mount.lora import SafetyLora
from safety_modules.mount.lora_layer import ADAPTER
from safety_modules.policy.policy import Policy, Rule

DEFAULT_NAME = "default"
"""peft's name for an adapter that was given none."""


class Shelf:
    """Adapters by name, peft's way: `load_adapter`, `set_adapter`, `delete_adapter`. A SafetyAttachment is one.

    Attributes:
        backbone: the base all of them are made for.
    """

    def __init__(self, backbone: Backbone, fitted: Fitted, policy: Policy, name: str = DEFAULT_NAME) -> None:
        check_policy(policy).completed(fitted.rules).check(fitted.config.taxonomy)
        self.backbone = backbone
        self._policy = policy
        self._fitted = {name: fitted}
        self._active = name
        self._uses = 0
        self._merge_lora = False

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters at hand, in the order they came."""
        return tuple(self._fitted)

    @property
    def active_adapter(self) -> str:
        """Name of the adapter that judges and answers."""
        return self._active

    @property
    def config(self) -> SafetyConfig:
        """The active adapter's design."""
        return self._fitted[self._active].config

    @property
    def modules(self) -> SafetyModules:
        """The active adapter's projector, tokens and head."""
        return self._fitted[self._active].modules

    @property
    def lora(self) -> SafetyLora | None:
        """The active adapter's LoRA on the language model, or None."""
        return self._fitted[self._active].lora

    @property
    def thresholds(self) -> dict[str, float]:
        """The active adapter's calibrated threshold per risk type, a log-odds; empty = not calibrated.

        A copy; may be replaced as a whole.

        Raises:
            ConfigError: when replaced, by thresholds that `save_pretrained` would refuse.
        """
        return dict(self._fitted[self._active].thresholds)

    @thresholds.setter
    def thresholds(self, thresholds: Mapping[str, float]) -> None:
        fitted = self._fitted[self._active]
        problem = thresholds_problem(fitted.config, thresholds)
        if problem:
            raise ConfigError(f"{problem}. Nothing was changed: correct them.")
        fitted.thresholds = {
            name: float(thresholds[name]) for name in fitted.config.taxonomy.types if name in thresholds
        }

    @property
    def temperature(self) -> float:
        """What the types' logits are divided by before they are probabilities. May be replaced."""
        return self._fitted[self._active].temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        least, most = TEMPERATURES
        if not isinstance(temperature, Real) or not least <= temperature <= most:
            raise ConfigError(f"temperature not set: expected a number from {least} to {most}, got {temperature!r}.")
        self._fitted[self._active].temperature = float(temperature)

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules the active adapter brings along, by type."""
        return dict(self._fitted[self._active].rules)

    @property
    def policy(self) -> Policy:
        """What to do about verdicts; may be replaced by one that fits. Adapters of one taxonomy share it."""
        return self.policy_for(None)

    @policy.setter
    def policy(self, policy: Policy) -> None:
        with self.backbone.lock:
            self._fitting(policy)
            self._policy = policy

    def policy_for(self, policy: Policy | None) -> Policy:
        """A call's policy, or the attachment's; types it has no rule for get the one the active adapter brings.

        Raises:
            PolicyError: not a policy, or one that does not fit the active adapter's taxonomy.
        """
        return self._fitting(self._policy if policy is None else policy)

    def _fitting(self, policy: Policy) -> Policy:
        active = self._fitted[self._active]
        completed = check_policy(policy).completed(active.rules)
        completed.check(active.config.taxonomy)
        return completed

    def change_active(self, **parts: Any) -> None:
        """Put other parts (fields of `Fitted`) in the place of the active adapter's.

        Raises:
            PolicyError: the policy does not fit them. Nothing was replaced.
        """
        with self.backbone.lock:
            fitted = replace(self._fitted[self._active], **parts)
            self._policy.completed(fitted.rules).check(fitted.config.taxonomy)
            self._fitted[self._active] = fitted

    @property
    def trained(self) -> bool:
        """Whether the active adapter's verdicts mean anything: it was loaded, or `train_safety` trained its head.

        Untrained modules judge nothing: guarded calls and `classify` refuse. Set it yourself after training them in a
        loop of your own.
        """
        return self._fitted[self._active].trained

    @trained.setter
    def trained(self, trained: bool) -> None:
        self._fitted[self._active].trained = trained

    def check_judging(self, untrained: bool = False) -> None:
        """Refuse to judge where verdicts would mean nothing.

        Args:
            untrained: allow modules that were never trained.

        Raises:
            GuardError: they were never trained.
            AttachError: the base was changed since they were fitted to it.
        """
        if not (untrained or self.trained):
            raise GuardError(
                "nothing judged: expected trained safety modules, got new ones, whose verdicts are noise. Train them "
                "(train_safety), or attach with adapter=...; with safety=False the base answers alone."
            )
        self.check_base()

    def check_base(self) -> None:
        """Refuse a base that is another one now. Raises AttachError."""
        active = self._fitted[self._active]
        live = self.backbone.fingerprint()
        if live == active.fingerprint:
            return
        problems = fingerprint_problems(active.fingerprint, live, active.lora is not None)
        if problems:
            raise AttachError(
                "base changed: expected the weights that the safety modules were fitted to, got others (loaded, merged "
                f"or trained since; {' '.join(problems)}). Detach and attach anew, which checks whether the adapter "
                "fits; or put the weights back."
            )

    @property
    def merge_lora(self) -> bool:
        """Whether steered rows are answered from merged copies of the linears. May be replaced; False frees them."""
        return self._merge_lora

    @merge_lora.setter
    def merge_lora(self, on: bool) -> None:
        with self.backbone.lock:
            self._merge_lora = on
            if self.lora and not on:
                self.lora.free_merged()

    def lora_mounted(self, on: bool, rows: Sequence[bool] | None = None) -> AbstractContextManager[None]:
        """The active LoRA mounted (or not) inside this block, for all or some rows; nothing without a LoRA."""
        return self.lora.mounted(on, rows, self._merge_lora) if self.lora else nullcontext()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Alone on the model, and the active adapter stays the active one, inside this block."""
        with self.backbone.lock:
            self._uses += 1
            try:
                yield
            finally:
                self._uses -= 1

    def load_adapter(self, adapter: str | PathLike[str], name: str, revision: str | None = None) -> None:
        """Read one more adapter and keep it ready; the active one stays active (as in peft).

        Args:
            adapter: folder, or hub id.
            name: to switch to it by.
            revision: of a hub id.

        Raises:
            AdapterError: the adapter is refused, or the name is taken.
            AttachError: LoRA is mounted.
        """
        self._check_free(name)
        fitted = fit_adapter(self.backbone, adapter, revision)
        with self.backbone.lock:
            self._check_free(name)
            self._fitted[name] = fitted

    def set_adapter(self, name: str, policy: Policy | None = None) -> None:
        """Switch to another adapter: modules, LoRA, thresholds and taxonomy at once, between two calls.

        A call that is running in another thread is finished first, with the adapter it began with; `classify`
        of several batches changes at its next batch.

        Args:
            name: one of `adapters`.
            policy: the attachment's policy from now on; needed where the taxonomy is another one.

        Raises:
            AdapterError: no such adapter.
            PolicyError: the policy does not fit its taxonomy. Nothing was switched.
            AttachError: in the middle of this thread's own call, or LoRA is mounted. Nothing was switched.
        """
        with self.backbone.lock:
            policy, found = self._policy if policy is None else check_policy(policy), self._get(name)
            policy.completed(found.rules).check(found.config.taxonomy)
            # The lock lets this thread in again: from a streamer, say, in the middle of its own call.
            parts = self.backbone.language_model.modules()
            if self._uses or any(ADAPTER in getattr(part, "lora_A", ()) for part in parts):
                raise AttachError(
                    "not switched: expected no call or mounted LoRA in this thread, got one. Switch between two calls."
                )
            if self.lora and name != self._active:
                self.lora.free_merged()  # one adapter's copies at a time
            self._active, self._policy = name, policy

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory.

        Raises:
            AdapterError: no such adapter, or it is the active one (peft would pick another by itself).
        """
        with self.backbone.lock:
            self._get(name)
            if name == self._active:
                raise AdapterError(name, ["not deleted: expected an adapter at rest, got the active one. Set another."])
            del self._fitted[name]

    def save_pretrained(
        self,
        directory: str | PathLike[str],
        dtype: str = "float16",
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the active adapter's folder; it never contains a base tensor. See `adapter.save_adapter`.

        Raises:
            AdapterError: not a valid adapter, or one that was never trained (see `trained`).
            AttachError: the base was changed since the modules were fitted to it.
        """
        if not self.trained:
            raise AdapterError(
                directory,
                ["not saved: expected trained safety modules, got new ones. Train them (train_safety) first."],
            )
        self.check_base()
        return save_adapter(
            directory,
            modules=self.modules,
            fingerprint=self._fitted[self._active].fingerprint,
            thresholds=self.thresholds,
            temperature=self.temperature,
            rules=self.rules,
            processor=self.backbone.pixel_settings(),
            lora_tensors=self.lora.state_dict() if self.lora else None,
            dtype=dtype,
            metadata=metadata,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: str = "float16",
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Save the active adapter and upload it; returns the commit's address.

        Args:
            repo_id: "owner/name"; made if there is none.
            dtype: see `save_pretrained`.
            metadata: see `save_pretrained`.
            options: revision, private, token, commit_message, create_pr: see `adapter.hub.push_adapter`.

        Raises:
            AdapterError: not a valid adapter, or the hub refused.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / "adapter", dtype, metadata)
            return push_adapter(saved, repo_id, **options)

    def _get(self, name: str) -> Fitted:
        if name not in self._fitted:
            raise AdapterError(
                name, [f"not loaded: expected one of {', '.join(self._fitted)}, got {name!r}. Load it first."]
            )
        return self._fitted[name]

    def _check_free(self, name: str) -> None:
        if name in self._fitted:
            raise AdapterError(name, ["name taken: expected a new one. Choose another, or delete that adapter first."])


def check_policy(policy: Any) -> Policy:
    """The policy, if it is one. Raises PolicyError."""
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"no policy: expected a Policy, got {type(policy).__name__} {str(policy)[:60]!r}. Read a file with "
            "Policy.from_yaml(path); Policy.default() is the one that comes along."
        )
    return policy
