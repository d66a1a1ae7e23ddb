"""The feature cache: what it computes, that it computes it once, and that damage shows."""

import copy
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safety_modules.backbones import Backbone, find_backbone
from safety_modules.errors import DataError
from safety_modules.records.record import Record
from safety_modules.training import features
from safety_modules.training.features import ORPHAN_SECONDS, FeatureStore, ahead, cache_features, digests_of


def record(image: Any) -> Record:
    return Record(image=image, question="what?", answer=None, type="clean", level="safe")


@pytest.fixture
def backbone(model: Any, processor: Any) -> Backbone:
    return find_backbone(model, processor)


@pytest.fixture
def records(make_image: Callable[[int], Image.Image]) -> list[Record]:
    return [record(make_image(seed)) for seed in (0, 1, 2, 1, 0)] + [record(None)]


@pytest.fixture
def images_seen(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each run of the tower got."""
    seen: list[int] = []
    run = backbone.encode_images
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: seen.append(len(pixels)) or run(pixels))
    return seen


@pytest.mark.parametrize("on_disk", [False, True])
def test_features_are_the_towers_rounded_to_float16(
    backbone: Backbone, records: list[Record], tmp_path: Path, on_disk: bool
) -> None:
    store = cache_features(backbone, records, tmp_path if on_disk else None, progress=False)
    vision = backbone.encode_images(backbone.pixel_values([records[2].image, records[0].image])).vision
    found = store.batch([records[2].image_digest(), records[0].image_digest()])
    torch.testing.assert_close(found, vision.to(torch.float16))


def test_each_distinct_picture_runs_through_the_tower_once(
    backbone: Backbone, records: list[Record], images_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH_SIZE", 2)
    store = cache_features(backbone, records, progress=False)
    assert images_seen == [2, 1]
    assert len(store) == 3


def test_second_run_computes_only_what_is_missing(
    backbone: Backbone, records: list[Record], images_seen: list[int], tmp_path: Path
) -> None:
    probe = 1  # each opening of the cache asks the tower for one picture, to compare
    first = cache_features(backbone, records[:2], tmp_path, progress=False)
    assert sum(images_seen) == 2 + probe
    again = cache_features(backbone, records, tmp_path, progress=False)
    assert sum(images_seen) == 3 + 2 * probe
    digest = records[0].image_digest()
    assert torch.equal(first.batch([digest]), again.batch([digest]))


def test_interrupted_write_is_computed_anew(backbone: Backbone, records: list[Record], tmp_path: Path) -> None:
    cache_features(backbone, records, tmp_path, progress=False)
    (index,) = (path for path in tmp_path.glob("*/*.json") if path.name != "settings.json")
    index.unlink()  # the index is written last
    assert len(cache_features(backbone, records, tmp_path, progress=False)) == 3


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(
    backbone: Backbone, records: list[Record], tmp_path: Path
) -> None:
    cache_features(backbone, records[:1], tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    whole = set(folder.iterdir())
    left = [folder / "a.npy.1.tmp", folder / "b.npy", folder / "c.json.2.tmp"]
    living = [folder / "d.npy.3.tmp", folder / "e.npy"]
    for path in [*left, *living]:
        path.write_bytes(b"half")
    for path in [*left, *whole]:
        os.utime(path, (time.time() - 2 * ORPHAN_SECONDS,) * 2)
    cache_features(backbone, records[:1], tmp_path, progress=False)
    assert set(folder.iterdir()) == whole | set(living)


def test_interrupted_build_goes_on_with_the_batches_it_had_left(
    backbone: Backbone, make_image: Callable[[int], Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tower's last bits depend on what else is in the batch; so a resumed run would end elsewhere."""
    monkeypatch.setattr(features, "SHARD_ROWS", 3)
    pictures = [record(make_image(seed)) for seed in range(8)]
    run, sizes = backbone.encode_images, []

    def interrupted(pixels: torch.Tensor) -> Any:
        sizes.append(len(pixels))
        if len(sizes) == 1 + 3:  # the probe, a shard of two batches, one batch of the next
            raise KeyboardInterrupt
        return run(pixels)

    monkeypatch.setattr(backbone, "encode_images", interrupted)
    monkeypatch.setattr(features, "BATCH_SIZE", 2)
    with pytest.raises(KeyboardInterrupt):
        cache_features(backbone, pictures, tmp_path, progress=False)
    cache_features(backbone, pictures, tmp_path, progress=False)
    assert sizes == [1, 2, 1, 2, 1, 2, 1, 2]


def test_writers_side_by_side_disturb_nobody(
    tiny_base: Any,
    processor: Any,
    make_image: Callable[[int], Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 2)
    pictures = [record(make_image(seed)) for seed in range(10)]
    alone = cache_features(find_backbone(copy.deepcopy(tiny_base), processor), pictures, progress=False)
    monkeypatch.setattr(features, "BATCH_SIZE", 2)

    def build(part: list[Record]) -> FeatureStore:
        backbone = find_backbone(copy.deepcopy(tiny_base), processor)
        return cache_features(backbone, part, tmp_path, progress=False)

    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(build, [pictures, pictures[::-1], pictures[3:7]]))
    stores.append(build(pictures))
    digests = [one.image_digest() for one in pictures]
    for store in (stores[0], stores[1], stores[3]):
        torch.testing.assert_close(store.batch(digests), alone.batch(digests))


def test_pictures_are_prepared_in_order_and_only_a_few_ahead() -> None:
    started: list[int] = []
    results = ahead(lambda item: started.append(item) or item, range(20), threads=2)
    assert next(results) == 0
    assert len(started) <= 3
    assert list(results) == list(range(1, 20))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "index"])
