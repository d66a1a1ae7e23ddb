"""What is attached to one model: the handle that toggles, judges, generates, saves, detaches."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from safety_modules.attach.adapters import DEFAULT_NAME, Adapters, Wanted
from safety_modules.attach.prepared import Prepared
from safety_modules.backbones import Backbone
from safety_modules.backbones.base import is_guarded, no_copies
from safety_modules.backbones.weights import without_peft
from safety_modules.config import SafetyConfig
from safety_modules.defences.answer import GuardedOutput
from safety_modules.defences.base import Defence, default_policy, fold, prepared_by
from safety_modules.defences.call import Call
from safety_modules.defences.guard.guard import Guard, check_batch_mode, guard_among
from safety_modules.defences.guard.judge import classify, judge, look
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import AttachError, GuardError, did_you_mean
from safety_modules.mount.flags import frozen
from safety_modules.mount.lora import Lora
from safety_modules.policy.policy import Policy, Rule, check_policy
from safety_modules.policy.verdict import Verdict

# (attachment, name) of defences switched off by `with safety.disabled()` in this context (thread or task).
_PAUSED: ContextVar[frozenset[tuple[int, str]]] = ContextVar("safety_modules_paused", default=frozenset())
_ATTACHED: "weakref.WeakValueDictionary[int, SafetyAttachment]" = weakref.WeakValueDictionary()
_ALL = ""  # in the place of a name

Switch = bool | Sequence[bool]
"""For all rows of a call, or one for each. numpy's and torch's booleans, and 0 and 1, are read as what they say."""
Switches = Switch | Mapping[str, Switch]
"""For all defences, or by the name of each; those not named stay on."""

T = TypeVar("T")


def attached_to(model: Any) -> "SafetyAttachment | None":
    """The attachment on this model, if any; a `PeftModel` around the model counts as the model."""
    return _ATTACHED.get(id(without_peft(model)))


class _OfGuard(Generic[T]):
    """The active guard's attribute of the same name, on the handle."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, handle: "SafetyAttachment", _owner: type) -> T:
        found: T = getattr(handle.guard, self.name)
        return found

    def __set__(self, handle: "SafetyAttachment", value: T) -> None:
        setattr(handle.guard, self.name, value)
        if handle._given is None:  # the default policy has the rules that the guard brings
            handle._policy = default_policy(handle.defences)


