"""The audit's loop: rows in, parts of verdicts out; batches kept full, copies judged once, counts that add up."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from safety_modules.audit.decode import Decoded, Decoder, Looked, decoded
from safety_modules.audit.judging import Judged, joined, most_severe, verdict_columns
from safety_modules.audit.pictures import Pictures
from safety_modules.audit.scorer import NO_QUESTION, NOT_FINITE, frame_columns
from safety_modules.audit.store import Store
from safety_modules.config import SafetyConfig
from safety_modules.records.entries import Row

SHARD_ROWS = 2048
"""Rows of a part: what an interrupted audit does again."""
CHUNK_ROWS = 32
"""Rows that go to a decoding process at a time."""
ROWS_PER_PICTURE = 8
"""Questions that wait for a batch to have its pictures, at most this many for each."""
TEXT_ONLY = "no picture: nothing to judge."


class Judge(Protocol):
    """What turns decoded pictures into verdicts: `judging.Parts`."""

    config: SafetyConfig
    needs_question: bool

    def start(self, pixels: np.ndarray, places: Sequence[int], questions: Sequence[str | None]) -> Any: ...

    def finish(self, started: Any) -> Judged: ...


class Auditor:
    """Judges a stream of rows part by part.

    Args:
        judge: gives verdicts.
        decoder: makes pixels.
        store: takes the parts.
        batch_size: pictures in one run of the tower.
        workers: decoding processes; 0 = none.

    Attributes:
        time: seconds spent waiting for pictures, in tower and modules, and on writing and the rest.
    """

    def __init__(self, judge: Judge, decoder: Decoder, store: Store, batch_size: int, workers: int) -> None:
        self.judge, self.decoder, self.store = judge, decoder, store
        self.batch_size, self.workers = batch_size, workers
        self.time: defaultdict[str, float] = defaultdict(float)

    def run(self, rows: Iterator[Row], advance: Callable[[int], None]) -> None:
        """Judge the rows behind those of the parts that are done, and write their parts."""
        advance(self.store.rows)
        rest = islice(rows, self.store.rows, None)
        chunks: deque[list[Row]] = deque()  # that are being decoded

        def images() -> Iterator[list[Any]]:
            while chunk := list(islice(rest, CHUNK_ROWS)):
                chunks.append(chunk)
                yield [row.image for row in chunk if row.image is not None]

        shard = _Shard(self, self.store.rows)
        with Pictures() as pictures:
            began = time.perf_counter()
            for done in decoded(self.decoder, images(), self.workers):
                self.time["waiting for pictures"] += time.perf_counter() - began
                chunk = chunks.popleft()
                shard.add(chunk, done, pictures)
                advance(len(chunk))
                if len(shard.rows) >= SHARD_ROWS:
                    shard.write(pictures)
                    shard = _Shard(self, self.store.rows)
                began = time.perf_counter()
            if shard.rows:
                shard.write(pictures)


class _Waiting(NamedTuple):
    """A row that waits for its batch: its place in the part, and its picture's digest, pixels (frames, C, H, W)."""

    at: int
    row: Row
    digest: str
    pixels: np.ndarray


