"""The base that is looked at: loaded as its user loads it, asked two questions about noise pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment, attached_to
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.defences.guard.guard import Guard
from safety_modules.doctor.check import Failed, NotApplicable
from safety_modules.policy.policy import Policy
from safety_modules.policy.scores import LIMIT
from safety_modules.records import Record

QUESTIONS = ("What is shown here?", "How do I use what is shown in this picture?")
NEW_TOKENS = 8

T = TypeVar("T")


class Subject:
    """A live base with its processor.

    Args:
        model: a LlavaForConditionalGeneration.
        processor: its LlavaProcessor.
        adapter: folder, hub id or shipped name of one that is to fit; None = untrained modules stand in.
        records: of the user's data, a few.
        quantize: how the base was quantised while loading, for the plan of a training.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        adapter: Any = None,
        records: Sequence[Record] = (),
        quantize: str | None = None,
    ) -> None:
        self.model, self.processor, self.adapter = model, processor, adapter
        self.records, self.quantize = records, quantize
        self._known: dict[tuple[str, Any], Any] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The processor's, or what was given in its place."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def backbone(self) -> Backbone:
        """The base as the guard sees it."""
        return self._once("supported", lambda: find_backbone(self.model, self.processor))

    @property
    def prompts(self) -> list[str]:
        """A prompt for each question, by the processor's own chat template where it has one."""
        if getattr(self.processor, "chat_template", None) is None:
            return [self.backbone.prompt(question) for question in QUESTIONS]
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in QUESTIONS
        ]
        return [str(self.processor.apply_chat_template(turn, add_generation_prompt=True)) for turn in turns]

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """One for each question."""
        size, draw = self.model.config.vision_config.image_size, np.random.default_rng(0)
        return [Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)) for _ in QUESTIONS]

    @property
    def inputs(self) -> dict[str, Any]:
        """Both questions as a batch, as the processor gives them, on the base's device."""

        def build() -> dict[str, Any]:
            made = self.processor(images=self.pictures, text=self.prompts, return_tensors="pt", padding=True)
            return {
                name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
                for name, value in made.items()
            }

        return dict(self._once("image_tokens", build))

    def row(self, row: int) -> dict[str, Any]:
        """One question alone, with its padding."""
        return {name: value[row : row + 1] for name, value in self.inputs.items()}

    def _once(self, check: str, make: Callable[[], T], which: Any = None) -> T:
        """Made once. Where it cannot be, the check of this name says why; all others have nothing to look at."""
        found = self._known.get((check, which))
        if found is None:
            try:
                found = make()
            except NotApplicable:
                raise
            except Exception:
                self._known[check, which] = NotApplicable(f"needs {check}, which failed")
                raise
            self._known[check, which] = found
        if isinstance(found, NotApplicable):
            raise found
        result: T = found
        return result

    def generate(self, inputs: Mapping[str, Any], **options: Any) -> Any:
        """An answer of the model as it stands: greedy, with scores."""
        plain = {"do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS, "output_scores": True}
        return self.model.generate(**inputs, **{**plain, **options}, return_dict_in_generate=True)

    def base_answer(self, row: int | None = None) -> Any:
        """Of the base without safety: both questions, or one alone."""
        if row is not None:
            self.base_answer()
        inputs = self.inputs if row is None else self.row(row)

        def answered() -> Any:
            answer = self.generate(inputs)
            if any(bool(step.isnan().any()) for step in answer.scores):
                step = "Load it in bfloat16 or float32 (--dtype), or download it again."
                raise Failed("scores that are numbers", "NaN", step)
            return answer

        return self._once("base_answers", answered, row)

    @contextmanager
    def guarded(self, **options: Any) -> Iterator[SafetyAttachment]:
        """With safety on the model inside this block; what is untrained counts as trained.

        As the options say; without any, the adapter, or else an untrained guard, which is made once.
        """

        def attach(**chosen: Any) -> SafetyAttachment:
            attachment = attach_safety(self.model, self.processor, **chosen)
            for one in attachment.defences:
                one.trained = True
            return attachment

        def once() -> SafetyAttachment:
            attachment = attach(adapter=self.adapter)
            attachment.detach()
            return attachment

        _ = self.backbone  # where there is none, that is what failed
        if options:
            attachment = attach(**options)
        else:
            attachment = self._once("adapter", once)
            attachment.install()
        try:
            yield attachment
        finally:
            attachment.detach()

    @contextmanager
    def with_guard(self) -> Iterator[SafetyAttachment]:
        """As `guarded`, where there is a guard among what is attached."""
        with self.guarded() as attachment:
            if not any(isinstance(one, Guard) for one in attachment.defences):
                raise NotApplicable("the adapter has no guard")
            yield attachment

    def detached(self) -> None:
        """Whatever a check that failed left on the model is taken off."""
        left = attached_to(self.model)
        if left is not None:
            left.detach()


def flagging(attachment: SafetyAttachment, action: str | None) -> Policy:
    """A policy by which every picture gets this action, whatever the head says; None: the base answers all."""
    types = attachment.policy.rules
    policy = attachment.policy.allow(*types)
    for name in types if action is not None else ():
        policy = policy.with_rule(name, threshold=-LIMIT, action=action)
    return policy


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit: NaN is NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def differences(got: Any, expected: Any) -> int:
    """How many of the tensors of two answers, sequences and scores, are not the same bit for bit."""
    ours, theirs = ([one.sequences, *(one.scores or ())] for one in (got, expected))
    return abs(len(ours) - len(theirs)) + sum(not same_bits(a, b) for a, b in zip(ours, theirs, strict=False))


class Snapshot:
    """What may not be another one after safety was on a model: its numbers, modules, flags and attributes."""

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict()  # of a quantised base there is more in it than tensors
        self.numbers = {name: _sum(tensor) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        self.modules = {name: (type(part), part.training) for name, part in model.named_modules()}
        self.gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self.attributes = {name: sorted(vars(part)) for name, part in model.named_modules()}
        self.hooks = {
            name: [len(getattr(part, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks")]
            for name, part in model.named_modules()
        }

    def changed(self, since: "Snapshot") -> list[str]:
        """Names of what is another one: kind and module."""
        return [
            f"{kind} of {name or 'the model'}"
            for kind, now in vars(self).items()
            for name in sorted({*now, *vars(since)[kind]})
            if now.get(name) != vars(since)[kind].get(name)
        ]


def _sum(tensor: torch.Tensor) -> int | None:
    """Of all bits, as integers, exactly; None for one that is offloaded."""
    if tensor.is_meta:
        return None
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(whole).sum(dtype=torch.int64))
