"""The benchmarks by name, and where their data are.

A new one is an entry in `benchmarks.yaml`; where it is not one table with a case in each row, also a module with a
function that reads it, and a line in `_READERS`.
"""

import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites import mm_safetybench, mssbench, pocket, qi, rtvlm, vlguard
from safety_modules.evaluation.suites.reader import Benchmark, BenchmarkReader
from safety_modules.evaluation.suites.table import BenchmarkTable, Choice
from safety_modules.io.hub import download, hub_id

_READERS: dict[str, tuple[Callable[[BenchmarkReader], None], tuple[str, ...]]] = {
    "rtvlm": (rtvlm.take, tuple(rtvlm.TASKS)),
    "mm-safetybench": (mm_safetybench.take, tuple(mm_safetybench.QUESTION)),
    "vlguard": (vlguard.take, tuple(vlguard.PARTS)),
    "mssbench": (mssbench.take, mssbench.PARTS),
    "qi-adversarial": (qi.take, ()),
}
"""Of benchmarks that are not one table: what reads them, and their parts."""


def _published(name: str, about: dict[str, Any]) -> Benchmark:
    table = about.pop("table", None)
    if table is None:
        take, parts = _READERS[name]
    else:
        described = BenchmarkTable.model_validate(table)
        take = described.take
        parts = tuple(described.part.values.values()) if isinstance(described.part, Choice) else ()

    def load(folder: Path | None, chosen: Sequence[str]) -> list[Case]:
        reading = BenchmarkReader(found.title, folder, found.obtain, chosen)
        take(reading)
        return reading.done()

    found = Benchmark(name=name, load=load, parts=parts, **about)
    return found


_DESCRIBED: dict[str, dict[str, Any]] = yaml.safe_load(
    resources.files("safety_modules.evaluation.suites").joinpath("benchmarks.yaml").read_text(encoding="utf-8")
)
_BENCHMARKS = {one.name: one for one in (pocket.BENCHMARK, pocket.VALIDATION)} | {
    name: _published(name, about) for name, about in _DESCRIBED.items()
}


def names() -> list[str]:
    """Names of all benchmarks."""
    return list(_BENCHMARKS)


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises DataError for an unknown name."""
    if name not in _BENCHMARKS:
        raise DataError(f"unknown benchmark: expected one of {', '.join(names())}, got {name!r}. Name another.")
    return _BENCHMARKS[name]


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
