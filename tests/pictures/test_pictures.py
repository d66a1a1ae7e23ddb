"""The one way from files, objects and numbers to pixels."""

import base64
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import encoded, picture, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaProcessor
from transformers.image_utils import load_image

from safety_modules.errors import DataError
from safety_modules.pictures import FRAMES, open_frames, open_picture, read_bytes, reading
from safety_modules.pictures.arrays import array_picture, eight_bits
from safety_modules.records.record import Record

ORIENTATION = 0x0112
LOSSLESS = {"png": {}, "webp": {"lossless": True}, "tiff": {}, "bmp": {}}
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def wide() -> Image.Image:
    return picture(3).crop((0, 0, 60, 40))


def stored(path: Path, orientation: int, image: Image.Image | None = None, **options: Any) -> Path:
    """As a camera that was held so saves what a viewer then shows as `image`."""
    exif, turn = Image.Exif(), STORED[orientation]
    exif[ORIENTATION] = orientation
    image = wide() if image is None else image
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, **options)
    return path


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.matrix
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "webp", "tiff", "jpg"])
def test_a_picture_is_upright_whoever_opens_it_and_stays_so(tmp_path: Path, orientation: int, ending: str) -> None:
    path = stored(tmp_path / f"a.{ending}", orientation, **LOSSLESS.get(ending, {"quality": 100, "subsampling": 0}))
    found = open_picture(path)
    assert found.size == (60, 40)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wide())).max() <= (6 if ending == "jpg" else 0)
    assert same(found, load_image(str(path)).convert("RGB"))
    for other in (path.read_bytes(), Image.open(path), Image.open(path).copy(), found):
        assert same(open_picture(other), found)


@pytest.mark.matrix
def test_transparency_is_what_the_processor_makes_of_it(processor: LlavaProcessor) -> None:
    ink = np.zeros((40, 40, 4), np.uint8)
    ink[10:30, 10:30, 3], ink[..., 0] = 200, 90
    clear = Image.fromarray(ink)
    table = clear.convert("RGB").quantize(8)
    forms: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (clear, "PNG", {}),
        (clear, "WEBP", {"lossless": True, "exact": True}),
        (clear, "TIFF", {}),
        (clear, "ICO", {"sizes": [(40, 40)]}),
        (clear.convert("LA"), "PNG", {}),
        (table, "PNG", {"transparency": 0}),
        (table, "PNG", {"transparency": bytes([0, 128])}),
        (table, "GIF", {"transparency": 0}),
        (clear.convert("RGB"), "PNG", {"transparency": (90, 0, 0)}),
        (clear.convert("L"), "PNG", {"transparency": 27}),
    ]
    for image, format, options in forms:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        with warnings.catch_warnings():  # Pillow warns where transformers 4.57 drops transparency
            warnings.simplefilter("ignore")
            base = processor.image_processor(images=[Image.open(buffer)], return_tensors="np")["pixel_values"]
            mine = open_picture(buffer.getvalue())
        ours = processor.image_processor(images=[mine], return_tensors="np")["pixel_values"]
        assert np.array_equal(base, ours), (format, image.mode, options)
    corner = open_picture(clear).getpixel((0, 0))
    assert corner == {"white": (255, 255, 255), "dropped": (90, 0, 0)}[reading()["transparency"]]


def test_pixels_of_every_mode_are_those_of_its_file(tmp_path: Path) -> None:
    for mode, ending in (("1", "png"), ("L", "png"), ("P", "png"), ("CMYK", "tiff"), ("YCbCr", "tiff"), ("PA", None)):
        image = wide().convert("P").convert("PA") if mode == "PA" else wide().convert(mode)
        assert open_picture(image).mode == "RGB"
        if ending is not None:
            image.save(tmp_path / f"{mode}.{ending}")
            assert same(open_picture(tmp_path / f"{mode}.{ending}"), image.convert("RGB"))


