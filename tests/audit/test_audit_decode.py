"""Decoding in worker processes."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import picture, save
from PIL import Image
from transformers import LlavaProcessor

from safety_modules.audit.decode import Decoded, Decoder, Pixels, decoded
from safety_modules.records.record import Record


@pytest.mark.matrix
@pytest.mark.parametrize(
    "change", [{}, {"do_normalize": False}, {"image_std": [0.5, 0.25, 1.0]}, {"do_rescale": False}]
)
def test_pixels_are_the_processors_own(processor: LlavaProcessor, change: dict[str, Any]) -> None:
    image_processor = type(processor.image_processor)(**{**processor.image_processor.to_dict(), **change})
    pixels = Pixels(image_processor)
    pictures = [picture(seed, size).resize((40 + seed, 70)) for seed, size in ((1, 64), (2, 30))]
    wanted = image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    half_way = np.stack([pixels.decoder.pixels(one) for one in pictures])
    assert half_way.dtype == np.uint8
    assert torch.equal(pixels(half_way, "cpu"), wanted.float())


def test_a_processor_of_another_kind_does_all_of_it_itself(processor: LlavaProcessor) -> None:
    own = processor.image_processor

    def mixing(images: Any, **options: Any) -> Any:
        values = own(images=images, **options)
        if options.get("do_normalize", True):
            values["pixel_values"] = values["pixel_values"] * 2 + values["pixel_values"].mean()
        return values

    pixels = Pixels(mixing)
    wanted = mixing([picture(1)], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels(pixels.decoder.pixels(picture(1))[None], "cpu"), wanted)


def test_a_picture_that_is_there_twice_is_decoded_once_and_a_bad_one_gives_its_reason(
    processor: LlavaProcessor, tmp_path: Path
) -> None:
    paths = [save(tmp_path / f"{number}.png", number % 2) for number in range(3)]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = Decoder(processor.image_processor)([*paths, tmp_path / "bad.png", tmp_path / "gone.png"])
    assert done[0] is done[2] and [len(one.pixels) for one in done] == [1, 1, 1, 0, 0]
    assert not np.array_equal(done[0].pixels, done[1].pixels)
    record = Record(image=paths[1], question="", answer=None, type="clean", level="safe")
    assert done[1].digest == record.image_digest() and done[4].digest is None
    assert [one.fault is None for one in done] == [True, True, True, False, False]
    assert "no format it knows" in str(done[3].fault) and "gone.png" in str(done[4].fault)


class Deadly(Decoder):
    """Its process dies of one picture, as of a fault in a library."""

    def __init__(self) -> None:
        pass

    def __call__(self, images: Sequence[Any]) -> list[Decoded]:
        if any(image.name == "3.png" for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return [
            Decoded(image.name, None, np.full((1, 1, 1, 1), int(image.stem), np.uint8), (0,), 1) for image in images
        ]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_costs_one_picture_and_nothing_else(workers: int) -> None:
    chunks = [[Path(f"{number}.png") for number in range(at, at + 2)] for at in range(0, 12, 2)]
    found = list(decoded(Deadly(), chunks, workers))
    assert [one.digest for part in found for one in part] == [
        None if number == 3 else f"{number}.png" for number in range(12)
    ]
    assert [int(pixel) for part in found for one in part for pixel in one.pixels.flatten()] == [
        n for n in range(12) if n != 3
    ]
    assert [len(one.pixels) for one in found[1]] == [1, 0] and "process that died" in str(found[1][1].fault)


@pytest.mark.slow
def test_workers_give_what_this_process_gives(
    processor: LlavaProcessor, tmp_path: Path, make_image: Callable[[int], Image.Image]
) -> None:
    paths = [save(tmp_path / f"{number}.png", number) for number in range(5)]
    chunks = [paths[:2], paths[2:4], paths[4:]]
    decoder = Decoder(processor.image_processor)
    for ours, theirs in zip(decoded(decoder, chunks, 1), decoded(decoder, chunks, 0), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one._replace(pixels=None) == other._replace(pixels=None)
            assert np.array_equal(one.pixels, other.pixels)
