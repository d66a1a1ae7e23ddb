"""The benchmarks by name, and where their data are. A new one is a module with a `Benchmark`, and a line here."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.reader import Benchmark
from safety_modules.io.hub import download, hub_id

_HOMES = {
    "pocket": "pocket:BENCHMARK",
    "pocket-validation": "pocket:VALIDATION",
    "rtvlm": "rtvlm:BENCHMARK",
    "figstep": "figstep:BENCHMARK",
    "figstep-tiny": "figstep:TINY",
    "mm-safetybench": "mm_safetybench:BENCHMARK",
    "vlguard": "vlguard:BENCHMARK",
    "holisafe": "holisafe:BENCHMARK",
    "jailbreakv-28k": "jailbreakv:BENCHMARK",
    "jailbreakv-mini": "jailbreakv:MINI",
    "siuo": "siuo:BENCHMARK",
    "mssbench": "mssbench:BENCHMARK",
    "mossbench": "mossbench:BENCHMARK",
    "xstest": "xstest:BENCHMARK",
    "qi-adversarial": "qi:BENCHMARK",
}


def names() -> list[str]:
    """Names of all benchmarks."""
    return list(_HOMES)


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; its module is imported now. Raises DataError for an unknown name."""
    if name not in _HOMES:
        raise DataError(f"unknown benchmark: expected one of {', '.join(names())}, got {name!r}. Name another.")
    module, _, constant = _HOMES[name].partition(":")
    found: Benchmark = getattr(import_module(f"safety_modules.evaluation.suites.{module}"), constant)
    return found


def read(name: str, place: str | os.PathLike[str] | None = None, parts: Sequence[str] = ()) -> list[Case]:
    """The cases of a benchmark.

    Args:
        name: one of `names()`.
        place: a folder or hub id with its data, see `data_folder`; None for one that makes its own.
        parts: those to read; empty = all.

    Raises:
        DataError: unknown benchmark or part; no data, with how to obtain them; or listing every malformed row by file
            and place.
    """
    return benchmark(name).load(None if place is None else data_folder(place), parts)


def data_folder(place: str | os.PathLike[str]) -> Path:
    """The local folder of a benchmark.

    Args:
        place: a folder; or `hf://owner/name`, or `owner/name` where no such folder is here, with `@revision` after it
            to get the same data for ever.

    Raises:
        DataError: neither is there, or the hub cannot be reached and its cache has no copy.

    Does not cover: checking the files; the readers do.
    """
    repository = None if os.path.exists(place) else hub_id(place)
    if repository is not None:
        return download(repository, lambda problem: DataError(f"{repository.repository} {problem}"), kind="dataset")
    if not os.path.isdir(place):
        raise DataError(f"no data: expected a folder or a hub id (hf://owner/name), got {place}. Check the path.")
    return Path(place)