class SafetyAttachment:
    """Defences on one model. Made by `attach_safety`.

    Args:
        backbone: the base.
        defences: of the first adapter, the outermost first.
        policy: what to do about verdicts; None = the default one of the adapter that is active.
        name: of the first adapter.
        wanted: order and further defences; see `attach_safety(defence=...)`.

    Attributes:
        config: the active guard's design. This and the next seven: GuardError where no guard is attached.
        modules: its projector, tokens and head.
        lora: its LoRA, or None.
        thresholds: its calibrated thresholds, per risk type, as log-odds; a copy, may be replaced as a whole.
        temperature: what its types' logits are divided by; may be replaced.
        rules: the policy's rules it brings along, by type.
        trained: whether its verdicts mean anything: it was loaded, or `train_safety` trained its head. Untrained
            modules judge nothing: guarded calls and `classify` refuse. Set it after training in a loop of your own.

    Does not cover: `forward` called directly: it is the base's own, judges nothing, and, called by another thread while
    a risky row is being answered, sees the mounted LoRA; `prepare` is for loops of one's own. `generate`, `classify`
    and `prepare` take turns: one lock per model.
    """

    config = _OfGuard[SafetyConfig]()
    modules = _OfGuard[SafetyModules]()
    lora = _OfGuard[Lora | None]()
    thresholds = _OfGuard[dict[str, float]]()
    temperature = _OfGuard[float]()
    rules = _OfGuard[dict[str, Rule]]()
    trained = _OfGuard[bool]()

    def __init__(
        self,
        backbone: Backbone,
        defences: Sequence[Defence],
        policy: Policy | None = None,
        name: str = DEFAULT_NAME,
        wanted: Wanted | None = None,
    ) -> None:
        self.backbone = backbone
        self._adapters = Adapters(backbone, [*defences], wanted or [], name)
        self._batch_mode = "split"
        self._off: set[str] = set()
        self._all_off = False
        self._uses = 0
        self._given = policy
        self._policy = default_policy(self.defences) if policy is None else check_policy(policy)
        self._check_policy(self._policy)

    @property
    def defences(self) -> tuple[Defence, ...]:
        """The active adapter's defences, and those attached beside it: the outermost first."""
        return self._adapters.defences

    @property
    def guard(self) -> Guard:
        """The one that judges images. Raises GuardError where none is attached."""
        return guard_among(self.defences)

    @property
    def policy(self) -> Policy:
        """What to do about verdicts; may be replaced by one that fits. Adapters of one taxonomy share it."""
        return self.policy_for(None)

    @policy.setter
    def policy(self, policy: Policy) -> None:
        with self.backbone.lock:
            self._check_policy(policy)
            self._policy = self._given = policy

    def policy_for(self, policy: Policy | None) -> Policy:
        """A call's policy, or the attachment's; types it has no rule for get the one the active guard brings.

        Raises:
            PolicyError: not a policy, or one that does not fit the active guard's taxonomy.
        """
        return self._check_policy(self._policy if policy is None else policy)

    def _chosen(self, policy: Policy | None) -> Policy:
        """A call's policy, or the attachment's, as it was given; each defence completes it for itself."""
        chosen = self._policy if policy is None else policy
        self._check_policy(chosen)
        return chosen

    def _check_policy(self, policy: Policy) -> Policy:
        """The policy as the active guard uses it. Raises PolicyError where it does not fit one of the defences."""
        found = check_policy(policy)
        for one in self.defences:
            own = one.policy_for(policy)
            found = own if isinstance(one, Guard) else found
        return found

    @property
    def batch_mode(self) -> str:
        """How a batch of risky and other rows is answered, `split` or `merged`; may be replaced by the other."""
        return self._batch_mode

    @batch_mode.setter
    def batch_mode(self, batch_mode: str) -> None:
        self._batch_mode = check_batch_mode(batch_mode)

    @property
    def merge_lora(self) -> bool:
        """Whether steered rows are answered from merged copies of the linears. May be replaced; False frees them."""
        return any(one.merge_lora for one in self.defences if isinstance(one, Guard))

    @merge_lora.setter
    def merge_lora(self, on: bool) -> None:
        if on:
            _ = self.guard
        with self.backbone.lock:
            self._adapters.merge_lora(on)

    @property
    def enabled(self) -> bool:
        """Whether any defence is on, here and now."""
        return bool(self.defences_on)

    @property
    def defences_on(self) -> tuple[Defence, ...]:
        """Those of `defences` that are on, here and now: what no call switches off acts."""
        return tuple(one for one in self.defences if self._is_on(one.kind))

    def _is_on(self, name: str) -> bool:
        paused = _PAUSED.get()
        return not (self._all_off or name in self._off or (id(self), name) in paused or (id(self), _ALL) in paused)

    def enable(self, *names: str) -> None:
        """Switch these defences on again, in all threads; without names, all, those of other adapters too."""
        check_names(names, self._adapters.kinds)
        self._off = ({*self._adapters.kinds} if self._all_off else self._off) - {*names} if names else set()
        self._all_off = False

    def disable(self, *names: str) -> None:
        """Switch these defences off, in all threads; without names all, and `generate` is the base's own."""
        check_names(names, self._adapters.kinds)
        self._off |= {*names}
        self._all_off = self._all_off or not names

    @contextmanager
    def disabled(self, *names: str) -> Iterator[None]:
        """These defences, or all, off inside this block, in this thread (or asyncio task) only."""
        check_names(names, self._adapters.kinds)
        token = _PAUSED.set(_PAUSED.get() | {(id(self), name) for name in names or (_ALL,)})
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
        with self.backbone.lock, self._without_loras():
            if self.installed:
                self.backbone.uninstall()
                del _ATTACHED[id(self.backbone.model)]
                self._adapters.free_merged()

    def generate(
        self, *, safety: Switches = True, policy: Policy | None = None, batch_mode: str | None = None, **inputs: Any
    ) -> GuardedOutput:
        """As `model.generate(**inputs)`, always with the verdicts.

        Args:
            safety: False = the base's own answer; or one bool per row; or either by the name of a defence.
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
        if not isinstance(output, ModelOutput):
            raise GuardError(
                f"no verdicts: expected what generate gives, got a {type(output).__name__} of the call's own decoding. "
                "Call model.generate."
            )
        known = {name: output[name] for name in GuardedOutput.__dataclass_fields__ if name in output}
        return GuardedOutput(**known, verdicts=[None] * len(ids), image_verdicts=[[] for _ in range(len(ids))])

    def _generate(
        self, *, safety: Switches = True, policy: Policy | None = None, batch_mode: str | None = None, **kwargs: Any
    ) -> Any:
        mode = check_batch_mode(self.batch_mode if batch_mode is None else batch_mode)
        with self.inference():
            switches = self._switches(safety)
            if not switches:
                with self._without_loras():
                    return self.backbone.base_generate(**kwargs)
            if is_guarded(kwargs.get("assistant_model")):
                raise GuardError(
                    "call not guarded: expected an assistant_model without safety, got a guarded one. Detach it: the "
                    "model checks every token it proposes."
                )
            choices = {"policy": self._chosen(policy), "batch_mode": mode}
            call = Call.read(self.backbone, kwargs, switches, choices)
            with self._without_loras():  # somebody's block may have mounted one: each mounts its own
                answer = fold(call, [one for one in self.defences if one.kind in switches])
        if answer.whole and not isinstance(answer.output, ModelOutput):
            return answer.output
        output = answer.output_for(call.ids, call.records)
        return output if call.option("return_dict_in_generate", False) else output.sequences

    def prepare(self, *, safety: Switches = True, policy: Policy | None = None, **inputs: Any) -> Prepared:
        """Judge and plan a call for a decoding loop of your own, because `model(...)` itself is not guarded.

        Args:
            safety: as in `generate`.
            policy: for this call; default: the attachment's.
            inputs: input_ids, attention_mask and pixel_values, as the processor gave them.

        Returns:
            The verdicts, what to call the model with, and the block to call it in.

        Raises:
            GuardError: untrained modules, other inputs, images the guard cannot judge, or a defence that answers in
                several passes.
            AttachError: detached, or the base was changed since.
            PromptError: image tokens and images do not match, or a risky prompt has no place for the hint.
        """
        known = ("input_ids", "attention_mask", *self.backbone.image_arguments)
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise GuardError(
                f"call not prepared: expected {', '.join(known)}, got {', '.join(unknown)}. "
                "Pass what the processor gave; everything else belongs into your own loop."
            )
        with self.inference():
            return self.planned(inputs, safety, policy)

    def planned(self, inputs: dict[str, Any], safety: Switches = True, policy: Policy | None = None) -> Prepared:
        """As `prepare`, alone on the model already, and with gradients where they are on (attacks)."""
        switches = self._switches(safety)
        choices = {"policy": self._chosen(policy), "batch_mode": "merged"}
        call = Call.read(self.backbone, inputs, switches, choices)
        call = prepared_by(call, [one for one in self.defences if one.kind in switches])
        return Prepared(call.encoded(), self._alone)

    def _switches(self, safety: Switches) -> dict[str, bool | list[bool]]:
        """By name the defences that are on for any row of a call; what would go unguarded is refused."""
        asked = read_switches(safety, [one.kind for one in self.defences])
        if not self.installed:
            raise AttachError(
                "not attached: expected a model with these safety modules on it, got one without. They were taken off "
                "(detach): attach anew, or call the model itself."
            )
        found: dict[str, bool | list[bool]] = {
            name: on for name, on in asked.items() if self._is_on(name) and on is not False
        }
        if any(on is True or (on is not False and any(on)) for on in found.values()):
            self.backbone.check_guardable()
        for one in self.defences:
            on = found.get(one.kind, False)
            if on is True or (on is not False and any(on)):
                one.check()
        return found

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
            pixel_values: (N, C, H, W) from the base's processor; of a base with tiles, what its backbone's
                `pixel_values` gives.
            policy: for this call; default: the attachment's.
            batch_size: images per run of the vision tower; of a generator no more are held.
            untrained: judge with modules that were never trained, whose verdicts are noise (for tests).

        Returns:
            One verdict per image, in order.

        Raises:
            GuardError: no guard, untrained modules, not exactly one of images and pixel_values, something that is no
                picture or no question, or not one question per image.
            DataError: a picture is unreadable, or too large or thin to be judged; the message says which.
            AttachError: the base was changed since.
        """
        self.guard.check(untrained)
        if (images is None) == (pixel_values is None):
            raise GuardError("nothing judged: expected images or pixel_values, got both or neither. Pass one.")
        # The active guard's, batch by batch.
        looking = lambda pixels: look(self.backbone, self.modules, pixels)  # noqa: E731
        judging = lambda *batch: judge(self.guard, *batch)  # noqa: E731
        given = images, pixel_values, questions
        return classify(self.backbone, looking, judging, self.inference, *given, self.policy_for(policy), batch_size)

    def judge_features(
        self, vision: torch.Tensor, questions: Sequence[str] | None = None, policy: Policy | None = None
    ) -> list[Verdict]:
        """As `classify`, on features of the vision tower that are at hand already (N, P, Dv)."""
        self.guard.check()
        prompts = None if questions is None else [self.backbone.prompt_ids(question) for question in questions]
        with self.inference():
            return judge(self.guard, vision, prompts, self.policy_for(policy))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters at hand, in the order they came."""
        return self._adapters.names

    @property
    def active_adapter(self) -> str:
        """Name of the adapter that judges and answers."""
        return self._adapters.active

    def change_active(self, **parts: Any) -> None:
        """Put other parts (see `Guard.changed`) in the place of the active guard's.

        Raises:
            PolicyError: the policy does not fit them. Nothing was replaced.
        """
        with self.backbone.lock:
            other = self.guard.changed(**parts)
            policy = other.default_policy() if self._given is None else self._given
            other.policy_for(policy)
            self._adapters.replace(other)
            self._policy = policy

    def load_adapter(self, adapter: str | PathLike[str], name: str, revision: str | None = None) -> None:
        """Read one more adapter and keep it ready; the active one stays active (as in peft).

        Args:
            adapter: folder, or hub id.
            name: to switch to it by.
            revision: of a hub id.

        Raises:
            AdapterError: the adapter is refused, or the name is taken.
            AttachError: LoRA is mounted.
            ConfigError: its parts and what is attached beside them are no order.
        """
        self._adapters.load(adapter, name, revision)

    def set_adapter(self, name: str, policy: Policy | None = None) -> None:
        """Switch to another adapter: modules, LoRA, thresholds and taxonomy at once, between two calls.

        A call that is running in another thread is finished first, with the adapter it began with; `classify`
        of several batches changes at its next batch.

        Args:
            name: one of `adapters`.
            policy: the attachment's policy from now on; needed where one was given before, and the taxonomy is another.

        Raises:
            AdapterError: no such adapter.
            PolicyError: the policy does not fit its taxonomy. Nothing was switched.
            AttachError: in the middle of this thread's own call, or LoRA is mounted. Nothing was switched.
        """
        with self.backbone.lock:
            given = self._given if policy is None else check_policy(policy)
            chosen = default_policy(self._adapters.of(name)) if given is None else given
            self._adapters.use(name, chosen, busy=self._uses > 0)
            self._policy, self._given = chosen, given

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory.

        Raises:
            AdapterError: no such adapter, or it is the active one (peft would pick another by itself).
        """
        with self.backbone.lock:
            self._adapters.delete(name)

    def save_pretrained(
        self, directory: str | PathLike[str], dtype: str = "float16", metadata: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the active adapter's folder; it never contains a base tensor. See `adapter.save_adapter`.

        Raises:
            AdapterError: not a valid adapter, or one that was never trained (see `trained`).
            AttachError: the base was changed since the modules were fitted to it.
        """
        return self._adapters.save(directory, dtype, metadata)

    def push_to_hub(
        self, repo_id: str, *, dtype: str = "float16", metadata: Mapping[str, Any] | None = None, **options: Any
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
        return self._adapters.push(repo_id, dtype, metadata, **options)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that may be trained: the modules and LoRA; no parameter of the base."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """`parameters` with names: "modules." and "lora." before those of each part of the guard.

        Of other defences the kind stands before them too.
        """
        for one in self.defences:
            for name, parameter in one.named_parameters():
                yield name if isinstance(one, Guard) else f"{one.kind}.{name}", parameter

    def train(self, mode: bool = True) -> None:
        """Training mode of modules and LoRA; the base keeps its own."""
        for part in self._trainable():
            part.train(mode)

    def _trainable(self) -> list[Any]:
        return [part for one in self.defences for part in (one.modules, one.lora) if part is not None]

    def check_base(self) -> None:
        """Refuse a base that is another one now than what the defences were fitted to. Raises AttachError."""
        for one in self.defences:
            one.check_base()

    def base_frozen(self) -> AbstractContextManager[None]:
        """The base without gradients and in evaluation mode inside this block; afterwards as it was."""
        return frozen(self.backbone.model)

    def lora_mounted(self, on: bool, rows: Sequence[bool] | None = None) -> AbstractContextManager[None]:
        """The active guard's LoRA mounted (or not) inside this block, for all or some rows; nothing without a LoRA."""
        for one in self.defences:
            if isinstance(one, Guard) and one.lora is not None:
                return one.lora.mounted(on, rows, one.merge_lora)
        return nullcontext()

    @contextmanager
    def _without_loras(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self.defences:
                if one.lora is not None:
                    stack.enter_context(one.lora.mounted(False))
            yield

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Alone on the model; no gradients; modules in evaluation mode and on the base's device."""
        with self.backbone.lock, torch.no_grad():
            self._uses += 1
            parts = self._trainable()
            modes = [part.training for part in parts]
            try:
                for one in self.defences:
                    one.to_base_device()
                if any(modes):
                    self.train(False)
                yield
            finally:
                self._uses -= 1
                for part, mode in zip(parts, modes, strict=True):
                    if mode:
                        part.train(mode)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """For a prepared call: as `inference`, if the model still is what it was prepared for."""
        if not self.installed:
            raise GuardError(
                "not run: expected the model the call was prepared for, got it detached. Attach and prepare again."
            )
        with self.inference(), self._without_loras():
            yield

    __deepcopy__ = __reduce__ = no_copies


def read_switches(safety: Any, names: Sequence[str]) -> dict[str, bool | list[bool]]:
    """What `safety=` says about each defence: one bool for all rows, or one per row.

    Raises:
        GuardError: anything else, such as None or a word: whether to guard is not guessed; or an unknown name.
    """
    by_name = safety if isinstance(safety, Mapping) and safety else dict.fromkeys(names, safety)
    found = {name: _read(by_name.get(name, True)) for name in names}
    unknown = [name for name in by_name if name not in names]
    if unknown or None in found.values():
        near = "".join(did_you_mean(name, names) for name in unknown)
        raise GuardError(
            "call not guarded: expected safety to be True, False or a list with one of them per row, or any of these "
            f"by the name of a defence ({', '.join(names)}), got {safety!r}.{near} safety=False is the base's own "
            "answer."
        )
    return {name: on for name, on in found.items() if on is not None}


def check_names(given: Iterable[Any], names: Sequence[str]) -> None:
    """Raises GuardError for a name that no attached defence has."""
    for name in given:
        if name not in names:
            raise GuardError(
                f"no such defence: expected one of {', '.join(names)}, got {name!r}.{did_you_mean(name, names)} "
                "Name one that is attached."
            )


def _read(switch: Any) -> bool | list[bool] | None:
    values = switch.tolist() if hasattr(switch, "tolist") else switch  # numpy and torch: to Python's own
    found = [_one(value) for value in values] if isinstance(values, list | tuple) else _one(values)
    if isinstance(found, list):
        flags = [flag for flag in found if flag is not None]
        return flags if len(flags) == len(found) else None
    return found


def _one(value: Any) -> bool | None:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    return bool(value) if isinstance(value, int) and value in (0, 1) else None
