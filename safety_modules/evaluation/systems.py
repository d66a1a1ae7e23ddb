"""Systems under test: a base with or without defences on it, by name: `NAME`, or `NAME=FOLDER` with trained weights.

Several with a plus between them stand on the base together, the outermost first: `gated+shiftdc`.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch

from safety_modules.adapter.folder import Adapter, read_adapter
from safety_modules.adapter.format import CONFIG_FILE
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.adapters import fit_adapter
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.defences.answer import Answer
from safety_modules.defences.base import Answering, Defence, check_order
from safety_modules.defences.call import Call
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.guard.guard import Guard, guard_among
from safety_modules.defences.registry import FITTED, GUARD_MODES, KINDS, make
from safety_modules.defences.tga import Tga
from safety_modules.errors import AdapterError, ConfigError
from safety_modules.evaluation.asking import Question, Said, ask
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.outcomes import BASE
from safety_modules.policy.policy import Policy

PAPER = "paper"
UNTRAINED = tuple(kind for kind, defence in KINDS.items() if defence.needs_training is False)
"""Need nothing but the base; some may have what was read from it in a folder."""
TRAINED = (*(kind for kind in KINDS if kind not in UNTRAINED and kind != Guard.kind), PAPER)
"""Need weights of their own."""
NAMES = (BASE, *UNTRAINED, *TRAINED, *GUARD_MODES)

_ABOUT = {
    BASE: ("the base model as it is", ""),
    "gated": ("this package", ""),
    "always": ("this package", ""),
    "external": (
        "the form of LlavaGuard, arXiv 2406.05113, and ShieldGemma 2, arXiv 2504.01081",
        "a model of its own: the classifier is our head on the base's vision tower, far smaller than those, and it "
        "sees the question too",
    ),
    "selective": ("this package", ""),
    PAPER: (
        Guard.source,
        "a projector as wide as vision tower and tokens together; one row at a time; a stage I that trains on the "
        "language model's loss too. Trained by this package's recipe, LoRA and safety modules together",
    ),
}


class FirstCall(Defence):
    """The published two calls: a full one for the verdict, whose language model nobody listens to, then the other."""

    kind = "first-call"

    def around(self, call: Call, answer: Answering) -> Answer:
        inputs = {"input_ids": call.ids, "attention_mask": call.mask}
        inputs |= {} if call.pixels is None else self.backbone.images_taken(call.pixels)
        with torch.no_grad():
            self.backbone.model(**inputs)
        for place, row in enumerate(call.rows):
            usage = call.records[row].usage
            usage.prompt_tokens += int(call.mask[place].sum())
            usage.tower_runs += call.counts[place]
            usage.lm_passes += 1
        return answer(call)


class Transform(Protocol):
    """Changes cases before they are asked: a corruption, or an attack that looks at the system it attacks.

    An adaptive attack is a class with these three members and needs nothing else of this package:

        class Transposed:
            name = "transposed"

            def __call__(self, cases, system=None):
                return [with_images(case, lambda image: image.transpose(Image.Transpose.ROTATE_90)) for case in cases]

            def describe(self):
                return {"name": self.name}

    One that needs gradients (`attacks.PixelAttack`) or answers (a search over renderings of a text) takes them from
    `system`, and refuses systems that cannot give them; as the `attack` of a `System` it changes all that this one is
    asked, so that every system meets its own. What needs no system belongs into a benchmark's `load`, as the pocket
    suite's corruptions do.
    """

    @property
    def name(self) -> str:
        """How parts and reports call it."""

    def __call__(self, cases: Sequence[Case], system: "System | None" = None) -> list[Case]:
        """The cases, changed, as many and in the same order.

        Ids, parts, `wanted` and labels stay: whoever puts changed cases beside unchanged ones renames them.
        The same cases and the same system give the same result.

        Args:
            cases: what to change.
            system: the system under test, for attacks that adapt to it; corruptions leave it alone.

        Raises:
            DataError: the transform cannot work on these cases, or not without (this) system.
        """

    def describe(self) -> dict[str, Any]:
        """Name, strength, seed and whatever else the result depends on, for every report. JSON-able."""


class System:
    """A base with defences. They are on the model only while it answers, so that systems may take turns on one.

    Args:
        name: how reports call it; unique in a run.
        model: the base, with nothing attached.
        processor: its processor.
        defences: what defends it, the outermost first; none = the base alone.
        adapters: where they were read from, those that were.
        policy: what to do about verdicts; default: the defences' own.
        attack: changes the cases before they are answered, knowing this system; see `Transform`.

    Attributes:
        attachment: the defences' handle; None for the base alone.
        source: paper or code the defence comes from.
        leaves_out: how this implementation differs from the source; empty if it does not.
        extra_mb: MB (10^6 bytes) on disk beside the base.
        extra_parameters: parameters beside the base's.

    Raises:
        AttachError: the base is not supported.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        processor: Any,
        defences: Sequence[Defence] = (),
        adapters: Sequence[Path] = (),
        policy: Policy | None = None,
        attack: Transform | None = None,
    ) -> None:
        self.name, self.model, self.processor, self.attack = name, model, processor, attack
        self.attachment: SafetyAttachment | None = None
        if defences:
            self.attachment = SafetyAttachment(defences[0].backbone, defences, policy)
        own = next((one for one in defences if one.source), None)
        self.source, self.leaves_out = _ABOUT.get(name.partition(",")[0]) or (
            own.source if own else "",
            own.leaves_out if own else "",
        )
        found = [read_adapter(folder) for folder in adapters]
        digests = [hashlib.sha256((one.path / CONFIG_FILE).read_bytes()).hexdigest() for one in found]
        self.adapter = "+".join(digests) or None
        used = [tensor for one in defences for tensor in one.tensors_used()]
        self.extra_parameters = sum(tensor.numel() for tensor in used)
        whole = sum(parameter.numel() for one in defences for _, parameter in one.named_parameters())
        if self.extra_parameters == whole or not found:
            self.extra_mb = float(sum(one.megabytes for one in found))
        else:
            self.extra_mb = self.extra_parameters * found[0].dtype.itemsize / 1e6

    def answer(self, cases: Sequence[Case], max_new_tokens: int) -> list[Reply]:
        """Greedy answers to a batch of cases, in order."""
        cases = cases if self.attack is None else self.attack(cases, self)
        questions = [Question(case.prompt, case.load_images(), case.history) for case in cases]
        if self.attachment is None:
            said = ask(self.model, self.processor, questions, max_new_tokens)
        else:
            with self.on_model() as attachment:
                said = ask(self.model, self.processor, questions, max_new_tokens, attachment.generate)
        return [_reply(one) for one in said]

    @contextmanager
    def on_model(self) -> Iterator[SafetyAttachment]:
        """Its defences on the model inside this block. Raises ConfigError for the base alone."""
        if self.attachment is None:
            raise ConfigError(f"nothing attached: expected a system with a defence, got {self.name}. Name another.")
        self.attachment.install()
        try:
            yield self.attachment
        finally:
            self.attachment.detach()

    def describe(self) -> dict[str, Any]:
        """What identifies it in a report and a resumed run: adapter, settings, policy. JSON-able."""
        if self.attachment is None:
            return {"system": self.name}
        policy = self.attachment.policy.model_dump_json()
        return {
            **({} if self.attack is None else {"attack": self.attack.describe()}),
            "system": self.name,
            "adapter": self.adapter,
            "defences": [one.described() for one in self.attachment.defences],
            "policy": hashlib.sha256(policy.encode()).hexdigest(),
        }

    def close(self) -> None:
        """Leave the base as it was before; it is so between any two calls."""
        if self.attachment is not None:
            self.attachment.detach()


