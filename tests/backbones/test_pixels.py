"""Pictures to pixel values by the base's own processor: one by one, bounded, channels never mistaken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import picture, save
from PIL import Image
from transformers import CLIPImageProcessor, LlavaProcessor

from safety_modules import SafetyAttachment
from safety_modules.audit.decode import Decoder
from safety_modules.backbones.pixels import check_size, processed, resized
from safety_modules.errors import DataError
from safety_modules.pictures import RESIZED_PIXELS
from safety_modules.records.record import Record
from safety_modules.training.features import cache_features

SIZES = [
    {"shortest_edge": 28},
    {"shortest_edge": 28, "longest_edge": 40},
    {"height": 30, "width": 50},
]


@pytest.mark.matrix
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (7, 7), (200, 20), (1, 9)])
def test_the_resize_is_foreseen(size: dict[str, int], shape: tuple[int, int]) -> None:
    own = CLIPImageProcessor(size=size, do_center_crop=False)
    try:
        made = own(images=[picture(1).resize(shape)], return_tensors="np", input_data_format="channels_last")
    except ValueError:
        pytest.skip("not a size this version of transformers resizes to")
    found, real = np.array(resized(shape, own.size)), np.array(made["pixel_values"].shape[:1:-1])
    assert (found >= real - 1).all() and ("longest_edge" in size or np.abs(found - real).max() <= 1)


@pytest.mark.matrix
@pytest.mark.parametrize("shape", [(40, 1), (40, 3), (1, 40), (3, 40), (1, 1), (3, 3), (1, 3), (40, 2), (4, 1)])
def test_pictures_of_one_or_three_pixels_keep_their_channels(processor: LlavaProcessor, shape: tuple[int, int]) -> None:
    image = picture(2).resize(shape)
    own = processor.image_processor
    side = own.crop_size["height"]
    whole = np.asarray(image.resize(resized(shape, own.size), Image.Resampling.BICUBIC))
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    cut = whole[top : top + side, left : left + side] / 255
    wanted = ((cut - np.array(own.image_mean)) / np.array(own.image_std)).transpose(2, 0, 1)
    assert np.abs(processed(own, image) - wanted).max() < 1e-5


@pytest.mark.matrix
def test_a_batch_is_what_each_picture_is_alone_whatever_stands_beside_it(safety: SafetyAttachment) -> None:
    images = [picture(1).resize((40, 1)), picture(2), picture(3).convert("L"), picture(4).convert("RGBA")]
    together = safety.backbone.pixel_values(images)
    alone = torch.cat([safety.backbone.pixel_values([image]) for image in images])
    assert torch.equal(together, alone)
    base = safety.backbone.processor.image_processor(images=images[1:], return_tensors="pt")["pixel_values"]
    assert torch.equal(together[1:], base)


def test_what_a_resize_or_a_square_would_make_is_bounded() -> None:
    own = CLIPImageProcessor(size={"shortest_edge": 1024})
    with pytest.raises(ValueError, match=f"resized to 1024 x 102400 are more than {RESIZED_PIXELS}: too thin"):
        check_size((20, 2000), own)
    check_size((20, 600), own)
    check_size((20, 2000), CLIPImageProcessor(size={"height": 224, "width": 224}))
    check_size((20, 2000), CLIPImageProcessor(size={"shortest_edge": 1024}, do_resize=False))
    with pytest.raises(ValueError, match="padded to a square are more than"):
        check_size((100, 6000), CLIPImageProcessor(size={"shortest_edge": 336}), pads=True)
    check_size((100, 5000), CLIPImageProcessor(size={"shortest_edge": 336}), pads=True)


class Failing:
    """A processor that cannot bear pictures 13 pixels wide."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["own"], name)

    def __call__(self, images: Any, **options: Any) -> Any:
        if any(image.shape[1] == 13 for image in images):
            raise MemoryError("13 is too wide")
        return self.own(images=images, **options)


def test_a_processor_that_fails_costs_that_picture(
    processor: LlavaProcessor, safety: SafetyAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    picture(1).resize((13, 9)).save(paths[1])
    monkeypatch.setattr(safety.backbone.processor, "image_processor", Failing(processor.image_processor))
    done = Decoder(safety.backbone.processor.image_processor)(paths)
    assert [len(one.pixels) for one in done] == [1, 0, 1]
    assert "1.png" in str(done[1].fault) and "MemoryError: 13 is too wide" in str(done[1].fault)
    with pytest.raises(DataError, match=r"images\[1\]: .*MemoryError: 13 is too wide"):
        safety.classify(paths)
    records = [
        Record(image=path, question="", answer=None, type="clean", level="safe", source=path.name) for path in paths
    ]
    with pytest.raises(DataError, match=r"1\.png: .*13 is too wide") as caught:
        cache_features(safety.backbone, records, tmp_path / "cache", progress=False)
    assert "0.png" not in str(caught.value)
    assert len(cache_features(safety.backbone, [records[0], records[2]], tmp_path / "cache", progress=False)) == 2
