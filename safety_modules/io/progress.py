"""Progress bars."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bar(enabled: bool = True) -> Progress:
    """Description, bar, count, time left (used, once done) and a note of the caller's (`note=...`)."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        refresh_per_second=4,
        disable=not enabled,
    )


SOON = 3.0
"""Seconds after which a first estimate is worth something."""


@contextmanager
def track(
    description: str, total: int | None, enabled: bool = True, things: str | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar; call what it gives with the number of things done. Without a total it shows no time left.

    Args:
        description: before the bar.
        total: of things to do.
        enabled: whether anything is shown.
        things: what is counted: given, lines of their own say how many there are, before the first, and how long they
            are expected to take, after the first seconds. Those lines also reach a log file, where a bar does not.
    """
    if things is not None and enabled and total:
        Console().print(f"{description}: {total:,} {things}", highlight=False)
    began, done, told = time.monotonic(), 0, things is None or not total
    with bar(enabled) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            progress.update(task, advance=count)
            spent = time.monotonic() - began
            if not told and total is not None and 0 < done < total and spent >= SOON:
                told = True
                progress.console.print(
                    f"{description}: about {duration(spent / done * total)} in all, by the first {done:,}",
                    highlight=False,
                )

        yield advance


def duration(seconds: float) -> str:
    """For people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str, enabled: bool = True) -> None:
    """A line between bars."""
    if enabled:
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
