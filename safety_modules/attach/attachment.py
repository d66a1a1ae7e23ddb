"""SafetyAttachment: the handle on a guarded model. Toggles, judges, generates, trains, saves, detaches."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from safety_modules.attach.adapters import DEFAULT_NAME, Shelf
from safety_modules.attach.fit import Fitted
from safety_modules.backbones import Backbone
from safety_modules.backbones.llava_backbone import no_copies
from safety_modules.backbones.weights import without_peft
from safety_modules.defences.guard import (
    BatchMode,
    GuardedOutput,
    Prepared,
    Switch,
    as_guarded,
    check_batch_mode,
    classify,
    guarded_generate,
    judge,
    prepare,
    read_switches,
)
from safety_modules.errors import AttachError, GuardError
from safety_modules.mount.frozen import frozen
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import Verdict

# Attachments switched off by `with safety.disabled()` in this context (thread or task).
_PAUSED: ContextVar[frozenset[int]] = ContextVar("safety_modules_paused", default=frozenset())
_ATTACHED: "weakref.WeakValueDictionary[int, SafetyAttachment]" = weakref.WeakValueDictionary()


def attached_to(model: Any) -> "SafetyAttachment | None":
    """The attachment on this model, if any; a `PeftModel` around the model counts as the model."""
    return _ATTACHED.get(id(without_peft(model)))


class SafetyAttachment(Shelf):
    """Safety modules on one model. Made by `attach_safety`. Several adapters, saving: see `Shelf`.

    Does not cover: `forward` called directly: it is the base's own, judges nothing, and, called by another
    thread while a risky row is being answered, sees the mounted LoRA; `prepare` is for loops of one's own.
    `generate`, `classify` and `prepare` take turns: one lock per model.
    """

    def __init__(self, backbone: Backbone, fitted: Fitted, policy: Policy, name: str = DEFAULT_NAME) -> None:
        super().__init__(backbone, fitted, policy, name)
        self._batch_mode: BatchMode = "split"
        self._enabled = True

    @property
    def batch_mode(self) -> BatchMode:
        """How a batch of risky and other rows is answered, `split` or `merged`; may be replaced by the other."""
        return self._batch_mode

    @batch_mode.setter
    def batch_mode(self, batch_mode: str) -> None:
        self._batch_mode = check_batch_mode(batch_mode)

    @property
    def enabled(self) -> bool:
        """Whether `generate` is guarded, here and now."""
        return self._enabled and id(self) not in _PAUSED.get()

    def enable(self) -> None:
        """Guard again, in all threads."""
        self._enabled = True

    def disable(self) -> None:
        """`generate` is the base's own, in all threads."""
        self._enabled = False

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """`generate` is the base's own inside this block, in this thread (or asyncio task) only."""
        token = _PAUSED.set(_PAUSED.get() | {id(self)})
        try:
            yield
        finally:
            _PAUSED.reset(token)

    @property
    def installed(self) -> bool:
        """Whether this attachment is on its model."""
        return attached_to(self.backbone.model) is self

    def install(self) -> None:
        """Guard the model's `generate` from now on. Part of attach_safety.

        Raises:
            AttachError: safety is on the model already, or cannot be. Nothing changed.
        """
        with self.backbone.lock:
            self.backbone.install(self._generate)
            _ATTACHED[id(self.backbone.model)] = self

    def detach(self) -> None:
        """Put the model back as it was. The modules stay usable for saving; a second call does nothing.

        Raises:
            AttachError: somebody replaced the model's class since; nothing was put back.
        """
        with self.backbone.lock, self.lora_mounted(False):
            if self.installed:
                self.backbone.uninstall()
                del _ATTACHED[id(self.backbone.model)]
                if self.lora:
                    self.lora.free_merged()

    def generate(
        self,
        *,
        safety: Switch = True,
        policy: Policy | None = None,
        batch_mode: str | None = None,
        **inputs: Any,
    ) -> GuardedOutput:
        """As `model.generate(**inputs)`, always with the verdicts.

        Args:
            safety: False = the base's own answer; or one bool per row.
            policy: for this call; default: the attachment's.
            batch_mode: for this call; default: the attachment's.
            inputs: of the model's `generate`.

        Raises:
            GuardError: untrained modules, or a call that cannot be guarded as asked.
            AttachError: detached, or the base was changed since.
        """
        options = {**inputs, "return_dict_in_generate": True}
        output = self._generate(safety=safety, policy=policy, batch_mode=batch_mode, **options)
        if isinstance(output, GuardedOutput):
            return output
        ids = next((inputs[name] for name in ("input_ids", "inputs") if inputs.get(name) is not None), [None])
        rows = len(ids)
        return as_guarded(output, [None] * rows, [[] for _ in range(rows)])

    def prepare(self, *, safety: Switch = True, policy: Policy | None = None, **inputs: Any) -> Prepared:
        """Judge and plan a call for a decoding loop of your own, because `model(...)` itself is not guarded.

        Args:
            safety: False = the base's own answer; or one bool per row.
            policy: for this call; default: the attachment's.
            inputs: input_ids, attention_mask and pixel_values, as the processor gave them.

        Returns:
            The verdicts, what to call the model with, and the block to call it in.

        Raises:
            GuardError: untrained modules, other inputs, or images the guard cannot judge.
            AttachError: detached, or the base was changed since.
            PromptError: image tokens and images do not match, or a risky prompt has no place for the hint.
        """
        on = read_switches(safety)
        with self.inference():
            self._check_call(on)
            return prepare(self, inputs, on if self.enabled else False, self.policy_for(policy))

    def classify(
        self,
        images: Any = None,
        questions: str | Iterable[str | None] | None = None,
        pixel_values: torch.Tensor | None = None,
        policy: Policy | None = None,
        batch_size: int = 32,
        *,
        untrained: bool = False,
    ) -> list[Verdict]:
        """Judge images, with or without a question; the language model does not run.

        Of an animation up to eight frames are judged, and the verdict is the most severe; `Verdict.frames` says so.

        Args:
            images: a picture (path, bytes, open file, PIL image, array, tensor: see `pictures.open_picture`), or many
                of them: a list, a generator, an array (N, ...), a column of a table or a dataset; or give pixel_values.
            questions: one for all images, or one per image; None, NaN and empty words = the image alone.
            pixel_values: (N, C, H, W) from the base's processor.
            policy: for this call; default: the attachment's.
            batch_size: images per run of the vision tower; of a generator no more are held.
            untrained: judge with modules that were never trained, whose verdicts are noise (for tests).

        Returns:
            One verdict per image, in order.

        Raises:
            GuardError: untrained modules, not exactly one of images and pixel_values, something that is no picture or
                no question, or not one question per image.
            DataError: a picture is unreadable, or too large or thin to be judged; the message says which.
            AttachError: the base was changed since.
        """
        self.check_judging(untrained)
        if (images is None) == (pixel_values is None):
            raise GuardError("nothing judged: expected images or pixel_values, got both or neither. Pass one.")
        return classify(self, images, pixel_values, questions, self.policy_for(policy), batch_size)

    def judge_features(
        self,
        vision: torch.Tensor,
        questions: Sequence[str] | None = None,
        policy: Policy | None = None,
    ) -> list[Verdict]:
        """As `classify`, on features of the vision tower that are at hand already (N, P, Dv)."""
        self.check_judging()
        prompts = None if questions is None else [self.backbone.prompt_ids(question) for question in questions]
        with self.inference():
            return judge(self, vision, prompts, self.policy_for(policy))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that may be trained: the modules and LoRA; no parameter of the base."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """`parameters` with names: "modules." and "lora." before those of each part."""
        for name, parameter in self.modules.named_parameters():
            yield f"modules.{name}", parameter
        for name, parameter in self.lora.named_parameters() if self.lora else ():
            yield f"lora.{name}", parameter

    def train(self, mode: bool = True) -> None:
        """Training mode of modules and LoRA; the base keeps its own."""
        self.modules.train(mode)
        if self.lora:
            self.lora.train(mode)

    def base_frozen(self) -> AbstractContextManager[None]:
        """The base without gradients and in evaluation mode inside this block; afterwards as it was."""
        return frozen(self.backbone.model)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Alone on the model; no gradients; modules in evaluation mode and on the base's device."""
        with self.in_use(), torch.no_grad():
            if self.modules.device != self.backbone.device:
                self.modules.to(self.backbone.device)
            if self.lora:
                self.lora.to_base_device()
            modes = self.modules.training, self.lora is not None and self.lora.training
            if any(modes):
                self.train(False)
            try:
                yield
            finally:
                if any(modes):
                    self.modules.train(modes[0])
                    if self.lora:
                        self.lora.train(modes[1])

    def _generate(
        self,
        *,
        safety: Switch = True,
        policy: Policy | None = None,
        batch_mode: str | None = None,
        **kwargs: Any,
    ) -> Any:
        mode = check_batch_mode(self.batch_mode if batch_mode is None else batch_mode)
        on = read_switches(safety)
        with self.inference():
            self._check_call(on)
            if self.enabled and on is not False:
                return guarded_generate(self, kwargs, on, self.policy_for(policy), mode)
            with self.lora_mounted(False):
                return self.backbone.base_generate(**kwargs)

    def _check_call(self, on: bool | list[bool]) -> None:
        """Refuse a call that would go unguarded, or be judged by what means nothing."""
        if not self.installed:
            raise AttachError(
                "not attached: expected a model with these safety modules on it, got one without. They were taken off "
                "(detach): attach anew, or call the model itself."
            )
        if self.enabled and (on is True or (on is not False and any(on))):
            self.backbone.check_guardable()
            self.check_judging()

    __deepcopy__ = __reduce__ = no_copies