@given(
    st.sampled_from(["uint8", "bool", "uint16", "int32", "int64", "float16", "float32", "float64"]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_numbers_of_every_type_are_the_picture_that_was_meant(dtype: str, seed: int, first: bool) -> None:
    meant = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    meant[0, 0], meant[0, 1] = 255, 0
    values: dict[str, Any] = {"uint16": meant.astype(np.uint16) * 257, "bool": meant > 127}
    array = values.get(dtype, meant / 255 if "float" in dtype else meant).astype(dtype)
    wanted = np.where(meant > 127, 255, 0) if dtype == "bool" else meant
    array = np.moveaxis(array, -1, 0) if first else array
    assert np.array_equal(np.asarray(open_picture(array)), wanted)
    if dtype != "uint16":
        assert np.array_equal(np.asarray(open_picture(torch.from_numpy(np.ascontiguousarray(array)))), wanted)


def test_deep_files_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = wide().convert("L")
    levels = np.asarray(grey)
    for values, name in (
        (levels.astype(np.uint16) * 257, "deep.png"),
        (levels.astype(np.float32) / 255, "unit.tiff"),
        (levels.astype(np.float32), "byte.tiff"),
        (levels.astype(np.int32) * 257, "long.tiff"),
    ):
        Image.fromarray(values).save(tmp_path / name)
        for source in (tmp_path / name, Image.fromarray(values), values):
            assert same(open_picture(source), grey.convert("RGB")), name


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full((4, 4, 3), np.nan, np.float32), "NaN or infinity"),
        (np.full((4, 4, 3), 1.5, np.float32), "normalised"),
        (np.linspace(-2, 2, 48).reshape(4, 4, 3), "normalised"),
        (np.full((4, 4, 3), 300.0), "not of 0 to 1 or 0 to 255"),
        (np.full((4, 4, 3), -1), "not of 0 to 255 or 0 to 65535"),
        (np.full((4, 4, 3), 70000), "not of 0 to 255 or 0 to 65535"),
        (np.full((4, 4, 3), 1j), "values of type complex128"),
        (np.zeros((5, 4, 2), np.uint8), "shape"),
        (np.zeros((5, 6, 7), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_numbers_that_are_no_picture_are_refused_in_a_sentence(values: np.ndarray, why: str) -> None:
    with pytest.raises(DataError, match=why):
        open_picture(values)
    with pytest.raises(DataError, match="unreadable image in an array of shape"):
        open_picture(torch.from_numpy(values))


def test_floats_that_left_their_range_by_rounding_are_taken_and_by_more_refused() -> None:
    assert eight_bits(np.array([[-1e-4, 1 + 1e-4]], np.float32)).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match=r"values of 0 to 1\.2"):
        eight_bits(np.array([[0, 1.2]], np.float64))


def test_a_shape_that_fits_both_is_read_as_its_library_means_it() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 80, 3), dtype=np.uint8)
    assert open_picture(values).size == (80, 3)
    assert open_picture(torch.from_numpy(values)).size == (3, 80)
    assert array_picture(values[..., :1]).mode == "L"


