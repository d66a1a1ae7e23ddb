"""Long audits: constant memory, and a kill at any moment."""

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from data_samples import save

from safety_modules.audit import loop
from safety_modules.audit.decode import Decoded, Decoder
from safety_modules.audit.loop import Auditor
from safety_modules.audit.store import VERDICTS, Store
from safety_modules.audit.summary import summarise
from safety_modules.audit.tower_guard import TowerGuard, Verdicts
from safety_modules.config import SafetyConfig
from safety_modules.records.formats.base import DataRow
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pytest.importorskip("pyarrow")


class Stub(Decoder):
    """Pictures without pixels, known by name; no judgement but `clean`."""

    config = SafetyConfig()

    def __init__(self) -> None:
        pass

    def __call__(self, images: Sequence[Any]) -> list[Decoded]:
        return [Decoded(image.name, None, np.zeros((1, 3, 1, 1), np.uint8), (0,), 1) for image in images]

    def fault(self, picture: Decoded, question: str | None) -> str | None:
        return picture.fault

    def start(self, pictures: Sequence[Decoded], questions: Sequence[str | None]) -> int:
        return len(pictures)

    def finish(self, started: int) -> Verdicts:
        types, levels = np.zeros((started, 7), np.float32), np.zeros((started, 4), np.float32)
        types[:, -1] = levels[:, 0] = 1
        type, level, rule = (np.full(started, value, object) for value in ("clean", "safe", None))
        risk, heat = np.zeros(started, np.float32), np.zeros((started, 6, 1, 1), np.float32)
        return Verdicts(types, levels, type, level, rule, risk, risk >= 0, heat, np.array([[0, 1, 1]] * started), risk)


def long_audit(out: Path, count: int, settled: int) -> tuple[int, int]:
    """Growth of the peak of Python's memory, and of the process's (kB), behind the first `settled` rows."""
    marks: list[int] = []

    def rows() -> Iterator[DataRow]:
        for number in range(count):
            if number == settled:
                marks.extend([tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])
                tracemalloc.reset_peak()
            fault = "bad" if number % 50 == 3 else None
            image = None if fault else Path(f"{number if number % 10 else number // 100}.png")
            yield DataRow(f"row {number}", image, f"what is {number % 7}?", None, "clean", fault)

    out.mkdir()
    store = Store(out, DEFAULT_TAXONOMY)
    tracemalloc.start()
    try:
        Auditor(cast(TowerGuard, Stub()), Stub(), store, batch_size=32, workers=0).run(rows(), lambda count: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    summary = summarise(store.tables(VERDICTS), DEFAULT_TAXONOMY)
    store.finish()
    store.close()
    assert summary["outside"]["pictures"] == summary["scored"] and summary["outside"]["share"] == 1  # the stub says 0
    assert summary["rows"] == count == summary["scored"] + summary["duplicates"] + summary["unreadable"]
    assert summary["unreadable"] == count // 50 and summary["duplicates"] > 0
    return peak - marks[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - marks[1]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PART_ROWS", 128)
    grown, _ = long_audit(tmp_path / "out", 1_600, 800)
    assert grown < 0.2e6, "800 rows that were kept would take more"


@pytest.mark.slow
def test_memory_does_not_grow_with_two_hundred_thousand_rows(tmp_path: Path) -> None:
    grown, resident = long_audit(tmp_path / "out", 200_000, 20_000)
    assert grown < 2e6
    assert resident < 60_000, "kB; sqlite's and Arrow's own memory counts here"


RUN = """
import sys
from safety_modules.audit import audit, loop
loop.PART_ROWS, loop.CHUNK_ROWS = 32, 16
audit(*sys.argv[1:], batch_size=4, workers=1, progress=False)
"""


@pytest.mark.slow
def test_a_killed_audit_goes_on_and_ends_with_the_same_files(
    tmp_path: Path, saved_base: Path, saved_adapter: Path
) -> None:
    for number in range(600):
        save(tmp_path / "data" / f"{number}.png", number % 500)
    where = [str(path) for path in (saved_base, saved_adapter)]
    command = [sys.executable, "-c", RUN, str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    kills = 0
    for parts in (1, 5, 9):
        process = subprocess.Popen([*command, str(cut), *where], env=environment, start_new_session=True)
        while process.poll() is None and len(list(cut.glob(f"parts/*.{VERDICTS}"))) < parts:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills, "killed at least once"
    for out in (cut, whole):
        subprocess.run([*command, str(out), *where], env=environment, check=True)
    for name in ("verdicts.parquet", "flagged.parquet"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
