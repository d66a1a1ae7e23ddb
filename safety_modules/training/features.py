"""Features of the frozen vision tower, computed once for each distinct picture and kept, in memory or on disk.

On disk: a folder for each (base, pixel settings), in it shards of float16 features `<name>.npy`, each with a
`<name>.json` (digests of its pictures, SHA-256 of the file) that is written last. A build that was interrupted goes
on where it stopped, a later one adds what is missing, and several can write side by side.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from safety_modules.backbones import Backbone
from safety_modules.errors import DataError
from safety_modules.records.record import Record, raise_problems
from safety_modules.training.progress import track

SHARD_BYTES, SHARD_ROWS = 256_000_000, 4096
PROBE_TOLERANCE = 0.03
"""Relative error between towers that count as the same: one in bfloat16 and in float32 differ by about 0.01."""


class FeatureStore:
    """Vision features h_o by the digest of the picture; float16, (P, Dv) each."""

    def __init__(self) -> None:
        self._shards: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def add(self, digests: Sequence[str], features: np.ndarray) -> None:
        """Take in a shard: features (n, P, Dv) of n pictures."""
        self._shards.append(features)
        for row, digest in enumerate(digests):
            self._places.setdefault(digest, (len(self._shards) - 1, row))

    def batch(self, digests: Sequence[str]) -> torch.Tensor:
        """Features (B, P, Dv), float16, on the CPU.

        Raises:
            DataError: a picture that was not computed.
        """
        missing = [digest for digest in digests if digest not in self._places]
        if missing:
            raise DataError(
                f"no features: expected {len(digests)} known pictures, got {len(missing)} unknown ones. "
                "Run cache_features on these records first."
            )
        places = [self._places[digest] for digest in digests]
        return torch.from_numpy(np.stack([self._shards[shard][row] for shard, row in places]))


def digests_of(records: Sequence[Record]) -> list[str | None]:
    """The picture's digest of each record; None without a picture.

    Raises:
        DataError: naming every file that cannot be read.
    """
    digests: list[str | None] = []
    problems = []
    for index, record in enumerate(records):
        try:
            digests.append(None if record.image is None else record.image_digest())
        except DataError as error:
            problems.append(f"record {index}: {error}")
    raise_problems(problems, "images")
    return digests


def cache_features(
    backbone: Backbone,
    records: Sequence[Record],
    cache_dir: str | PathLike[str] | None = None,
    *,
    digests: Sequence[str | None] | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> FeatureStore:
    """The features of all pictures of the records; only missing ones run through the tower.

    Args:
        backbone: the base.
        records: text-only ones are passed over.
        cache_dir: where features are kept between runs; None = in memory only.
        digests: of the records' pictures, if they are known already.
        batch_size: pictures per run of the tower.
        progress: show a bar.

    Raises:
        DataError: naming every picture that cannot be decoded (the others are kept, on disk); a damaged cache,
            or one that another tower made; features outside float16.
    """
    digests = digests_of(records) if digests is None else digests
    wanted: dict[str, int] = {}
    for index, digest in enumerate(digests):
        if digest is not None:
            wanted.setdefault(digest, index)
    folder = None if cache_dir is None else _open_folder(backbone, Path(cache_dir))
    store = FeatureStore()
    for names, features in [] if folder is None else _read_shards(folder):
        store.add(names, features)
    todo = [(digest, index) for digest, index in wanted.items() if digest not in store]

    sizes, problems = backbone.sizes, []
    rows = max(1, min(SHARD_ROWS, SHARD_BYTES // (2 * sizes.num_patches * sizes.vision_width)))
    with track("vision features", len(todo), enabled=progress and bool(todo)) as advance:
        for start in range(0, len(todo), rows):
            known, parts = [], []
            for first in range(start, min(start + rows, len(todo)), batch_size):
                batch = todo[first : min(first + batch_size, start + rows)]
                pictures = []
                for digest, index in batch:
                    try:
                        pictures.append((digest, records[index].load_image()))
                    except DataError as error:
                        problems.append(f"record {index}: {error}")
                if pictures:
                    known += [digest for digest, _ in pictures]
                    parts.append(_run_tower(backbone, [picture for _, picture in pictures]))
                advance(len(batch))
            if parts:
                features = np.concatenate(parts)
                store.add(known, features if folder is None else _write_shard(folder, known, features))
    raise_problems(problems, "images")
    return store


def _run_tower(backbone: Backbone, pictures: list[Image.Image]) -> np.ndarray:
    """Features (n, P, Dv) in float16."""
    with backbone.lock, torch.no_grad():
        vision = backbone.encode_images(backbone.pixel_values(pictures)).vision.to(torch.float16)
    if not bool(vision.isfinite().all()):
        raise DataError(
            "vision features not kept: expected numbers within float16, got NaN or infinity. "
            "Check the base's weights and dtype."
        )
    return vision.cpu().numpy()


def _open_folder(backbone: Backbone, cache_dir: Path) -> Path:
    """The folder for this base and these pixel settings, made if needed, its tower checked by a probe."""
    settings = {"base": backbone.fingerprint(), "pixels": backbone.pixel_settings()}
    text = json.dumps(settings, sort_keys=True, indent=1)
    folder = cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(96, dtype=np.float32) * 2.6
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 128), -1).astype(np.uint8)
    probe = _run_tower(backbone, [Image.fromarray(picture)])[0].astype(np.float32)
    path = folder / "probe.npy"
    if not path.exists():
        _write(folder / "settings.json", text.encode())
        _write(path, _npy(probe))
        return folder
    known = _load(path)
    if known.shape != probe.shape:
        raise _damaged(path, f"expected shape {probe.shape}, got {known.shape}")
    error = float(np.linalg.norm(known - probe) / max(float(np.linalg.norm(known)), 1e-12))
    if not error <= PROBE_TOLERANCE:
        raise DataError(
            f"feature cache {folder} was made by another tower: expected features within {PROBE_TOLERANCE} of it, "
            f"got a relative error of {error:.3f} (other weights, or quantised). Use another cache_dir."
        )
    return folder


def _read_shards(folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Digests and features of every finished shard, checked against its SHA-256."""
    for path in sorted(folder.glob("*.json")):
        if path.name == "settings.json":
            continue
        try:
            index: dict[str, Any] = json.loads(path.read_bytes())
            names, digest = [str(name) for name in index["digests"]], index["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"expected an index, got {error!r}") from error
        data = path.with_suffix(".npy")
        features = _load(data)
        if len(features) != len(names) or _sha256(data) != digest:
            raise _damaged(data, "expected the content its index describes, got another")
        yield names, features


def _write_shard(folder: Path, digests: list[str], features: np.ndarray) -> np.ndarray:
    """Write a shard and return it as it now lies on disk; the index comes last and makes it count."""
    data = folder / f"{uuid.uuid4().hex}.npy"
    _write(data, _npy(features))
    index = {"digests": digests, "sha256": _sha256(data)}
    _write(data.with_suffix(".json"), json.dumps(index).encode())
    return _load(data)


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, f"expected an array, got {error}") from error


def _npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"feature cache damaged: {path}: {what}. Delete this folder's files; they are made anew.")
