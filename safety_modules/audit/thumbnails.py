"""What a report shows of a flagged row: a small picture, where the head looked, and a hash for look-alikes."""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from safety_modules.audit.judging import FRAMES
from safety_modules.errors import DataError
from safety_modules.pictures import open_picture
from safety_modules.records.formats.base import Row
from safety_modules.records.perceptual_hash import perceptual_hash

SIDE = 192
"""Longest side of a thumbnail, in pixels."""
THREADS, AHEAD = 4, 64


class _Flagged(NamedTuple):
    """A flagged row's picture."""

    row: int
    answer: str | None
    attention: np.ndarray
    small: "Future[tuple[bytes | None, str | None]]"


class Thumbnails:
    """Makes thumbnails beside the tower, in threads: Pillow lets others run meanwhile."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._shown: list[_Flagged] = []
        self._running: deque[Future[Any]] = deque()

    def __enter__(self) -> "Thumbnails":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, number: int, row: Row, attention: np.ndarray, frame: int) -> None:
        """A flagged row, the attention (rows, columns) of the type that fired, and which frame of its picture it is."""
        future = self._pool.submit(_small, row.image, frame)
        self._shown.append(_Flagged(number, row.answer, attention, future))
        self._running.append(future)
        if len(self._running) > AHEAD:  # each of them holds a picture
            self._running.popleft().result()

    def columns(self, verdicts: Mapping[str, Any], rows: Sequence[Row], first: int) -> dict[str, Any]:
        """Columns of flagged.parquet for what was added since the last call.

        `verdicts` are the columns of verdicts.parquet, `rows` those of the same part, `first` the number of the first.
        """
        shown, self._shown = self._shown, []
        self._running.clear()
        shown.sort(key=lambda one: one.row)
        at = [one.row - first for one in shown]
        taken = [name for name in verdicts if name.startswith("p_")]
        taken += ["row", "source", "image_digest", "type", "level", "risk", "rule", "question", "label", *FRAMES]
        columns: dict[str, Any] = {name: [verdicts[name][place] for place in at] for name in taken}
        columns["answer"] = [rows[place].answer for place in at]
        small = [one.small.result() for one in shown]
        columns["thumbnail"], columns["phash"] = [one[0] for one in small], [one[1] for one in small]
        columns["attention"] = [_bytes(one.attention) for one in shown]
        for axis, name in enumerate(("grid_rows", "grid_columns")):
            columns[name] = [one.attention.shape[axis] for one in shown]
        return columns


def _small(image: Any, frame: int) -> tuple[bytes | None, str | None]:
    """A WebP no side of which is longer than SIDE, and the picture's perceptual hash, None for plain ones.

    Both are None if the picture is gone by now.
    """
    try:
        picture = open_picture(image, frame=frame)
    except DataError:
        return None, None
    phash = perceptual_hash(picture)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue(), None if phash is None else f"{phash:016x}"


def _bytes(attention: np.ndarray) -> bytes:
    """The map as uint8, its largest value 255."""
    top = float(attention.max())
    return (attention * (255 / top if top > 0 else 0)).round().astype(np.uint8).tobytes()
