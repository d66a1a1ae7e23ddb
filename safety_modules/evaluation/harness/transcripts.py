"""What every system said to every case: one line each, asked in the same batches, block by block.

Systems take turns after every few batches, so that each batch is timed for all of them within minutes of each other:
a machine that is busier in the second hour than in the first does not favour anyone.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from pydantic import BaseModel, ConfigDict

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.harness.journal import Journal
from safety_modules.evaluation.outcomes import is_benign
from safety_modules.evaluation.systems import System
from safety_modules.io.progress import say, track

BLOCK = 4
"""Batches that a system answers before the next one has its turn."""


class Transcript(BaseModel):
    """A line of `transcripts.jsonl`.

    Attributes:
        system: name of the system.
        case: id of the case.
        part: of the suite.
        prompt: what was asked.
        reply: what was said, and what it took.
        batch: number of the batch, the same for every system.
        session: counts how often the run was begun or resumed; times compare within one.
        seconds: wall clock, the case's even share of its batch; reading pictures and tokenising count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    case: str
    part: str
    prompt: str
    reply: Reply
    batch: int
    session: int
    seconds: float


def batches(cases: Sequence[Case], size: int) -> list[list[Case]]:
    """Cases in batches, in their order; benign ones apart (their cost is told alone), and by number of pictures."""
    groups: dict[tuple[int, bool], list[Case]] = {}
    for case in cases:
        groups.setdefault((len(case.images), is_benign(case)), []).append(case)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def answer_all(
    cases: Sequence[Case],
    systems: dict[str, Callable[[], System]],
    journal: Journal[Transcript],
    batch_size: int,
    max_new_tokens: int,
    session: int,
    progress: bool = False,
) -> list[Transcript]:
    """Ask what the journal has not yet. A system is made when it is its turn, and closed after it.

    Returns:
        One transcript for every system and case, in their order.

    Raises:
        DataError: the journal is damaged, or a system gave too few or too many answers.
    """
    parts = batches(cases, batch_size)
    done = _whole(journal, parts)
    missing = len(systems) * len(cases) - sum(len(of) for of in done.values())
    warm: set[str] = set()
    if done:
        there = len(systems) * len(cases) - missing
        say(f"resuming: {there:,} of {len(systems) * len(cases):,} answers are there", progress)
    of = f"answers ({len(systems)} systems, {len(cases):,} cases)"
    with track("answering", missing, progress, things=of) as advance:
        for number, start in enumerate(range(0, len(parts), BLOCK)):
            block = range(start, min(start + BLOCK, len(parts)))
            # Every other block runs backwards: a machine that slows down evenly favours no one either.
            for name in list(systems)[:: -1 if number % 2 else 1]:
                todo = [batch for batch in block if (name, batch) not in done]
                if not todo:
                    continue
                with closing(systems[name]()) as system:
                    if name not in warm:  # a process's first call is slower than all later ones
                        system.answer(parts[todo[0]][:1], max_new_tokens)
                        warm.add(name)
                    for batch in todo:
                        said = _answer(system, parts[batch], max_new_tokens, batch, session)
                        journal.append(said)
                        done[name, batch] = said
                        advance(len(said))
    by_key = {(line.system, line.case): line for lines in done.values() for line in lines}
    return [by_key[name, case.id] for name in systems for case in cases]


def _answer(system: System, cases: list[Case], max_new_tokens: int, batch: int, session: int) -> list[Transcript]:
    start = time.perf_counter()
    replies = system.answer(cases, max_new_tokens)
    seconds = (time.perf_counter() - start) / len(cases)
    if len(replies) != len(cases):
        raise DataError(
            f"system {system.name}: expected {len(cases)} replies to as many cases, got {len(replies)}. "
            "Its `answer` must give one for each, in order."
        )
    return [
        Transcript(
            system=system.name,
            case=case.id,
            part=case.part,
            prompt=case.prompt,
            reply=reply,
            batch=batch,
            session=session,
            seconds=seconds,
        )
        for case, reply in zip(cases, replies, strict=True)
    ]


def _whole(journal: Journal[Transcript], parts: list[list[Case]]) -> dict[tuple[str, int], list[Transcript]]:
    """What the journal has of whole batches; the rest is asked again, since other batches round otherwise."""
    found: dict[tuple[str, int], list[Transcript]] = {}
    for line in journal.read():
        found.setdefault((line.system, line.batch), []).append(line)
    kept = {
        key: lines for key, lines in found.items() if [line.case for line in lines] == [c.id for c in parts[key[1]]]
    }
    journal.keep(line for lines in kept.values() for line in lines)
    return kept
