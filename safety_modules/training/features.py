"""Features of the frozen vision tower, computed once for each distinct picture and kept, in memory or on disk.

Pictures are decoded and prepared in threads, ahead of the tower. A build that was interrupted, at whatever moment, goes
on where it stopped, a later one adds what is missing, and several processes share the work of one.

On disk there is a folder for each (base, pixel settings); in it shards of float16 features `<name>.npy`, each with a
`<name>.json` (digests of its pictures, SHA-256 of the file) that is written last and makes it count. Nothing is ever
written twice, so any number of processes can read and write side by side.
"""

import hashlib
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from safety_modules.backbones import Backbone
from safety_modules.backbones.tiles import batch_of
from safety_modules.defences.guard.judge import look
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.errors import DataError
from safety_modules.io.files import sha256_of, write_whole
from safety_modules.io.progress import track
from safety_modules.pictures import reading
from safety_modules.records.record import GoodRecords, Record, raise_problems
from safety_modules.training import distributed

BATCH_SIZE = 32
"""Pictures per run of the tower."""
SHARD_BYTES, SHARD_ROWS = 256_000_000, 4096
"""Largest shard: what an interrupted build computes anew."""
MAX_THREADS = 8
"""Threads that decode and prepare pictures while the tower runs; a batch of LLaVA-1.5's takes 43 MB."""
PROBE_TOLERANCE = 0.03
"""Relative error between towers that count as the same: one in bfloat16 and in float32 differ by about 0.01."""
ORPHAN_SECONDS = 3600
"""A file without an index that was last written this long ago belongs to nobody: a shard takes seconds."""
T = TypeVar("T")
R = TypeVar("R")


class FeatureStore(dict[str, np.ndarray]):
    """Vision features h_o by the digest of the picture; float16, (P, Dv) each."""

    def add(self, digests: Sequence[str], features: np.ndarray) -> None:
        """Take in a shard: features (n, P, Dv) of n pictures, of which rows are views."""
        for digest, row in zip(digests, np.asarray(features), strict=True):
            self.setdefault(digest, row)

    def add_folder(self, folder: Path, wanted: Set[str]) -> None:
        """Take in the shards on disk that hold a wanted picture, memory-mapped and checked.

        Raises:
            DataError: a shard is not what its index says.
        """
        shards = [shard for shard in _indices(folder) if not wanted.isdisjoint(shard[1])]
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            for (_, digests, _), features in zip(shards, pool.map(lambda one: _checked(*one), shards), strict=True):
                self.add(digests, features)

    def batch(self, digests: Sequence[str]) -> torch.Tensor:
        """Features (B, P, Dv), float16, on the CPU.

        Raises:
            DataError: a picture that was not computed.
        """
        missing = [digest for digest in digests if digest not in self]
        if missing:
            raise DataError(
                f"no features: expected {len(digests)} known pictures, got {len(missing)} unknown ones. "
                "Run cache_features on these records first."
            )
        return torch.from_numpy(np.stack([self[digest] for digest in digests]))


