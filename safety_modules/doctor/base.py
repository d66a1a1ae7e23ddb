"""Checks of the base itself: is it one that can be guarded, and does the one seam through it hold?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from safety_modules.adapter.parameters import count_parameters
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.guard.steer import Sample, Steer, build_inputs, lm_forward
from safety_modules.doctor.check import REPORT, Failed, NotApplicable
from safety_modules.doctor.subject import QUESTIONS, Subject, flagging, same_bits


def supported(subject: Subject) -> str:
    """Model and processor are ones that can be guarded."""
    sizes = subject.backbone.sizes
    return (
        f"{type(subject.model).__name__}, {sizes.num_layers} blocks of {sizes.text_width}, {sizes.num_patches} patches"
    )


def finite_weights(subject: Subject) -> str:
    """Every number of the base is finite."""
    wrong = [
        name
        for name, tensor in subject.model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not tensor.is_meta and tensor.is_floating_point()
        if not bool(tensor.isfinite().all())
    ]
    if wrong:
        raise Failed(
            "finite weights", f"NaN or infinity in {', '.join(wrong[:3])} ({len(wrong)})", "Download it again."
        )
    return f"{sum(parameter.numel() for parameter in subject.model.parameters()):,} numbers"


def base_answers(subject: Subject) -> str:
    """The base answers by itself, with scores that are numbers."""
    new = subject.base_answer().sequences[:, subject.inputs["input_ids"].shape[1] :]
    return repr(subject.tokenizer.decode(new[0], skip_special_tokens=True))[:60]


def tower_runs_once(subject: Subject) -> str:
    """The vision tower sees each picture once a call, of the base and of the guard; and once each of its views."""
    found, looks = {}, 1
    with _tower_runs(subject) as runs:
        subject.generate(subject.row(0))
        found["base"] = runs.copy()
        runs.clear()
        with subject.guarded() as attachment:
            looks = max([one.modules.looks for one in attachment.defences if isinstance(one, Guard)], default=1)
            for action in (None, "hint"):
                subject.generate(subject.row(0), policy=flagging(attachment, action))
                found[action or "clean"] = runs.copy()
                runs.clear()
    once = found["base"]
    views = [(looks - 1) * sum(once)] if looks > 1 else []
    if len(once) != 1 or any(seen != once + views for name, seen in found.items() if name != "base"):
        told = ", ".join(f"{len(seen)} in {name} calls" for name, seen in found.items())
        raise Failed(
            f"{1 + len(views)} run{'s' if views else ''} a call",
            told,
            "Take off what wraps the vision tower (a profiler, a patch); else report it.",
        )
    return f"1 a call, and {looks - 1} views" if views else "1 a call"


def seam(subject: Subject) -> str:
    """Planned features are what the language model sees: its own give its own logits, others give others."""
    backbone, row = subject.backbone, subject.row(0)
    subject.base_answer()
    with torch.no_grad(), _tower_runs(subject) as runs:
        features = backbone.encode_images(backbone.images_given(row)).projected
        expected = subject.model(**row).logits
        runs.clear()
        with _installed(subject):
            with backbone.planned(features):
                own = subject.model(**row).logits
            with backbone.planned([torch.zeros_like(one) for one in features]):
                other = subject.model(**row).logits
    if not same_bits(own, expected):
        gap = float((own.float() - expected.float()).abs().max())
        raise Failed("the base's own logits from its own features", f"others, by up to {gap:.3g}", REPORT)
    if runs or same_bits(other, expected):
        raise Failed("planned features in the place of the tower's", "the tower's", REPORT)
    return "bit-identical"


@contextmanager
def _installed(subject: Subject) -> Iterator[None]:
    """The base's classes as they are while safety is on it, and nothing else of it."""
    backbone = subject.backbone
    backbone.install(backbone.base_generate)
    try:
        yield
    finally:
        backbone.uninstall()


def gradients(subject: Subject) -> str:
    """The loss of a training step has finite gradients down to the safety tokens and LoRA, in the base's own dtype."""
    row = subject.row(0)
    subject.base_answer()
    with subject.with_guard() as attachment:
        guard, backbone = attachment.guard, attachment.backbone
        trained = dict(guard.named_parameters())
        wanted = {
            name: one for name, one in trained.items() if name.startswith("modules.lm_tokens.") or "lora_B" in name
        }
        if not wanted:
            raise NotApplicable("the design has neither tokens nor LoRA")
        with torch.no_grad():
            features = backbone.encode_images(backbone.images_given(row)).projected
        prompt = backbone.prompt_ids(QUESTIONS[0], len(features), lengths=[*map(len, features)])
        sample = Sample(prompt, features, Steer((True,), "Careful."), "I'm sorry.")
        with torch.enable_grad(), attachment.base_frozen(), attachment.lora_mounted(True):
            loss = lm_forward(
                backbone, build_inputs(backbone, guard.modules.lm_tokens(), [sample]), use_cache=False
            ).loss
            found = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True)
    # A fresh LoRA's A has none: its B is zero.
    norms = {name: 0.0 if one is None else float(one.float().norm()) for name, one in zip(wanted, found, strict=True)}
    wrong = [name for name, norm in norms.items() if not 0 < norm < float("inf")]
    if wrong:
        step = "Load the base in bfloat16 or float32 (--dtype): in float16 small gradients vanish."
        raise Failed("finite gradients that are not 0", f"none in {', '.join(wrong[:3])} ({len(wrong)})", step)
    return f"{len(norms)} tensors, the smallest norm {min(norms.values()):.1e}"


def sizes(subject: Subject) -> str:
    """How large the modules are on this base."""
    with subject.with_guard() as attachment:
        guard = attachment.guard
        counts = count_parameters(guard.kind, guard.current_settings(), subject.backbone.sizes)
    return f"{counts.total / 1e6:.1f} million parameters, {2 * counts.total / 1e6:.1f} MB in 16 bit"


@contextmanager
def _tower_runs(subject: Subject) -> Iterator[list[int]]:
    """Inside this block, pictures that entered the tower, by run."""
    runs: list[int] = []
    # Its first layer: whatever wraps the tower, this runs as often as the tower does.
    first: nn.Module = subject.backbone.vision_tower.get_input_embeddings()  # type: ignore[operator]
    hook = first.register_forward_pre_hook(lambda _module, args: runs.append(len(args[0])))
    try:
        yield runs
    finally:
        hook.remove()
