"""What a defence is: something that answers a guarded call, given a way to get the base's answer.

    class Careful(Defence):                                  # training-free: one verb is enough
        kind = "careful"

        def prepared(self, call):
            return call.mounting(lambda rows: hooked(self.backbone.blocks[3], add, rows))

A call is a fold of `around` over the base's `generate`: the first defence gets the call and, as `answer`, all the rest.
Between calls nothing stands on the model.
"""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import nn

from safety_modules.backbones import Backbone
from safety_modules.backbones.fingerprint import LANGUAGE_MODEL, VISION, fingerprint_problems
from safety_modules.config import BaseSizes, LoraSettings
from safety_modules.defences.answer import Answer
from safety_modules.defences.call import Call, Mount
from safety_modules.errors import AttachError, ConfigError, GuardError
from safety_modules.mount.lora import Lora
from safety_modules.policy.policy import Policy, check_policy

SEED = 0
"""Of first weights, so that two untrained sets are equal."""

Answering = Callable[[Call], Answer]
"""How to get an answer to a call: the defences further in, and the base."""


def _printable(text: str) -> str:
    if not text.replace("\n", "").isprintable():
        raise ValueError("expected a prompt of printable characters and line breaks")
    return text


Words = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]
"""A prompt of a defence. A stranger's adapter may bring one, as it may bring a policy's rule."""


