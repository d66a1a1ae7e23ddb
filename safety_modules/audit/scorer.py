"""Scorer: verdicts on batches of pictures from a vision tower and safety modules alone; columns in, columns out."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safety_modules.audit.tower_guard import TowerGuard, Verdicts, verdict_columns
from safety_modules.errors import ConfigError, DataError
from safety_modules.policy.policy import Policy
from safety_modules.records.images import EncodedImage, reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        self._guard: TowerGuard | None = None

    @property
    def guard(self) -> TowerGuard:
        """Tower, modules, thresholds; read on first use.

        Raises:
            AttachError: the base cannot be read.
            AdapterError: the adapter is refused, or made for another base.
            PolicyError: the policy does not fit its taxonomy.
        """
        if self._guard is None:
            self._guard = TowerGuard(Path(self.base), self.adapter, self.policy, self.device, DTYPES[self.dtype])
        return self._guard

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_guard": None}

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Judge a batch.

        Args:
            batch: `image`: file names, files' bytes, or undecoded cells of a `datasets.Image` (`bytes`, `path`); and,
                where there is one, `question`: words or None. Other columns are handed on; pictures are not.

        Returns:
            Columns of verdicts.parquet: `image_digest`, `p_<label>`, `level_<level>`, `risk`, `type`, `level`,
            `flagged`, `rule`, `frame`, `frames_judged`, `frames`, `outside`, `error`. Where there is an error the
            probabilities and `outside` are NaN and the rest None.
        """
        count, guard = len(batch["image"]), self.guard
        questions = [_text(question) for question in batch.get("question", [None] * count)]
        pictures = guard.pixels.decoder([_picture(image) for image in batch["image"]])
        faults = [guard.fault(picture, question) for picture, question in zip(pictures, questions, strict=True)]
        rows = [row for row, fault in enumerate(faults) if fault is None]
        found, waiting = list[Verdicts](), list[int]()
        for row in rows:
            waiting.append(row)
            if sum(len(pictures[row].pixels) for row in waiting) >= self.batch_size or row == rows[-1]:
                started = guard.start([pictures[row] for row in waiting], [questions[row] for row in waiting])
                found.append(guard.finish(started))
                waiting.clear()
        columns = verdict_columns(found, rows, faults, guard.config)
        kept = {name: column for name, column in batch.items() if name != "image"}
        digests = [picture.digest for picture in pictures]
        return {**kept, "image_digest": _objects(digests), **columns, "error": _objects(faults)}


class _Missing(EncodedImage):
    """No picture, for a reason that its row shall tell."""

    name = "of the batch"

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
