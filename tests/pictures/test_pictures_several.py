"""What classify takes: pictures of any kind, many or one, each with its question, with none, or wrongly counted."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import encoded, picture, save
from PIL import Image

from safety_modules import SafetyAttachment
from safety_modules.errors import DataError, GuardError
from safety_modules.pictures import asked_pictures
from safety_modules.pictures.several import each_picture, question_words

COUNT = 5


def pictures() -> list[Image.Image]:
    return [picture(seed, 28) for seed in range(COUNT)]


def risks(safety: SafetyAttachment, images: Any, questions: Any = None, **options: Any) -> list[float]:
    return [verdict.risk for verdict in safety.classify(images, questions, **options)]


def test_many_pictures_may_come_in_every_container(safety: SafetyAttachment, tmp_path: Path) -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    many = pictures()
    arrays = np.stack([np.asarray(image) for image in many])
    paths = [save(tmp_path / f"{seed}.png", seed) for seed in range(COUNT)]
    for path, image in zip(paths, many, strict=True):
        image.save(path)
    objects = np.empty(COUNT, object)
    objects[:] = many
    column = datasets.Dataset.from_dict({"image": many}).cast_column("image", datasets.Image())
    cells = column.cast_column("image", datasets.Image(decode=False))
    wanted = risks(safety, many)
    assert len(set(wanted)) == COUNT
    for name, images in {
        "tuple": tuple(many),
        "generator": (image for image in many),
        "nested": [[image] for image in many],
        "nested unevenly": [many[:2], many[2], [many[3:]]],
        "paths": paths,
        "names": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "NHWC": arrays,
        "NCHW": np.moveaxis(arrays, -1, 1),
        "NCHW tensor": torch.from_numpy(arrays).permute(0, 3, 1, 2),
        "NHWC tensor": torch.from_numpy(arrays),
        "NCHW floats": torch.from_numpy(arrays).permute(0, 3, 1, 2) / 255,
        "objects": objects,
        "Series": pandas.Series(many),
        "Series of names": pandas.Series([str(path) for path in paths]),
        "Column": column["image"],
        "slice": column[:]["image"],
        "Column of cells": cells["image"],
        "mixed": [many[0], str(paths[1]), arrays[2], paths[3].read_bytes(), torch.from_numpy(arrays[4])],
    }.items():
        assert risks(safety, images, batch_size=2) == pytest.approx(wanted, abs=1e-6), name
    for one in (many[0], paths[0], str(paths[0]), paths[0].read_bytes(), arrays[0], torch.from_numpy(arrays[0])):
        assert risks(safety, one) == pytest.approx(wanted[:1], abs=1e-6)
    assert risks(safety, []) == []


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan"), "", "  \n", "NA"])
def test_no_question_is_no_question(safety: SafetyAttachment, nothing: Any) -> None:
    if nothing == "NA":
        nothing = pytest.importorskip("pandas").NA
    many = pictures()
    alone, asked = risks(safety, many), risks(safety, many, "why?")
    assert risks(safety, many, [nothing] * COUNT) == pytest.approx(alone, abs=1e-6)
    mixed = [nothing if number % 2 else "why?" for number in range(COUNT)]
    wanted = [(alone if number % 2 else asked)[number] for number in range(COUNT)]
    assert alone != asked and risks(safety, many, mixed) == pytest.approx(wanted, abs=1e-6)
    assert risks(safety, many, nothing) == pytest.approx(alone, abs=1e-6)


def test_questions_may_be_a_generator_or_a_column(safety: SafetyAttachment) -> None:
    pandas = pytest.importorskip("pandas")
    many, words = pictures(), [f"what is {number}?" for number in range(COUNT)]
    wanted = risks(safety, many, words)
    assert risks(safety, iter(many), iter(words), batch_size=2) == pytest.approx(wanted, abs=1e-6)
    assert risks(safety, many, pandas.Series(words)) == pytest.approx(wanted, abs=1e-6)
    assert risks(safety, many, np.array(words)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("question", [3, b"why?", ["why?"], True, Image.new("RGB", (2, 2))])
def test_a_question_that_is_no_words_is_refused(safety: SafetyAttachment, question: Any) -> None:
    with pytest.raises(GuardError, match=r"expected words, or None for no question, got .* as questions\[1\]"):
        safety.classify(pictures()[:2], ["why?", question])


@pytest.mark.parametrize("more", [-4, -1, 1, 3])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_wrong_count_of_questions_is_refused(safety: SafetyAttachment, lazy: bool, more: int) -> None:
    words: Any = ["why?"] * (COUNT + more)
    images: Any = pictures()
    with pytest.raises(GuardError, match=rf"one question per image \({COUNT}\), got {COUNT + more}"):
        safety.classify(iter(images) if lazy else images, iter(words) if lazy else words, batch_size=2)


def test_a_wrong_count_in_lists_is_known_before_anything_is_judged(
    safety: SafetyAttachment, tower_runs: list[int]
) -> None:
    with pytest.raises(GuardError):
        safety.classify(pictures(), ["why?"] * 4, batch_size=1)
    assert tower_runs == []


@pytest.mark.parametrize(
    ("images", "why"),
    [
        ({"a": 1}, "got dict as images"),
        (3, "got int as images"),
        ([picture(1), None], r"got NoneType as images\[1\]"),
        ([[picture(1), 2.5]], r"got float as images\[0\]\[1\]"),
        (np.zeros((2, 2, 28, 28, 3), np.uint8), r"got an array of shape \(2, 2, 28, 28, 3\)"),
        (np.zeros(3), r"got an array of shape \(3,\)"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(safety: SafetyAttachment, images: Any, why: str) -> None:
    with pytest.raises(GuardError, match=why):
        safety.classify(images)


def test_tables_are_refused_and_not_read_as_names_of_files(safety: SafetyAttachment) -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    with pytest.raises(GuardError, match="got DataFrame"):
        safety.classify(pandas.DataFrame({"image": pictures()}))
    with pytest.raises(GuardError, match="got dict"):
        safety.classify(datasets.Dataset.from_dict({"image": pictures()}).cast_column("image", datasets.Image()))


def test_an_unreadable_picture_is_named_by_its_place(safety: SafetyAttachment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\[1\]: unreadable image .*gone\.png"):
        safety.classify([encoded(1), tmp_path / "gone.png"])


def test_pixel_values_have_four_dimensions(safety: SafetyAttachment) -> None:
    pixels = safety.backbone.pixel_values(pictures())
    assert [verdict.risk for verdict in safety.classify(pixel_values=pixels)] == risks(safety, pictures())
    for wrong in (pixels[0], pixels.numpy(), list(pixels)):
        with pytest.raises(GuardError, match=r"expected pixel_values as a tensor \(N, C, H, W\)"):
            safety.classify(pixel_values=wrong)
    for size in (0, -1, 2.5, True):
        with pytest.raises(GuardError, match="batch_size of at least 1"):
            safety.classify(pictures(), batch_size=size)  # type: ignore[arg-type]


def test_a_generator_is_never_held_whole(safety: SafetyAttachment) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = []

    def made() -> Iterator[Image.Image]:
        for seed in range(40):
            image = picture(seed, 28)
            alive.append(weakref.ref(image))
            gc.collect()
            most.append(sum(one() is not None for one in alive))
            yield image

    gc.freeze()  # what is there already need not be looked through each time
    try:
        assert len(safety.classify(made(), batch_size=4)) == 40
    finally:
        gc.unfreeze()
    assert max(most) <= 2 * 4 + 1


def test_batches_keep_order_and_hand_on_what_they_do_not_open() -> None:
    things = [f"{number}.png" for number in range(7)]
    batches = list(asked_pictures(iter(things), (str(number) for number in range(7)), 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [(one.picture, one.question) for batch in batches for one in batch] == [
        (thing, str(number)) for number, thing in enumerate(things)
    ]
    assert list(each_picture("a.png")) == ["a.png"] and question_words(" why? ") == " why? "