def cache_features(
    backbone: Backbone,
    data: Sequence[Record] | GoodRecords,
    cache_dir: str | PathLike[str] | None = None,
    *,
    modules: SafetyModules | None = None,
    progress: bool = True,
) -> FeatureStore:
    """The features of all pictures of the records; only missing ones run through the tower.

    Processes that were launched together share the work, if they have a `cache_dir`; else each computes all.

    Args:
        backbone: the base.
        data: records, of which text-only ones are passed over. What is known of their pictures is not computed again;
            the decoded ones among these are gone afterwards.
        cache_dir: where features are kept between runs; None = in memory only.
        modules: what looks at them (`judge.look`); default: the patches of one run.
        progress: show a bar.

    Raises:
        DataError: naming every picture that cannot be decoded or has changed (the others are kept, on disk); a
            damaged cache, or one that another tower made; features outside float16.
    """
    good = with_digests(data)
    wanted: dict[str, int] = {}
    for index, digest in enumerate(good.digests or ()):
        if digest is not None:
            wanted.setdefault(digest, index)
    folder, store = None, FeatureStore()
    if cache_dir is not None:
        folder = _open_folder(backbone, Path(cache_dir), modules)
        store.add_folder(folder, wanted.keys())

    sizes = backbone.sizes
    looks = 1 if modules is None else modules.looks
    rows = max(1, min(SHARD_ROWS, SHARD_BYTES // (2 * looks * sizes.num_patches * sizes.vision_width)))

    def build(part: slice) -> None:
        """This part of the missing shards. An interrupted build goes on with the very batches it had left."""
        todo = [(digest, index) for digest, index in wanted.items() if digest not in store]
        shards = [todo[start : start + rows] for start in range(0, len(todo), rows)][part]
        _build(backbone, modules, good, shards, folder, store, progress)

    if folder is not None and distributed.count() > 1:
        distributed.wait()  # all have looked before one writes: the same list is shared out
        build(slice(distributed.rank(), None, distributed.count()))
        distributed.wait()
        store.add_folder(folder, {digest for digest in wanted if digest not in store})
    build(slice(None))
    good.pictures.clear()  # those that had features already, or that other processes computed
    return store


def known_pictures(
    backbone: Backbone, cache_dir: str | PathLike[str] | None, modules: SafetyModules | None = None
) -> frozenset[str]:
    """Digests of the pictures whose features are on disk: all of these could be decoded.

    Raises:
        DataError: a damaged cache.
    """
    if cache_dir is None:
        return frozenset()
    folder, _ = _folder_of(backbone, Path(cache_dir), modules)
    return frozenset(digest for _, digests, _ in _indices(folder) for digest in digests)


def with_digests(data: Sequence[Record] | GoodRecords) -> GoodRecords:
    """What is known of records, the digests of their pictures included. Raises DataError as `digests_of`."""
    good = data if isinstance(data, GoodRecords) else GoodRecords([*data])
    return good if good.digests is not None else replace(good, digests=digests_of(good.records))


def digests_of(records: Sequence[Record]) -> list[str | None]:
    """The picture's digest of each record; None without a picture.

    Raises:
        DataError: naming every file that cannot be read.
    """
    problems: list[tuple[int, str]] = []

    def digest(start: int) -> list[str | None]:
        found: list[str | None] = []
        for index, record in enumerate(records[start : start + 256], start):
            try:
                found.append(None if record.image is None else record.image_digest())
            except DataError as error:
                problems.append((index, f"{record.source or f'record {index}'}: {error}"))
        return found

    digests = [one for part in ahead(digest, range(0, len(records), 256)) for one in part]
    raise_problems([problem for _, problem in sorted(problems)], "images")
    return digests


def ahead(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """Results in the order of the items, computed in threads, a few items ahead of whoever takes them."""
    threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _build(
    backbone: Backbone,
    modules: SafetyModules | None,
    data: GoodRecords,
    shards: list[list[tuple[str, int]]],
    folder: Path | None,
    store: FeatureStore,
    progress: bool,
) -> None:
    """Compute shards of (digest, index of a record), and take them into the store."""
    problems: list[tuple[int, str]] = []

    def prepare(batch: list[tuple[str, int]]) -> tuple[list[str], Any]:
        done = []
        for digest, index in batch:
            try:
                known = data.pictures.pop(digest, None)
                picture = data.records[index].load_image(digest) if known is None else known
                done.append((digest, backbone.pixel_values([picture])))
            except DataError as error:
                problems.append((index, f"{data.records[index].source or f'record {index}'}: {error}"))
        return [digest for digest, _ in done], backbone.joined([pixels for _, pixels in done]) if done else None

    batches = [[shard[at : at + BATCH_SIZE] for at in range(0, len(shard), BATCH_SIZE)] for shard in shards]
    done = ahead(prepare, [batch for shard in batches for batch in shard])
    with track("vision features", sum(map(len, shards)), enabled=progress and bool(shards)) as advance:
        for shard in batches:
            known: list[str] = []
            parts = []
            for batch in shard:
                names, pixels = next(done)
                if pixels is not None:
                    known += names
                    parts.append(_run_tower(backbone, pixels, modules))
                advance(len(batch))
            if parts:
                features = np.concatenate(parts)
                store.add(known, features if folder is None else _write_shard(folder, known, features))
    raise_problems([problem for _, problem in sorted(problems)], "images")


def _run_tower(backbone: Backbone, pixels: Any, modules: SafetyModules | None = None) -> np.ndarray:
    """Features (n, P, Dv) in float16; of a base with tiles, with zeros behind the last one of a picture."""
    with backbone.lock, torch.no_grad():
        images = backbone.encode_images(pixels) if modules is None else look(backbone, modules, pixels)
        vision = images.vision.to(torch.float16)
    if not bool(vision.isfinite().all()):
        raise DataError(
            "vision features not kept: expected numbers within float16, got NaN or infinity. "
            "Check the base's weights and dtype."
        )
    if backbone.sizes.tile is not None:
        vision = batch_of([*vision], backbone.sizes.num_patches)
    return vision.cpu().numpy()


def _folder_of(backbone: Backbone, cache_dir: Path, modules: SafetyModules | None) -> tuple[Path, bytes]:
    """The folder for this base and its pixel settings, there or not, and the settings that name it."""
    settings: dict[str, Any] = {
        "base": backbone.fingerprint(),
        "pixels": backbone.pixel_settings(),
        "pictures": reading(),
    }
    if modules is not None and modules.config.words is not None:
        settings["tower"] = modules.config.words.tower  # its class token comes from layers the fingerprint leaves out
    if modules is not None and modules.voting is not None:
        settings["views"] = modules.voting.digest()
    text = json.dumps(settings, sort_keys=True, indent=1).encode()
    return cache_dir / hashlib.sha256(text).hexdigest()[:16], text


def _open_folder(backbone: Backbone, cache_dir: Path, modules: SafetyModules | None) -> Path:
    """`_folder_of`, made if needed; that the same tower made it is checked on a fixed picture."""
    folder, settings = _folder_of(backbone, cache_dir, modules)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"no feature cache: expected a folder to write to, got {error}. Name another.") from error
    _remove_orphans(folder)
    ramp = np.arange(96, dtype=np.float32) * 2.6
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 128), -1).astype(np.uint8)
    pixels = backbone.pixel_values([Image.fromarray(picture)])
    probe, path = _run_tower(backbone, pixels, modules)[0].astype(np.float32), folder / "probe.npy"
    if not path.exists():
        write_whole(folder / "settings.json", lambda file: file.write(settings))
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


def _remove_orphans(folder: Path) -> None:
    """Delete what killed writers left; whoever still writes has touched the file within the hour."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.npy")]:
        if path.name != "probe.npy" and not path.with_suffix(".json").exists():
            try:
                if time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # another process was quicker
                continue


def _write_shard(folder: Path, digests: list[str], features: np.ndarray) -> np.ndarray:
    """Write features (n, P, Dv) of n pictures, and return them as they now lie on disk."""
    data = folder / f"{uuid.uuid4().hex}.npy"
    write_whole(data, lambda file: np.save(file, features, allow_pickle=False))
    index = json.dumps({"digests": digests, "sha256": sha256_of(data)})
    write_whole(data.with_suffix(".json"), lambda file: file.write(index.encode()))
    return _load(data)


def _indices(folder: Path) -> Iterator[tuple[Path, list[str], str]]:
    """(features' file, digests of its pictures, its SHA-256) of every shard; none where there is no folder."""
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
    if len(features) != len(names) or sha256_of(path) != digest:
        raise _damaged(path, "expected the content its index describes, got another")
    return features


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, f"expected an array, got {error}") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"feature cache damaged: {path}: {what}. Delete this folder's files; they are made anew.")
