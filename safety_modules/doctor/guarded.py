"""Checks of a guarded call's promises: bit-identical where nothing is done, steered where it is, gone afterwards."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from safety_modules.backbones.base import is_guarded
from safety_modules.defences.registry import KINDS
from safety_modules.doctor.check import REPORT, Failed, NotApplicable
from safety_modules.doctor.subject import Snapshot, Subject, differences, flagging, same_bits
from safety_modules.errors import AdapterError, AttachError


def adapter(subject: Subject) -> str:
    """The adapter fits the base."""
    if subject.adapter is None:
        raise NotApplicable("no --adapter: untrained modules stand in for one")
    try:
        with subject.guarded() as attachment:
            kinds = [one.kind for one in attachment.defences]
    except AdapterError as error:
        step = "Load the base it was made for, or train one for this base: every problem is listed above."
        raise Failed("an adapter for this base", " ".join(error.problems), step) from error
    return ", ".join(kinds)


def off(subject: Subject) -> str:
    """Switched off for a call, the answer is the base's own, bit for bit."""
    expected = subject.base_answer()
    with subject.with_guard():
        return _identical(subject.generate(subject.inputs, safety=False), expected)


def clean(subject: Subject) -> str:
    """Judged clean, the answer is the base's own, bit for bit."""
    expected = subject.base_answer()
    with subject.with_guard() as attachment:
        return _identical(subject.generate(subject.inputs, policy=flagging(attachment, None)), expected)


def mixed_batch(subject: Subject) -> str:
    """Beside a risky row, a row that is off gets the base's own answer on that row, bit for bit."""
    expected = subject.base_answer(1).sequences
    with subject.with_guard() as attachment:
        policy = flagging(attachment, "hint")
        got = subject.generate(subject.inputs, safety=[True, False], policy=policy).sequences
    if not same_bits(got[1:, : expected.shape[1]], expected):
        raise Failed("the base's own answer to row 2", "another one", REPORT)
    return "bit-identical"


def risky(subject: Subject) -> str:
    """Judged risky, a row is steered: flagged, in one pass of the language model, the caller's prompt given back."""
    with subject.with_guard() as attachment:
        answer = subject.generate(subject.row(0), policy=flagging(attachment, "hint"))
        looks = attachment.modules.looks
    verdict, usage = answer.verdicts[0], answer.usage[0]
    prompt = subject.row(0)["input_ids"]
    if verdict is None or not verdict.flagged:
        raise Failed("a flagged verdict", str(verdict), REPORT)
    if (usage.lm_passes, usage.tower_runs) != (1, looks):
        raise Failed(f"1 pass and {looks} of the tower", f"{usage.lm_passes} and {usage.tower_runs}", REPORT)
    if answer.sequences[:, : prompt.shape[1]].tolist() != prompt.tolist():
        raise Failed("the caller's prompt in the sequences", "another one", REPORT)
    base = subject.base_answer(0)
    told = usage.prompt_tokens - int(subject.row(0)["attention_mask"].sum())
    moved = float((answer.scores[0].float() - base.scores[0].float()).abs().max())
    if told <= 0 or not moved > 0:
        raise Failed("a longer prompt and other scores", f"{told} tokens more, scores moved by {moved:.3g}", REPORT)
    return f"{told} tokens more in the prompt, first scores moved by up to {moved:.3g}"


def refuse(subject: Subject) -> str:
    """Refused by policy, a row is answered with the policy's text and without the language model."""
    with subject.with_guard() as attachment:
        answer = subject.generate(subject.row(0), policy=flagging(attachment, "refuse"), max_new_tokens=64)
    new = answer.sequences[0, subject.row(0)["input_ids"].shape[1] :]
    text = subject.tokenizer.decode(new, skip_special_tokens=True).strip()
    if answer.usage[0].lm_passes or not text:
        raise Failed("the policy's refusal, no pass", f"{text!r}, {answer.usage[0].lm_passes} passes", REPORT)
    return repr(text[:60])


