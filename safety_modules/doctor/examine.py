"""All checks, one after the other: what each found, and whether anything of it all is left on the model."""

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safety_modules.doctor import base, cost, guarded, prompts
from safety_modules.doctor.check import REPORT, Failed, Finding, look
from safety_modules.doctor.subject import Snapshot, Subject
from safety_modules.version import installed, never_tried

LOOKS = (
    base.supported,
    prompts.image_token,
    prompts.left_padding,
    prompts.chat_template,
    prompts.image_tokens,
    prompts.prompt_ids,
    prompts.question,
    prompts.hint,
    prompts.data,
    base.finite_weights,
    base.base_answers,
    guarded.adapter,  # the first to put anything on the model
    base.tower_runs_once,
    base.seam,
    base.gradients,
    base.sizes,
    *guarded.LOOKS,
    cost.time_and_memory,
    cost.stage_1,
    cost.stage_2,
)
"""In an order in which what others need comes first."""
COLOURS = {"passed": "green", "failed": "red", "not applicable": "yellow"}


def checks() -> Iterator[tuple[str, str, Callable[[Subject], str]]]:
    """Name, what is expected, and the check itself."""
    for one in LOOKS:
        yield one.__name__, str(one.__doc__), one
    yield from guarded.of_kinds()


def examine(subject: Subject, told: Callable[[Finding], None] = lambda _: None) -> dict[str, Any]:
    """Run every check on a base.

    Args:
        subject: the base.
        told: is called with each finding as it comes.

    Returns:
        Device, versions, counts and findings, in plain JSON types.

    Does not cover: whether verdicts are right: that is what `evaluate` and `calibrate` measure.
    """
    before, findings = Snapshot(subject.model), list[Finding]()

    def nothing_left(_: Subject) -> str:
        """After all of these checks the model is as it was."""
        if changed := Snapshot(subject.model).changed(before):
            raise Failed("the model as it was", f"another {', '.join(changed[:3])} ({len(changed)})", REPORT)
        return f"{len(before.numbers)} tensors, {len(before.modules)} modules"

    for name, about, check in (*checks(), ("nothing_left", str(nothing_left.__doc__), nothing_left)):
        if check is guarded.adapter:
            before = Snapshot(subject.model)  # at a model's first call transformers adds hooks of its own
        findings.append(look(check, subject, name, about))
        subject.detached()
        told(findings[-1])
    counts = Counter(finding.result for finding in findings)
    return {
        "device": _device(subject.model.device),
        "python": platform.python_version(),
        "versions": installed(),
        "never_tried": never_tried(),
        **{result: counts[result] for result in COLOURS},  # type: ignore[index]
        "checks": [finding.to_dict() for finding in findings],
    }


def print_findings(record: Mapping[str, Any], console: Console | None = None) -> None:
    """A table of the findings, then what to do about each failure, then the versions."""
    console = console or Console()
    table = Table(header_style="bold")
    for column in ("check", "result", "seen"):
        table.add_column(column, overflow="fold")
    failed = [one for one in record["checks"] if one["result"] == "failed"]
    for one in record["checks"]:
        colour = COLOURS[one["result"]]
        seen = f"expected {one['expected']}, got {one['got']}" if one in failed else one["seen"]
        table.add_row(one["name"], f"[{colour}]{one['result']}[/{colour}]", escape(seen[:300]))
    console.print(table)
    for one in failed:
        console.print(f"[red]{one['name']}[/red]: {escape(one['about'])}")
        console.print(escape(f"  expected {one['expected']}\n  got {one['got']}\n  {one['next_step']}"), soft_wrap=True)
    console.print(", ".join(f"{record[result]} {result}" for result in COLOURS))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    console.print(f"{record['device']}, Python {record['python']}; {versions}", soft_wrap=True)
    for sentence in record["never_tried"]:
        console.print(f"[yellow]{escape(sentence)}[/yellow]", soft_wrap=True)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"
