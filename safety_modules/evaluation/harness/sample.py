"""The cases of one run: which benchmark, which of its cases, and a digest of all that models are shown."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from rich.progress import track

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark, chosen

NAMED = 20
"""Problems a message names at most."""


@dataclass(frozen=True)
class CaseSample:
    """Cases that were checked: every picture can be decoded.

    Attributes:
        benchmark: where they come from.
        cases: in the benchmark's order.
        digest: of prompts, wanted behaviour, labels and pixels of all of them.
        parts: the parts asked for; empty = all.
        limit: cases of each part at most; None = all.
        seed: of the draw, where there is a limit.
        available: cases before the limit.
    """

    benchmark: Benchmark
    cases: tuple[Case, ...]
    digest: str
    parts: tuple[str, ...]
    limit: int | None
    seed: int
    available: int


def draw(
    benchmark: Benchmark,
    data: Path | None = None,
    parts: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CaseSample:
    """Read a benchmark, draw from it, and look at every picture once.

    Args:
        benchmark: what to read.
        data: its folder; None where it needs none.
        parts: only these; patterns such as `*/unseen` too; empty = all.
        limit: at most so many cases of each part, spread evenly over it; None = all.
        seed: of the draw.
        progress: show a bar.

    Raises:
        ConfigError: the benchmark has no such part.
        DataError: there are no cases, two have one name, one has no reference, or pictures cannot be decoded.
    """
    kept = _parts(benchmark, parts)
    everything = benchmark.load(data, kept)
    cases = tuple(everything if limit is None else spread(everything, limit, seed))
    if not cases:
        raise DataError(f"nothing to evaluate: expected cases of {benchmark.name}, got none. {benchmark.obtain}")
    _check(cases)
    return CaseSample(benchmark, cases, _digest(cases, progress), kept, limit, seed, len(everything))


def spread(cases: Sequence[Case], limit: int, seed: int) -> list[Case]:
    """At most `limit` cases of each part, in order: one, at random, of each of `limit` stretches of equal length."""
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(case.part, []).append(place)
    kept: list[int] = []
    for of_part in places.values():
        if len(of_part) <= limit:
            kept += of_part
            continue
        edges = [len(of_part) * i // limit for i in range(limit + 1)]
        kept += [of_part[rng.integers(low, high)] for low, high in pairwise(edges)]
    return [cases[place] for place in sorted(kept)]


def _parts(benchmark: Benchmark, parts: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(chosen(parts, benchmark.parts, benchmark.name)) if parts else ()
    except DataError as error:
        raise ConfigError(str(error)) from error


def _check(cases: Sequence[Case]) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise DataError(f"two cases with one name: expected another id for each, got {case.id!r} twice.")
        seen.add(case.id)
        if case.wanted == "exact" and case.answer is None:
            raise DataError(f"case {case.id}: expected the reference answer of an exact case, got none. Add it.")


def _digest(cases: Sequence[Case], progress: bool) -> str:
    found = Parallel(n_jobs=-1, backend="threading", return_as="generator")(delayed(_look)(case) for case in cases)
    looks = list(track(found, "pictures", total=len(cases), transient=True, disable=not progress))
    faults = [look for look in looks if isinstance(look, DataError)]
    if faults:
        more = f"\n... and {len(faults) - NAMED} more." if len(faults) > NAMED else ""
        lines = "\n".join(str(fault) for fault in faults[:NAMED])
        raise DataError(
            f"no evaluation: expected {len(cases)} cases whose pictures can be read, "
            f"got {len(faults)} that cannot:\n{lines}{more}"
        )
    total = hashlib.sha256()
    for case, pixels in zip(cases, looks, strict=True):
        words = case.model_dump(mode="json", exclude={"images"})
        total.update(json.dumps([words, pixels], sort_keys=True).encode())
    return total.hexdigest()


def _look(case: Case) -> list[str] | DataError:
    try:
        return [hashlib.sha256(repr(i.size).encode() + i.tobytes()).hexdigest() for i in case.load_images()]
    except DataError as error:
        return error
