"""Scorer: verdicts on batches of pictures from a vision tower and safety modules alone; columns in, columns out."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safety_modules.audit.decode import Decoded, Looked
from safety_modules.audit.judging import Judged, Parts, joined, most_severe, verdict_columns
from safety_modules.errors import ConfigError, DataError
from safety_modules.policy.policy import Policy
from safety_modules.records.images import EncodedImage
from safety_modules.records.references import reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_QUESTION = "no question: expected one beside the picture, because this adapter's head cannot judge a picture alone."
NOT_FINITE = "no verdict: expected finite probabilities, got others. Check the picture and the adapter."


class Scorer:
    """An adapter's verdicts as a plain batch callable: a dict of columns goes in, one with verdicts comes out.

    For engines that spread batches over machines, such as `ray.data.Dataset.map_batches(Scorer, ...)`, or over
    processes, `datasets.Dataset.map(Scorer(...), batched=True)`. Only settings are pickled; every process reads the
    checkpoint's tower for itself, on its first batch.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter, or its id on the hub.
        policy: decides what is flagged; default: Policy.default().
        device: default: CUDA where there is one.
        dtype: of the tower: float32, bfloat16 or float16; default: bfloat16 on CUDA, float32 on the CPU.
        batch_size: pictures in one run of the tower.

    Does not cover: answers; like `SafetyAttachment.classify`, whose verdicts it gives, it judges picture and question.
    """

    def __init__(
        self,
        base: str | PathLike[str],
        adapter: str | PathLike[str],
        policy: Policy | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 32,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"unknown dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}. Pick one of them.")
        self.base, self.adapter, self.policy, self.batch_size = str(base), str(adapter), policy, batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = dtype or ("bfloat16" if self.device.startswith("cuda") else "float32")
        self._parts: Parts | None = None

    @property
    def parts(self) -> "Parts":
        """Tower, modules, thresholds; read on first use.

        Raises:
            AttachError: the base cannot be read.
            AdapterError: the adapter is refused, or made for another base.
            PolicyError: the policy does not fit its taxonomy.
        """
        if self._parts is None:
            self._parts = Parts(Path(self.base), self.adapter, self.policy, self.device, DTYPES[self.dtype])
        return self._parts

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parts": None}

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Judge a batch.

        Args:
            batch: `image`: file names, files' bytes, or undecoded cells of a `datasets.Image` (`bytes`, `path`); and,
                where there is one, `question`: words or None. Other columns are handed on; pictures are not.

        Returns:
            Columns of verdicts.parquet: `image_digest`, `p_<label>`, `level_<level>`, `risk`, `type`, `level`,
            `flagged`, `rule`, `frame`, `frames_judged`, `frames`, `error`. Where there is an error the probabilities
            are NaN and the rest None.
        """
        count = len(batch["image"])
        questions = [_text(question) for question in batch.get("question", [None] * count)]
        done = self.parts.pixels.decoder([_picture(image) for image in batch["image"]])
        judged, rows, frames, faults = self.judge_decoded(done, questions)
        columns = verdict_columns(judged, rows, count, self.parts.config)
        columns |= {name: _objects(column) for name, column in frame_columns(done.looked, rows, frames, count).items()}
        kept = {name: column for name, column in batch.items() if name != "image"}
        return {**kept, "image_digest": _objects(done.digests), **columns, "error": _objects(faults)}

    def judge_decoded(
        self, done: Decoded, questions: Sequence[str | None]
    ) -> tuple[Judged, list[int], list[int], list[str | None]]:
        """Verdicts on a decoded chunk, which rows and which of their frames they are of, and every row's fault."""
        parts, faults = self.parts, list(done.faults)
        for row, question in enumerate(questions):
            if question is None and faults[row] is None and parts.needs_question:
                faults[row] = NO_QUESTION
        rows = [row for row, fault in enumerate(faults) if fault is None]
        counts = [len(done.looked[row].numbers) for row in rows]
        frames = [(row, done.places[row] + at) for row, count in zip(rows, counts, strict=True) for at in range(count)]
        found = []
        for at in range(0, len(frames), self.batch_size):
            part = frames[at : at + self.batch_size]
            used = sorted({place for _, place in part})
            places = [used.index(place) for _, place in part]
            found.append(parts.finish(parts.start(done.pixels[used], places, [questions[row] for row, _ in part])))
        judged, chosen = most_severe(joined(found), counts) if found else (parts.nothing, [])
        for row in np.flatnonzero(~judged.finite).tolist():
            faults[rows[row]] = NOT_FINITE
        return judged, rows, chosen, faults


def frame_columns(
    looked: Sequence[Looked | None], rows: Sequence[int], chosen: Sequence[int], count: int
) -> dict[str, list[int | None]]:
    """Which frame each verdict is of, how many were judged, and how many there are.

    Args:
        looked: at the picture of each of `count` rows.
        rows: that have a verdict.
        chosen: which of its frames each of these verdicts is of.
        count: of all rows.
    """
    columns: dict[str, list[int | None]] = {name: [None] * count for name in ("frame", "frames_judged", "frames")}
    for row, at in zip(rows, chosen, strict=True):
        seen = looked[row]
        assert seen is not None
        values = seen.numbers[at], len(seen.numbers), seen.total
        for column, value in zip(columns.values(), values, strict=True):
            column[row] = value
    return columns


class _Missing(EncodedImage):
    """No picture, for a reason that its row shall tell."""

    def __init__(self, reason: DataError) -> None:
        self._reason = reason

    def read(self) -> bytes:
        raise self._reason


def _picture(image: Any) -> Any:
    if not isinstance(image, str | Path | bytes | bytearray | Mapping):
        raise ConfigError(
            f"picture not read: expected a file name, bytes or an undecoded cell, got {type(image).__name__}. "
            "Do not let the engine decode: datasets.Image(decode=False), or ray's read_binary_files."
        )
    try:
        return reference(image, "image", Path())
    except DataError as error:
        return _Missing(error)


def _text(question: Any) -> str | None:
    return question if isinstance(question, str) and question.strip() else None


def _objects(values: Sequence[Any]) -> np.ndarray:
    return np.array([*values, None], object)[:-1]