def _reply(said: Said) -> Reply:
    if (verdict := said.verdict) is None:
        return Reply(text=said.text, flagged=said.harmful, **asdict(said.usage))
    outside = None if verdict.outside is None else verdict.is_outside
    judged: dict[str, Any] = {
        "risk": verdict.risk,
        "flagged": verdict.flagged,
        "type": verdict.type,
        "outside": outside,
    }
    return Reply(text=said.text, **judged, **asdict(said.usage))


def make_system(
    spec: str,
    model: Any,
    processor: Any,
    adapter: str | PathLike[str] | None = None,
    attack: Transform | None = None,
) -> System:
    """A system on a base.

    Args:
        spec: `NAME` or `NAME=FOLDER`, see `NAMES`; or several, with a plus between them.
        model: the base, with nothing attached.
        processor: its processor.
        adapter: for `gated`, `always` and `external` without a folder of their own.
        attack: on all that it is asked; its name stands behind the system's.

    Raises:
        ConfigError: unknown name, a folder that is missing or not wanted, or a stack in no order.
        AdapterError: the folder is refused.
        AttachError: the base is not supported.
    """
    parts = [check_spec(part, adapter) for part in parts_of(spec)]
    name = "+".join(part for part, _ in parts)
    called = name if attack is None else f"{name}, {attack.name}"
    if name == BASE:
        return System(called, model, processor, attack=attack)
    backbone = find_backbone(model, processor)
    defences = [one for part in parts for one in _defences(backbone, *part)]
    check_order(defences)
    adapters = list(dict.fromkeys(folder for _, folder in parts if folder is not None))
    return System(called, model, processor, defences, adapters, attack=attack)


