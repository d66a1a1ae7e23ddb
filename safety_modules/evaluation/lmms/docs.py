"""What the tasks in `tasks/` refer to: cases of our benchmarks as lmms-eval's documents, and their measures.

The data are found in the folder that the environment variable SAFETY_MODULES_DATA names, one folder a benchmark, as in
`$SAFETY_MODULES_DATA/vlguard`, in its authors' own layout.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.judges.strings import judge_text
from safety_modules.evaluation.matchers import MATCHERS
from safety_modules.evaluation.outcomes import outcome
from safety_modules.evaluation.suites.pocket import PLAIN
from safety_modules.evaluation.suites.registry import read

if TYPE_CHECKING:
    from datasets import Dataset

DATA = "SAFETY_MODULES_DATA"


FOLDERS = {"figstep-tiny": "figstep"}
"""Where it is not the benchmark's own name."""

PARTS = {"pocket": PLAIN}
"""Of benchmarks that are not read whole: pocket's sixty corrupted parts belong to `safety-modules evaluate`."""


def documents(suite: str) -> "Dataset":
    """A benchmark's cases as a dataset: suite, id, part, prompt and answer; pictures are read when they are asked for.

    Raises:
        DataError: no data, with how to obtain them; or malformed rows.
    """
    from datasets import Dataset

    rows = [
        {"suite": suite, "id": case.id, "part": case.part, "prompt": case.prompt, "answer": case.answer or ""}
        for case in cases(suite).values()
    ]
    return Dataset.from_list(rows)


@cache
def cases(suite: str) -> dict[str, Case]:
    """A benchmark's cases by id."""
    root, name = os.environ.get(DATA), FOLDERS.get(suite, suite)
    folder = None if root is None else Path(root) / name
    found = folder is not None and folder.is_dir()
    try:
        return {case.id: case for case in read(suite, folder if found else None, PARTS.get(suite, ()))}
    except DataError as error:
        if found:
            raise
        why = f"{DATA} is not set" if folder is None else f"{folder} is not there"
        raise DataError(f"{error} lmms-eval's task looks into ${DATA}/{name}: {why}.") from error


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The document's pictures."""
    return cases(doc["suite"])[doc["id"]].load_images()


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Measures of one answer, by each string matcher: `asr_start`, and for its part alone `asr_start_unsafes`.

    Of the measures of `outcomes`, those that the document has a value for; a task's YAML lists the ones it shows.
    """
    case = cases(doc["suite"])[doc["id"]]
    values: dict[str, float] = {}
    for matcher in MATCHERS:
        for measure, value in outcome(case, Reply(text=results[0]), judge_text(results[0], matcher)).items():
            name = measure if case.wanted == "exact" else f"{measure}_{matcher}"
            values[name] = values[f"{name}_{case.part}"] = value
    return values


def _documents_of(suite: str) -> "Callable[[Dataset], Dataset]":
    """A benchmark's cases in the place of the placeholder that every task names."""
    return lambda dataset: documents(suite)


figstep = _documents_of("figstep")
figstep_tiny = _documents_of("figstep-tiny")
mm_safetybench = _documents_of("mm-safetybench")
rtvlm = _documents_of("rtvlm")
siuo = _documents_of("siuo")
vlguard = _documents_of("vlguard")
pocket = _documents_of("pocket")
