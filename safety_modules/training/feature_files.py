"""The feature cache on disk: shards that are written whole or not at all, checked when read.

A folder for each (base, pixel settings); in it shards of float16 features `<name>.npy`, each with a `<name>.json`
(digests of its pictures, SHA-256 of the file) that is written last and makes it count. Nothing is ever written twice,
so any number of processes can read and write side by side.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from safety_modules.errors import DataError
from safety_modules.io.files import write_whole

PROBE_TOLERANCE = 0.03
"""Relative error between towers that count as the same: one in bfloat16 and in float32 differ by about 0.01."""
ORPHAN_SECONDS = 3600
"""A file without an index that was last written this long ago belongs to nobody: a shard takes seconds."""


def open_folder(settings: dict[str, Any], cache_dir: Path, make_probe: Callable[[], np.ndarray]) -> Path:
    """The folder for this base and these pixel settings, made if needed; its tower is checked by a probe.

    Args:
        settings: what names the folder. JSON-able.
        cache_dir: where such folders lie.
        make_probe: features (P, Dv) of a fixed picture.

    Raises:
        DataError: the folder cannot be written, is damaged, or holds another tower's features.
    """
    text, folder = _settings_text(settings), folder_of(settings, cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"no feature cache: expected a folder to write to, got {error}. Name another.") from error
    _remove_orphans(folder)
    probe, path = make_probe().astype(np.float32), folder / "probe.npy"
    if not path.exists():
        write_whole(folder / "settings.json", lambda file: file.write(text.encode()))
        write_whole(path, lambda file: np.save(file, probe, allow_pickle=False))
        return folder
    known = _load(path)
    if known.shape != probe.shape:
        raise _damaged(path, f"expected shape {probe.shape}, got {known.shape}")
    distance = float(np.linalg.norm(known - probe) / max(float(np.linalg.norm(known)), 1e-12))
    if not distance <= PROBE_TOLERANCE:
        raise DataError(
            f"feature cache {folder} was made by another tower: expected features within {PROBE_TOLERANCE} of it, "
            f"got a relative error of {distance:.3f} (other weights, or quantised). Use another cache_dir."
        )
    return folder


def folder_of(settings: dict[str, Any], cache_dir: Path) -> Path:
    """The folder for a base and pixel settings, whether it is there or not."""
    return cache_dir / hashlib.sha256(_settings_text(settings).encode()).hexdigest()[:16]


def kept_digests(folder: Path) -> frozenset[str]:
    """The pictures that shards in a folder hold; none where there is no folder. Raises DataError as `read_shards`."""
    return frozenset(name for _, names, _ in _indices(folder) for name in names)


def read_shards(folder: Path, wanted: Set[str]) -> list[tuple[list[str], np.ndarray]]:
    """Digests and memory-mapped features (n, P, Dv) of every shard that holds a wanted picture, each checked.

    Raises:
        DataError: a shard is not what its index says.
    """
    found = [shard for shard in _indices(folder) if not wanted.isdisjoint(shard[1])]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        shards = list(pool.map(lambda shard: _checked(*shard), found))
    return [(names, features) for (_, names, _), features in zip(found, shards, strict=True)]


def write_shard(folder: Path, digests: list[str], features: np.ndarray) -> np.ndarray:
    """Write features (n, P, Dv) of n pictures, and return them as they now lie on disk."""
    data = folder / f"{uuid.uuid4().hex}.npy"
    write_whole(data, lambda file: np.save(file, features, allow_pickle=False))
    index = json.dumps({"digests": digests, "sha256": _sha256(data)})
    write_whole(data.with_suffix(".json"), lambda file: file.write(index.encode()))
    return _load(data)


def _settings_text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, indent=1)


def _indices(folder: Path) -> Iterator[tuple[Path, list[str], str]]:
    """(features' file, digests of its pictures, its SHA-256) of every shard."""
    for path in sorted(folder.glob("*.json")):
        if path.name == "settings.json":
            continue
        try:
            index: dict[str, Any] = json.loads(path.read_bytes())
            yield path.with_suffix(".npy"), [str(name) for name in index["digests"]], str(index["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"expected an index, got {error!r}") from error


def _checked(path: Path, names: list[str], digest: str) -> np.ndarray:
    features = _load(path)
    if len(features) != len(names) or _sha256(path) != digest:
        raise _damaged(path, "expected the content its index describes, got another")
    return features


def _remove_orphans(folder: Path) -> None:
    """Delete what killed writers left; whoever still writes has touched the file within the hour."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.npy")]:
        if path.name != "probe.npy" and not path.with_suffix(".json").exists():
            try:
                if time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # another process was quicker
                continue


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, f"expected an array, got {error}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"feature cache damaged: {path}: {what}. Delete this folder's files; they are made anew.")