class _Shard:
    """The rows of one part. Batches never cross parts, so an interrupted audit finds the very same numbers again."""

    def __init__(self, auditor: Auditor, first: int) -> None:
        self._auditor, self._first, self._began = auditor, first, time.perf_counter()
        self.rows: list[Row] = []
        self._digests: list[str | None] = []
        self._copies: list[int | None] = []
        self._faults: list[str | None] = []
        self._looked: list[Looked | None] = []
        self._frames: list[int] = []  # of each row of `_judged`
        self._judged: list[Judged] = []
        self._places: list[int] = []  # rows of `_judged`, in its order
        self._batch: list[_Waiting] = []
        self._distinct: dict[str, int] = {}  # frames of each picture
        self._started: tuple[Any, list[_Waiting]] | None = None
        self._pictures = 0

    def add(self, chunk: list[Row], done: Decoded, pictures: Pictures) -> None:
        """Take in a decoded chunk, and judge every batch that is full."""
        start = len(self.rows)
        order = iter(range(len(done.places)))
        found = [(-1 if row.image is None else next(order)) for row in chunk]
        for row, at in zip(chunk, found, strict=True):
            # Only the words stay until the part is written.
            self.rows.append(row._replace(image=None))
            self._digests.append(None if at < 0 else done.digests[at])
            self._copies.append(None)
            self._looked.append(None if at < 0 else done.looked[at])
            fault = row.fault or (TEXT_ONLY if at < 0 else done.faults[at])
            if fault is None and row.question is None and self._auditor.judge.needs_question:
                fault = NO_QUESTION
            self._faults.append(fault)
        good = [index for index in range(len(chunk)) if self._faults[start + index] is None]
        pairs = [(str(self._digests[start + index]), chunk[index].question) for index in good]
        numbers = [self._first + start + index for index in good]
        firsts = self._auditor.store.first_rows(pairs, numbers)
        for index, number, first in zip(good, numbers, firsts, strict=True):
            if first != number:
                self._copies[start + index] = first
                continue
            digest, place = str(self._digests[start + index]), done.places[found[index]]
            count, size = len(done.looked[found[index]].numbers), self._auditor.batch_size
            self._batch.append(_Waiting(start + index, chunk[index], digest, done.pixels[place : place + count]))
            self._distinct[digest] = count
            if sum(self._distinct.values()) >= size or len(self._batch) == ROWS_PER_PICTURE * size:
                self._run(pictures)

    def write(self, pictures: Pictures) -> None:
        """Judge what is left, and write the part."""
        self._run(pictures)
        self._finish(pictures)
        began, auditor = time.perf_counter(), self._auditor
        config, count = auditor.judge.config, len(self.rows)
        verdicts: dict[str, Any] = {
            "row": range(self._first, self._first + count),
            "source": [row.source for row in self.rows],
            "image_digest": self._digests,
            "question": [row.question for row in self.rows],
            "duplicate_of": self._copies,
            "label": [row.label for row in self.rows],
            "error": self._faults,
        }
        if self._judged:
            judged = joined(self._judged)
            for at in np.flatnonzero(~judged.finite).tolist():
                self._faults[self._places[at]] = NOT_FINITE
            columns = verdict_columns(judged, self._places, count, config)
        else:
            names = [f"p_{label}" for label in config.taxonomy.labels]
            names += [f"level_{level}" for level in config.taxonomy.levels]
            columns = {name: np.full(count, None) for name in (*names, "risk", "type", "level", "flagged", "rule")}
        frames = frame_columns(self._looked, self._places, self._frames, count)
        columns |= {name: np.array([*column, None], object)[:-1] for name, column in frames.items()}
        scored = np.array([fault is None for fault in self._faults]) & np.array([copy is None for copy in self._copies])
        nothing = np.array(None, dtype=object)
        for name, values in columns.items():
            verdicts[name] = np.where(scored, values.astype(object), nothing)
        flagged = pictures.columns(verdicts, self.rows, self._first)
        auditor.store.write(verdicts, flagged, self._pictures, time.perf_counter() - self._began)
        auditor.time["writing"] += time.perf_counter() - began

    def _run(self, pictures: Pictures) -> None:
        """Start the batch that waits, and only then finish the one before: an accelerator is not left idle."""
        began = time.perf_counter()
        batch, self._batch = self._batch, []
        distinct, self._distinct = self._distinct, {}
        started = None
        if batch:
            first = {one.digest: one.pixels for one in reversed(batch)}
            starts = dict(zip(distinct, np.cumsum([0, *distinct.values()]).tolist(), strict=False))
            places = [starts[one.digest] + frame for one in batch for frame in range(len(one.pixels))]
            pixels = np.concatenate([first[digest] for digest in distinct])
            started = self._auditor.judge.start(pixels, places, [one.row.question for one in batch for _ in one.pixels])
            self._pictures += len(distinct)
        self._auditor.time["tower and modules"] += time.perf_counter() - began
        self._finish(pictures)
        self._started = None if started is None else (started, batch)

    def _finish(self, pictures: Pictures) -> None:
        if self._started is None:
            return
        began = time.perf_counter()
        started, batch = self._started
        self._started = None
        judged, frames = most_severe(self._auditor.judge.finish(started), [len(one.pixels) for one in batch])
        self._auditor.time["tower and modules"] += time.perf_counter() - began
        self._judged.append(judged)
        self._frames += frames
        self._places += [one.at for one in batch]
        for one, frame, rule, type, heat in zip(batch, frames, judged.rule, judged.type, judged.attention, strict=True):
            if rule is not None:
                place, looked = self._auditor.judge.config.taxonomy.type_index(type), self._looked[one.at]
                assert looked is not None
                pictures.add(self._first + one.at, one.row, heat[place], looked.numbers[frame])