class Settings(BaseModel):
    """What is saved of a defence beside its tensors. Unknown keys are errors. Those of a kind derive from this."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_on_projector: ClassVar[bool] = False
    """Whether its LoRA is on the projector; else it is on the language model."""

    @property
    def lora_settings(self) -> LoraSettings | None:
        """Of the LoRA that belongs to it, if one does."""
        return None


class Defence(ABC):
    """One defence on one base.

    Args:
        backbone: the base.
        settings: of this kind; None = the defaults.

    Attributes:
        kind: its name, in toggles and in adapters.
        settings_type: what its settings are.
        images_only: whether it leaves rows without an image to the base.
        by_rows: whether it keeps rows apart itself. Else it only ever gets rows it is on for.
        changes_inputs: whether it asks other prompts, or shows other pixels, than the caller's: never outside of one
            that judges. (What a judge itself adds does not count: judges look at `Call.origin`.)
        retracts: whether it may put another answer in the place of one that was made: nothing can be streamed before.
        judges: whether its verdicts are about what it is asked.
        needs_training: whether it can do nothing before its tensors were trained or loaded.
        source: paper or code it comes from.
        leaves_out: how this implementation differs from the source.
        modules: what is trained, beside the base.
        lora: LoRA on the language model or the projector (see `Settings.lora_on_projector`).
        fingerprint: the base's, when these were made for it; None = it has nothing that was fitted to a base.
        trained: whether what it has was trained, or loaded.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    images_only: ClassVar[bool] = True
    by_rows: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False
    retracts: ClassVar[bool] = False
    judges: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    source: ClassVar[str] = ""
    leaves_out: ClassVar[str] = ""

    modules: nn.Module | None = None
    lora: Lora | None = None
    fingerprint: dict[str, Any] | None = None
    trained = True

    def __init__(self, backbone: Backbone, settings: Settings | None = None) -> None:
        self.backbone = backbone
        self.settings: Any = self.settings_type() if settings is None else settings

    @classmethod
    def shapes(cls, settings: Any, sizes: BaseSizes) -> dict[str, torch.Size]:
        """Names and shapes of the tensors in `modules`, from the base's sizes alone."""
        return {}

    @classmethod
    def depends_on(cls, settings: Any) -> tuple[str, ...]:
        """Which of the base's weights have to be those it was trained on: "vision" (tower, projector, embeddings),
        "language_model"."""
        if settings.lora_settings is not None:
            return VISION, LANGUAGE_MODEL
        return (VISION,) if cls.needs_training else ()

    @property
    def one_pass(self) -> bool:
        """Whether it answers in one pass of the base, so that calls can be `prepared`."""
        return type(self).prepared is not Defence.prepared

    def prepared(self, call: Call) -> Call:
        """The call as the base is to run it: other prompts or features, something mounted meanwhile.

        For one bare forward, such as a training step or a loop of one's own: `with call.running(): model(...)`.

        Raises:
            GuardError: it answers in several passes.
        """
        raise GuardError(
            f"call not prepared: expected defences that one forward pass can run, got {self.kind}, which answers in "
            f"several passes. Use generate, or switch it off: safety={{'{self.kind}': False}}."
        )

    def around(self, call: Call, answer: Answering) -> Answer:
        """Answer a call, of rows it is on for.

        Args:
            call: what is asked.
            answer: how to get the answer of what is further in, to this call or to others made of it, as often as it
                takes.
        """
        return answer(self.prepared(call))

    def on(self, call: Call) -> list[bool]:
        """Whether it acts on each row of a call."""
        return [
            on and (count > 0 or not self.images_only)
            for on, count in zip(call.on(self.kind), call.counts, strict=True)
        ]

    def answered(self, call: Call, answer: Answering) -> Answer:
        """`around`, on the rows it is on for; the others as if it were not there, in a batch of their own."""
        on = self.on(call)
        if not any(on):
            return answer(call)
        if self.by_rows or all(on):
            return self.around(call, answer)
        # Those without first: sampling then starts from the caller's random state, as it would without a defence.
        without, within = ([row for row, flag in enumerate(on) if flag is wanted] for wanted in (False, True))
        return call.divided([(without, answer), (within, lambda part: self.around(part, answer))])

    def tensors_used(self) -> list[torch.Tensor]:
        """The parameters that act in its way of answering; as a rule all."""
        return [parameter for _, parameter in self.named_parameters()]

    def current_settings(self) -> Settings:
        """Its settings as they are now, to be saved."""
        return self.settings

    def described(self) -> dict[str, Any]:
        """What identifies its behaviour, beside its tensors; JSON-able."""
        return self.current_settings().model_dump(mode="json")

    def check(self, untrained: bool = False) -> None:
        """Refuse to answer with what means nothing, or not on this base.

        Args:
            untrained: allow what was never trained.

        Raises:
            GuardError: it was never trained.
            AttachError: the base was changed since it was fitted to it.
        """
        if not (untrained or self.trained) and not self.judges:
            raise GuardError(
                f"call not answered: expected trained weights of {self.kind}, got new ones. Train them, or attach with "
                "adapter=...; with safety=False the base answers alone."
            )
        if not (untrained or self.trained):
            raise GuardError(
                "nothing judged: expected trained safety modules, got new ones, whose verdicts are noise. Train them "
                "(train_safety), or attach with adapter=...; with safety=False the base answers alone."
            )
        self.check_base()

    def check_base(self) -> None:
        """Refuse a base that is another one now. Raises AttachError."""
        if self.fingerprint is None or (live := self.backbone.fingerprint()) == self.fingerprint:
            return
        problems = fingerprint_problems(self.fingerprint, live, self.depends_on(self.current_settings()))
        if problems:
            raise AttachError(
                "base changed: expected the weights that the safety modules were fitted to, got others (loaded, merged "
                f"or trained since; {' '.join(problems)}). Detach and attach anew, which checks whether the adapter "
                "fits; or put the weights back."
            )

    def policy_for(self, policy: Policy) -> Policy:
        """A policy as this defence uses it. Raises PolicyError: not a policy, or one that does not fit it."""
        return check_policy(policy)

    def default_policy(self) -> Policy:
        """What to do about its verdicts where nobody says so."""
        return Policy.default()

    def to_base_device(self) -> None:
        """Follow the base, which may have been moved."""
        if self.modules is not None and next(self.modules.parameters()).device != self.backbone.device:
            self.modules.to(self.backbone.device)
        if self.lora is not None:
            self.lora.to_base_device()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that may be trained: "modules." and "lora." before the names in each part."""
        for part in ("modules", "lora"):
            owner = getattr(self, part)
            for name, parameter in owner.named_parameters() if owner is not None else ():
                yield f"{part}.{name}", parameter


def fold(call: Call, defences: Sequence[Defence]) -> Answer:
    """The answer of these defences, the outermost first, around the base."""
    if not defences:
        return call.base_answer()
    return defences[0].answered(call, lambda inner: fold(inner, defences[1:]))


def prepared_by(call: Call, defences: Sequence[Defence]) -> Call:
    """The call as the base is to run it, prepared by these defences, the outermost first; each for its own rows."""
    for defence in defences:
        on, mounted = dict(zip(call.rows, defence.on(call), strict=True)), len(call.mounts)
        if any(on.values()):
            call = defence.prepared(call)
            gated = [
                Mount(enter, [on[row] and acts for acts, row in zip(rows, call.rows, strict=True)])
                for enter, rows in call.mounts[mounted:]
            ]
            call = replace(call, mounts=(*call.mounts[:mounted], *gated))
    return call


def default_policy(defences: Sequence[Defence]) -> Policy:
    """What to do about verdicts where nobody says so: the first judge's."""
    return next((one.default_policy() for one in defences if one.judges), Policy.default())


def check_order(defences: Sequence[Defence | type[Defence]]) -> None:
    """Refuse defences, or classes of them, that are no order: one twice, one that changes what another one judges, or
    one outside of a guard that selects what the others act on.

    Raises:
        ConfigError: naming them.
    """
    kinds = [defence.kind for defence in defences]
    for place, outer in enumerate(defences):
        if outer.kind in kinds[:place]:
            raise ConfigError(f"one defence twice: expected each kind once, got {outer.kind} again. Leave one out.")
        if place and getattr(outer, "mode", None) == "selective":
            raise ConfigError(
                f"order refused: expected the selective guard first, got {', '.join(kinds)}. What stands outside of it "
                "would act on what it judges clean. Name it first."
            )
        judged = [inner.kind for inner in defences[place + 1 :] if inner.judges]
        if outer.changes_inputs and judged:
            raise ConfigError(
                f"order refused: expected {judged[0]} outside of {outer.kind}, which changes what is asked and with it "
                f"what {judged[0]} would judge, got {', '.join(kinds)}. Name {judged[0]} first."
            )
