"""What a guarded call takes beside the base's, and what a training would."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch

from safety_modules.doctor.check import Failed, NotApplicable
from safety_modules.doctor.subject import NEW_TOKENS, Subject, flagging
from safety_modules.paths import recipe_file
from safety_modules.training.plan import Setting, stage_resources
from safety_modules.training.recipe import Recipe

ROUNDS = 5
ACTIONS = {"clean": None, "risky": "hint", "refuse": "refuse"}


def time_and_memory(subject: Subject) -> str:
    """A guarded call's time (and, on a GPU, peak memory) over the base's: clean, risky, refused."""
    row = subject.row(0)
    subject.base_answer(0)
    with subject.guarded() as attachment:
        policies = {name: flagging(attachment, action) for name, action in ACTIONS.items()}
        calls: dict[str, Callable[[], Any]] = {"base": partial(subject.generate, row, safety=False)}
        calls |= {name: partial(subject.generate, row, policy=policy) for name, policy in policies.items()}
        for call in calls.values():
            call()
        # In turns: a machine that is busy with something else is so for all of them.
        rounds = [{name: _measured(subject, call) for name, call in calls.items()} for _ in range(ROUNDS)]
    told = []
    for name in ACTIONS:
        times = median(one[name].seconds / one["base"].seconds for one in rounds)
        more = max(one[name].peak for one in rounds) - max(one["base"].peak for one in rounds)
        told.append(f"{name} {times:.2f} x" + (f", {more / 1e6:+.0f} MB" if _on_gpu(subject) else ""))
    seconds = median(one["base"].seconds for one in rounds)
    return f"base {seconds:.3f} s for {NEW_TOKENS} tokens; {'; '.join(told)}"


class _Taken(NamedTuple):
    """What a call took: seconds (on a CPU this process's own), and bytes at the highest point of a GPU's allocator."""

    seconds: float
    peak: int


def _measured(subject: Subject, call: Callable[[], Any]) -> _Taken:
    if not _on_gpu(subject):
        began = time.process_time()
        call()
        return _Taken(time.process_time() - began, 0)
    device = subject.model.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return _Taken(time.perf_counter() - began, torch.cuda.max_memory_allocated(device))


def _on_gpu(subject: Subject) -> bool:
    return bool(subject.model.device.type == "cuda")


def stage_1(subject: Subject) -> str:
    """Stage I (the head, on cached features) fits into the device's memory."""
    return _planned(subject, "llava-1.5-7b/stage1")


def stage_2(subject: Subject) -> str:
    """Stage II (LoRA through the language model) fits into the device's memory."""
    return _planned(subject, f"llava-1.5-7b/stage2{'-qlora' if subject.quantize else ''}")


def _planned(subject: Subject, name: str) -> str:
    dtype = str(subject.model.dtype).removeprefix("torch.")
    setting = Setting(dtype=dtype, quantise=subject.quantize)  # type: ignore[arg-type]
    with subject.with_guard() as attachment:
        design = attachment.guard.config
    if design.lora is None and name.startswith("llava-1.5-7b/stage2"):
        raise NotApplicable("the design has no LoRA")
    needed = stage_resources(subject.model.config, design, Recipe.from_yaml(recipe_file(name)), setting).total
    told = f"{needed / 1e9:.2f} GB planned by {name}"
    if not _on_gpu(subject):
        return told
    there = torch.cuda.get_device_properties(subject.model.device).total_memory
    if needed > there:
        step = "Quantise the base (--quantize nf4), or make batch_size smaller and gradient_accumulation larger."
        raise Failed(f"at most {there / 1e9:.1f} GB", told, step)
    return f"{told}, {there / 1e9:.1f} GB there"