def test_a_picture_is_the_same_from_wherever_it_comes(tmp_path: Path) -> None:
    path, data = save(tmp_path / "a.png", 1), encoded(1)
    with path.open("rb") as file:
        for source in (
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            io.BytesIO(data),
            file,
            {"bytes": data, "path": None},
            {"bytes": None, "path": str(path)},
            f"data:image/png;base64,{base64.b64encode(data).decode()}",
            picture(1),
            np.asarray(picture(1)),
        ):
            assert same(open_picture(source), picture(1)), type(source)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("https://example.org/a.png", "an address, which is not fetched"),
        ("s3://bucket/a.png", "an address, which is not fetched"),
        ("a" * 5000, "unreadable image aaa"),
        ("nul\0byte.png", "unreadable image nul"),
        ("/nowhere/a.png", "No such file"),
        (".", "unreadable image ."),
        ("data:image/png;base64,###", "unreadable image data:"),
        ("data:image/png,plain", "not base64"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        (io.StringIO("words"), "binary mode"),
        (b"", "no format it knows"),
        (3, "no image: expected a path"),
        (None, "no image: expected a path"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(source: Any, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        open_picture(source)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("size", [(1, 80_000), (80_000, 1), (2, 1200)])
def test_a_picture_too_thin_to_resize_is_refused_before_it_is_decoded(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image = tmp_path / "thin.png", Image.new("RGB", size)
    image.save(path)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    for source in (path, image):
        with pytest.raises(DataError, match="too thin to judge"):
            open_picture(source)


def test_a_picture_that_was_handed_in_is_left_as_it_was(tmp_path: Path) -> None:
    image = Image.open(stored(tmp_path / "a.jpg", 6))
    before, found = image.info.copy(), open_picture(image)
    assert image.info == before and image.size == (40, 60) and found is not image
    plain = picture(1)
    open_picture(plain).paste("red", (0, 0, 64, 64))
    assert same(plain, picture(1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_orientation_is_none(tmp_path: Path) -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*" + struct.pack(">IHHHI", 8, 1, ORIENTATION, 2, 99)):
        buffer = io.BytesIO()
        wide().save(buffer, "PNG", exif=exif)
        assert same(open_picture(buffer.getvalue()), wide())


def test_records_tell_decoded_pictures_apart_as_a_viewer_does(tmp_path: Path) -> None:
    def digest(image: Image.Image) -> str:
        return Record(image=image, question="", answer=None, type="clean", level="safe").image_digest()

    turned, lying = Image.open(stored(tmp_path / "a.png", 6)), wide().transpose(Image.Transpose.ROTATE_90)
    assert digest(turned) == digest(wide()) != digest(lying)


FRAME_COUNT = 20


def animation(path: Path, count: int = FRAME_COUNT, **options: Any) -> Path:
    frames = [Image.new("RGB", (16, 16), (10 * number, 0, 0)) for number in range(count)]
    more = {"duration": 50} if path.suffix in (".gif", ".webp", ".png") else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **more, **options)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_frames_of_an_animation_are_taken_evenly_first_and_last_among_them(tmp_path: Path, name: str) -> None:
    path = animation(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    for source in (path, path.read_bytes(), Image.open(path)):
        frames = list(open_frames(source))
        numbers = [frame.number for frame in frames]
        assert len(frames) == FRAMES and numbers[0] == 0 and numbers[-1] == FRAME_COUNT - 1
        assert max(np.diff(numbers)) - min(np.diff(numbers)) <= 1
        assert {frame.total for frame in frames} == {FRAME_COUNT}
        assert [frame.picture.getpixel((8, 8))[0] for frame in frames] == [10 * number for number in numbers]
        assert same(open_picture(source, frame=numbers[3]), frames[3].picture)
        assert same(open_picture(source), frames[0].picture)
    assert len(list(open_frames(animation(tmp_path / f"short{path.suffix}", 3)))) == 3


def test_an_open_animation_stays_where_it_stood_and_stands_for_that_frame(tmp_path: Path) -> None:
    image = Image.open(animation(tmp_path / "a.gif"))
    list(open_frames(image))
    assert image.tell() == 0
    image.seek(7)
    (frame,) = open_frames(image)
    assert frame.picture.getpixel((0, 0))[0] == 70 and image.tell() == 7


def test_a_damaged_animation_shows_what_can_be_seen_of_it(tmp_path: Path) -> None:
    data = animation(tmp_path / "a.webp", 12).read_bytes()
    frames = list(open_frames(animation(tmp_path / "b.png", 12).read_bytes()[:-200]))
    assert 1 <= len(frames) < 12 and frames[0].total == 12
    with pytest.raises(DataError):
        list(open_frames(data[:60]))


def test_of_files_of_parts_the_first_is_the_picture(tmp_path: Path) -> None:
    wide().save(tmp_path / "a.mpo", save_all=True, append_images=[picture(1)], quality=95)
    (frame,) = open_frames(tmp_path / "a.mpo")
    assert frame.total == 1 and frame.picture.size == wide().size


def test_bytes_are_read_by_whoever_has_them() -> None:
    assert read_bytes({"bytes": b"abc", "path": "a"}) == read_bytes(io.BytesIO(b"abc")) == b"abc"