def parts_of(spec: str) -> list[str]:
    """The specs of a stack; a plus in a folder's name divides nothing. Raises ConfigError: the base in one."""
    parts = re.split(rf"\+(?=(?:{'|'.join(map(re.escape, NAMES))})(?:[=+]|$))", spec)
    if len(parts) > 1 and any(part.partition("=")[0] in (BASE, PAPER) for part in parts):
        raise ConfigError(
            f"no such stack: expected defences with a plus between them, got {spec!r}. Leave out {BASE} and {PAPER}."
        )
    return parts


def _defences(backbone: Backbone, name: str, folder: Path | None) -> list[Defence]:
    if folder is None:
        return [make(backbone, name)]
    defences = fit_adapter(backbone, folder)
    if name in (*GUARD_MODES, PAPER):
        guard = guard_among(defences)
        guard.mode = "always" if name == PAPER else name
        defences = [FirstCall(backbone), guard] if name == PAPER else defences
    return list(defences)


def check_spec(spec: str, adapter: str | PathLike[str] | None = None) -> tuple[str, Path | None]:
    """What of one `NAME` or `NAME=FOLDER` can be known without a base: its name and the folder of its weights, looked
    at whole.

    Raises:
        ConfigError: as `make_system`.
        AdapterError: as `make_system`, where the base does not matter.
    """
    name, _, given = spec.partition("=")
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0)
        raise ConfigError(
            f"unknown system: expected one of {', '.join(NAMES)}, got {name!r}. Did you mean {near[0]!r}?"
        )
    if name in (BASE, *UNTRAINED):
        if not given:
            return name, None
        if name not in FITTED:
            raise ConfigError(f"nothing to load: expected {name!r} alone, got {spec!r}. Leave the folder out.")
        found = read_adapter(Path(given))
        _check_kind(found, name, f"Fit it: safety-modules fit {name} --out DIR.")
        return name, found.path
    if name in TRAINED:
        command = f"python benchmarks/comparison.py train --out DIR --only {name}"
        training = f"Train it, in a clone, for llava-pocket: {command}."
        if name in (Tga.kind, Davsp.kind):
            training = f"Train it: safety-modules train --defence {name} --out DIR."
        if not given or not Path(given).is_dir():
            raise ConfigError(f"no weights: expected {name}=FOLDER with trained weights, got {spec!r}. {training}")
        found = read_adapter(Path(given))
        _check_kind(found, Guard.kind if name == PAPER else name, training)
        if name == PAPER:
            _check_published(found)
        return name, found.path
    if not given and adapter is None:
        raise ConfigError(
            f"no adapter: expected one for {name!r}, got none. Name it (--adapter, or {name}=FOLDER), or train one: "
            "safety-modules train --out DIR."
        )
    found = read_adapter(find_adapter(given or adapter or ""))
    _check_kind(found, Guard.kind, "Train one: safety-modules train --out DIR.")
    return name, found.path


def _check_kind(adapter: Adapter, kind: str, training: str) -> None:
    if kind not in adapter.kinds:
        raise AdapterError(
            adapter.path, [f"expected weights of {kind}, got those of {', '.join(adapter.kinds)}. {training}"]
        )


def _check_published(adapter: Adapter) -> None:
    design = adapter.guard.design
    if (design.projector, design.query) != ("c_abstractor", "first_token"):
        raise ConfigError(
            "not the published design: expected an adapter with projector c_abstractor and query first_token, got "
            f"{design.projector} and {design.query}. Train one: safety-modules train --preset paper."
        )
