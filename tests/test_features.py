"""The feature cache: what it computes, that it computes it once, and that damage shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safety_modules.backbones import Backbone, find_backbone
from safety_modules.errors import DataError
from safety_modules.records.record import Record
from safety_modules.training.features import cache_features, digests_of


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
    backbone: Backbone, records: list[Record], images_seen: list[int]
) -> None:
    store = cache_features(backbone, records, progress=False, batch_size=2)
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