def toggles(subject: Subject) -> str:
    """Off by `disable()`, by `with disabled()`, and for one defence by name: the base's own answer each time."""
    expected = subject.base_answer()
    with subject.with_guard() as attachment:
        kinds, policy = [one.kind for one in attachment.defences], flagging(attachment, "hint")
        attachment.disable()
        _identical(subject.generate(subject.inputs, policy=policy), expected)
        attachment.enable()
        with attachment.disabled(*kinds):
            _identical(subject.generate(subject.inputs, policy=policy), expected)
        _identical(subject.generate(subject.inputs, policy=policy, safety=dict.fromkeys(kinds, False)), expected)
        on = subject.generate(subject.inputs, policy=policy)
    if not all(verdict is not None and verdict.flagged for verdict in on.verdicts):
        raise Failed("both rows judged again after enable()", "no verdict", REPORT)
    return "3 ways off, on again"


def detach(subject: Subject) -> str:
    """Detached, numbers, classes, flags, hooks and attributes are as before, and so is the answer, bit for bit."""
    expected, before = subject.base_answer(), Snapshot(subject.model)
    with subject.with_guard() as attachment:
        subject.generate(subject.inputs, policy=flagging(attachment, "hint"))
    if changed := Snapshot(subject.model).changed(before):
        raise Failed("the model as it was", f"another {', '.join(changed[:3])} ({len(changed)})", REPORT)
    if is_guarded(subject.model):
        raise Failed("the base's own generate", "the guard's", REPORT)
    _identical(subject.generate(subject.inputs), expected)
    return f"{len(before.numbers)} tensors and the answer bit-identical"


def round_trip(subject: Subject) -> str:
    """Saved and loaded again, an adapter gives the very same verdicts; its files hold no tensor of the base."""
    from safetensors import safe_open

    own = {name.rpartition("base_layer.")[2] for name in subject.model.state_dict()}
    with tempfile.TemporaryDirectory() as name:
        with subject.with_guard() as attachment:
            before = attachment.classify(images=subject.pictures)
            folder = attachment.save_pretrained(Path(name) / "adapter", dtype="float32")
        files = [*folder.rglob("*.safetensors")]
        for file in files:
            with safe_open(file, "pt") as tensors:
                if base := own.intersection(tensors.keys()):
                    raise Failed("no tensor of the base", ", ".join(sorted(base)[:3]), REPORT)
        with subject.guarded(adapter=folder) as again:
            after = again.classify(images=subject.pictures)
        size = sum(file.stat().st_size for file in files)
    gap = max(abs(a.risk - b.risk) for a, b in zip(before, after, strict=True))
    if gap > 0:
        raise Failed("equal verdicts", f"risks that differ by up to {gap:.3g}", REPORT)
    return f"{size / 1e6:.1f} MB in 32 bit, verdicts equal"


def kind(subject: Subject, name: str) -> str:
    """Attached untrained, its call is answered; switched off it is the base's own; detached nothing of it is left."""
    expected, before = subject.base_answer(), Snapshot(subject.model)
    try:
        with subject.guarded(defence=name) as attachment:
            answer = subject.generate(subject.inputs, policy=flagging(attachment, "hint"), **_options(name))
            _identical(subject.generate(subject.inputs, safety=False), expected)
    except AttachError as error:
        if str(error).startswith(f"{name} not attached:"):  # it is not for this base, and says so
            raise NotApplicable(str(error)) from error
        raise
    if changed := Snapshot(subject.model).changed(before):
        raise Failed("the model as it was", f"another {', '.join(changed[:3])} ({len(changed)})", REPORT)
    passes = [usage.lm_passes for usage in answer.usage]
    return f"{max(passes)} passes a row; off and detached bit-identical"


def of_kinds() -> Iterator[tuple[str, str, Callable[[Subject], str]]]:
    """A check for each kind of defence there is: its name, what it expects, and itself."""
    for name in KINDS:
        yield f"defence_{name}", f"`{name}`: {kind.__doc__}", partial(kind, name=name)


def _options(name: str) -> dict[str, Any]:
    """Of a call that a defence of this kind answers: one that may put another answer in place has no scores."""
    return {"output_scores": False} if KINDS[name].retracts else {}


def _identical(got: Any, expected: Any) -> str:
    """Raises Failed where an answer is not the base's own."""
    if count := differences(got, expected):
        raise Failed("the base's own answer", f"another one: {count} tensors of ids and scores differ", REPORT)
    return "bit-identical"


LOOKS: tuple[Callable[[Subject], str], ...] = (off, clean, mixed_batch, risky, refuse, toggles, detach, round_trip)
