"""The audit's loop: rows in, parts of verdicts out; batches kept full, copies judged once, counts that add up."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from safety_modules.audit.decode import Decoded, Decoder, decoded
from safety_modules.audit.judging import Judged, Parts, Started, verdict_columns
from safety_modules.audit.store import Store
from safety_modules.audit.thumbnails import Thumbnails
from safety_modules.records.formats.base import Row

SHARD_ROWS = 2048
"""Rows of a part: what an interrupted audit does again."""
CHUNK_ROWS = 32
"""Rows that go to a decoding process at a time."""
ROWS_PER_PICTURE = 8
"""Questions that wait for a batch to have its pictures, at most this many for each."""
TEXT_ONLY = "no picture: nothing to judge."


class Auditor:
    """Judges a stream of rows part by part.

    Args:
        parts: give verdicts.
        decoder: makes pixels.
        store: takes the parts.
        batch_size: pictures in one run of the tower.
        workers: decoding processes; 0 = none.

    Attributes:
        time: seconds spent waiting for pictures, in tower and modules, and on writing and the rest.
    """

    def __init__(self, parts: Parts, decoder: Decoder, store: Store, batch_size: int, workers: int) -> None:
        self.parts, self.decoder, self.store = parts, decoder, store
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
        with Thumbnails() as thumbnails:
            began = time.perf_counter()
            for done in decoded(self.decoder, images(), self.workers):
                self.time["waiting for pictures"] += time.perf_counter() - began
                chunk = chunks.popleft()
                shard.add(chunk, done, thumbnails)
                advance(len(chunk))
                if len(shard.rows) >= SHARD_ROWS:
                    shard.write(thumbnails)
                    shard = _Shard(self, self.store.rows)
                began = time.perf_counter()
            if shard.rows:
                shard.write(thumbnails)


class _Waiting(NamedTuple):
    """A row that waits for its batch, its place in the part, and its picture."""

    at: int
    row: Row
    picture: Decoded


class _Shard:
    """The rows of one part. Batches never cross parts, so an interrupted audit finds the very same numbers again."""

    def __init__(self, auditor: Auditor, first: int) -> None:
        self._auditor, self._first, self._began = auditor, first, time.perf_counter()
        self.rows: list[Row] = []
        self._digests: list[str | None] = []
        self._copies: list[int | None] = []
        self._faults: list[str | None] = []
        self._judged: list[Judged] = []
        self._places: list[int] = []  # rows of `_judged`, in its order
        self._batch: list[_Waiting] = []
        self._distinct: dict[str | None, int] = {}  # frames of each picture of the batch
        self._started: tuple[Started, list[_Waiting]] | None = None
        self._pictures = 0

    def add(self, chunk: list[Row], done: list[Decoded], thumbnails: Thumbnails) -> None:
        """Take in a decoded chunk, and judge every batch that is full."""
        auditor, start, rest = self._auditor, len(self.rows), iter(done)
        found = [Decoded(None, TEXT_ONLY) if row.image is None else next(rest) for row in chunk]
        faults = [row.fault or auditor.parts.fault(one, row.question) for row, one in zip(chunk, found, strict=True)]
        self.rows += [row._replace(image=None) for row in chunk]  # only the words stay until the part is written
        self._digests += [one.digest for one in found]
        self._copies += [None] * len(chunk)
        self._faults += faults
        good = [_Waiting(start + at, chunk[at], found[at]) for at, fault in enumerate(faults) if fault is None]
        pairs = [(str(one.picture.digest), one.row.question) for one in good]
        firsts = auditor.store.first_rows(pairs, [self._first + one.at for one in good])
        for one, first in zip(good, firsts, strict=True):
            if first != self._first + one.at:
                self._copies[one.at] = first
                continue
            self._batch.append(one)
            self._distinct[one.picture.digest] = len(one.picture.pixels)
            size = auditor.batch_size
            if sum(self._distinct.values()) >= size or len(self._batch) == ROWS_PER_PICTURE * size:
                self._run(thumbnails)

    def write(self, thumbnails: Thumbnails) -> None:
        """Judge what is left, and write the part."""
        self._run(thumbnails)
        self._finish(thumbnails)
        began, auditor = time.perf_counter(), self._auditor
        columns = verdict_columns(self._judged, self._places, self._faults, auditor.parts.config)
        verdicts: dict[str, Any] = {
            "row": range(self._first, self._first + len(self.rows)),
            "source": [row.source for row in self.rows],
            "image_digest": self._digests,
            "question": [row.question for row in self.rows],
            "duplicate_of": self._copies,
            "label": [row.label for row in self.rows],
            "error": self._faults,
        }
        scored = [fault is None and copy is None for fault, copy in zip(self._faults, self._copies, strict=True)]
        for name, values in columns.items():
            verdicts[name] = np.where(scored, values.astype(object), np.array(None, object))
        flagged = thumbnails.columns(verdicts, self.rows, self._first)
        auditor.store.write(verdicts, flagged, self._pictures, time.perf_counter() - self._began)
        auditor.time["writing"] += time.perf_counter() - began

    def _run(self, thumbnails: Thumbnails) -> None:
        """Start the batch that waits, and only then finish the one before: an accelerator is not left idle."""
        began = time.perf_counter()
        batch, self._batch = self._batch, []
        started = None
        if batch:
            questions = [one.row.question for one in batch]
            started = self._auditor.parts.start([one.picture for one in batch], questions), batch
        self._pictures += len(self._distinct)
        self._distinct = {}
        self._auditor.time["tower and modules"] += time.perf_counter() - began
        self._finish(thumbnails)
        self._started = started

    def _finish(self, thumbnails: Thumbnails) -> None:
        if self._started is None:
            return
        began, parts = time.perf_counter(), self._auditor.parts
        (started, batch), self._started = self._started, None
        judged = parts.finish(started)
        self._auditor.time["tower and modules"] += time.perf_counter() - began
        self._judged.append(judged)
        self._places += [one.at for one in batch]
        for place in np.flatnonzero(judged.rule != None).tolist():  # noqa: E711 (of each)
            heat = judged.attention[place, parts.config.taxonomy.type_index(judged.type[place])]
            one = batch[place]
            thumbnails.add(self._first + one.at, one.row, heat, int(judged.frames[place, 0]))