def test_damaged_cache_is_refused(backbone: Backbone, records: list[Record], tmp_path: Path, damage: str) -> None:
    cache_features(backbone, records, tmp_path, progress=False)
    (data,) = (path for path in tmp_path.glob("*/*.npy") if path.name != "probe.npy")
    if damage == "index":
        data.with_suffix(".json").write_text(json.dumps({"digests": []}), encoding="utf-8")
    elif damage == "remove":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        content[-1] ^= 1
        data.write_bytes(content[: -8 if damage == "truncate" else None])
    with pytest.raises(DataError, match="feature cache damaged"):
        cache_features(backbone, records, tmp_path, progress=False)


def test_cache_of_another_tower_is_refused(
    backbone: Backbone, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = backbone.fingerprint()
    cache_features(backbone, records, tmp_path, progress=False)
    tower = backbone.model.model.vision_tower.named_parameters()
    with torch.no_grad():
        next(p for name, p in tower if name.endswith("layers.0.mlp.fc1.weight")).mul_(3)
    monkeypatch.setattr(backbone, "fingerprint", lambda: known)
    with pytest.raises(DataError, match="made by another tower"):
        cache_features(backbone, records, tmp_path, progress=False)


def test_all_unreadable_pictures_are_named(backbone: Backbone, tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(good)
    broken.write_bytes(good.read_bytes()[:100])
    records = [record(broken), record(good), record(broken.with_name("gone.png"))]
    with pytest.raises(DataError, match=r"record 2: .*gone\.png"):
        digests_of(records)
    with pytest.raises(DataError, match=r"record 0: .*broken\.png"):
        cache_features(backbone, records[:2], progress=False)


def test_features_that_float16_cannot_hold_are_refused(
    backbone: Backbone, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = backbone.encode_images
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: run(pixels)._replace(vision=run(pixels).vision * 1e6))
    with pytest.raises(DataError, match="float16"):
        cache_features(backbone, records, progress=False)


def test_unknown_picture_is_an_error(backbone: Backbone, records: list[Record]) -> None:
    store = cache_features(backbone, records[:1], progress=False)
    with pytest.raises(DataError, match="unknown"):
        store.batch([records[1].image_digest()])
