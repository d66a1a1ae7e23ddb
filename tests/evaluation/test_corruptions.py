"""Corruptions: of the same size, reproducible, the stronger the further from the picture; and what they do to cases."""

import json

import numpy as np
import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.corruptions import KINDS, STRENGTHS, Corruption, corrupt, with_images
from safety_modules.evaluation.systems import Transform


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A disc and a frame on a gradient, 80 x 60: something to lose in every way."""
    y, x = np.mgrid[0:60, 0:80]
    pixels = np.stack([3 * x, 4 * y, np.full_like(x, 90)], -1).astype(np.uint8)
    pixels[(x - 40) ** 2 + (y - 30) ** 2 < 250] = (200, 30, 30)
    pixels[5:10, 5:75] = 255
    return Image.fromarray(pixels)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_size_stays_and_every_mode_becomes_rgb(kind, picture):
    for mode in ("RGB", "RGBA", "L", "P"):
        for strength in range(1, 6):
            result = corrupt(picture.convert(mode), kind, strength)
            assert (result.size, result.mode) == (picture.size, "RGB")


@pytest.mark.parametrize("kind", KINDS)
def test_the_stronger_the_further_from_the_picture(kind, picture):
    shifted = [Image.fromarray(np.roll(np.asarray(picture), (i, 3 * i), (0, 1))) for i in range(12)]
    means = [
        np.mean([distance(corrupt(image, kind, strength, seed), image) for seed, image in enumerate(shifted)])
        for strength in range(1, 6)
    ]
    assert means == sorted(means) and 0 < means[0] < means[4] / 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_picture_and_the_original_is_left_alone(kind, picture):
    before = picture.tobytes()
    assert corrupt(picture, kind, 3, 1).tobytes() == corrupt(picture, kind, 3, 1).tobytes()
    assert picture.tobytes() == before


@pytest.mark.parametrize("kind", ["noise", "crop", "rotation"])
def test_seeds_place_noise_crops_and_rotations_differently(kind, picture):
    assert len({corrupt(picture, kind, 3, seed).tobytes() for seed in range(8)}) > 1


def test_corners_of_a_rotated_picture_are_filled_with_its_border():
    plain = Image.new("RGB", (40, 40), (10, 200, 30))
    assert distance(corrupt(plain, "rotation", 5), plain) == 0


def test_blur_counts_from_the_side_so_that_large_pictures_suffer_as_small_ones(picture):
    large = picture.resize((320, 240), Image.Resampling.BICUBIC)
    back = corrupt(large, "blur", 5).resize(picture.size, Image.Resampling.BOX)
    assert distance(back, corrupt(picture, "blur", 5)) < 0.2 * distance(back, picture)


@pytest.mark.parametrize(
    ("kind", "strength", "words"),
    [("fog", 1, "unknown corruption: expected one of jpeg, blur"), ("blur", 6, "expected 1, 2, 3, 4 or 5, got 6")],
)
def test_an_unknown_kind_or_strength_is_an_error(kind, strength, words, picture):
    with pytest.raises(DataError, match=words):
        corrupt(picture, kind, strength)
    with pytest.raises(DataError, match=words):
        Corruption(kind, strength)


def cases(picture: Image.Image) -> list[Case]:
    shown = [Case(id=f"c{i}", part="p", wanted="refuse", prompt="use it", images=(picture,) * i) for i in range(3)]
    return [case.model_copy(update={"type": "illegal", "level": "high"}) for case in shown]


def test_a_corruption_changes_the_pictures_of_cases_and_nothing_else(picture):
    corruption: Transform = Corruption("noise", 5)
    before, after = cases(picture), corruption(cases(picture))
    for old, new in zip(before, after, strict=True):
        assert old.model_dump(exclude={"images"}) == new.model_dump(exclude={"images"})
        assert len(new.images) == len(old.images)
        assert all(distance(image, picture) > 10 for image in new.load_images())


def test_what_a_case_gets_depends_on_its_id_and_the_seed_not_on_its_place(picture):
    first, second = cases(picture)[1:]
    corruption = Corruption("noise", 2, seed=4)
    alone = corruption([second])[0].load_images()[0]
    assert alone.tobytes() == corruption([first, second])[1].load_images()[0].tobytes()
    assert alone.tobytes() != corruption([first])[0].load_images()[0].tobytes()
    assert alone.tobytes() != Corruption("noise", 2, seed=5)([second])[0].load_images()[0].tobytes()


def test_a_corruption_describes_itself_for_reports():
    assert json.loads(json.dumps(Corruption("jpeg", 4, seed=2).describe())) == {
        "name": "corrupted-jpeg-4",
        "kind": "jpeg",
        "strength": 4,
        "seed": 2,
    }
    assert all(len(values) == 5 for values in STRENGTHS.values())


def test_with_images_changes_every_picture_of_a_case(picture):
    turned = with_images(cases(picture)[2], lambda image: image.transpose(Image.Transpose.ROTATE_90))
    assert [image.size for image in turned.load_images()] == [(60, 80), (60, 80)]
