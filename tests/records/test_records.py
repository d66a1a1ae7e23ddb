"""Records: their pictures and their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safety_modules.errors import DataError
from safety_modules.records.images import FileSlice
from safety_modules.records.record import Record, check_records
from safety_modules.taxonomy import DEFAULT_TAXONOMY


def record(**changes: Any) -> Record:
    return Record(**{"image": None, "question": "why?", "answer": None, "type": "clean", "level": "safe", **changes})


def test_unreadable_image_is_an_error_never_a_black_picture(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    assert record(image=path).load_image().size == (8, 8)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="unreadable image"):
        record(image=path).load_image()
    with pytest.raises(DataError, match="no image"):
        record().load_image()


@pytest.mark.parametrize("words", ["<image> why?", "a\ud83d", " "])
def test_words_of_the_history_are_checked_like_the_question(words: str) -> None:
    good = record(history=(("what?", "a cup"),))
    assert check_records([good], DEFAULT_TAXONOMY) == [good]
    for exchange in ((words, "a cup"), ("what?", words)):
        with pytest.raises(DataError, match=r"<image> inside|half a character|empty turn"):
            check_records([record(history=(exchange,))], DEFAULT_TAXONOMY)


def test_digest_tells_pictures_apart_and_equal_ones_not() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert record(image=red).image_digest() == record(image=red.copy()).image_digest()
    assert record(image=red).image_digest() != record(image=blue).image_digest()
    assert record(image=red).image_digest() != record(image=Image.new("RGB", (2, 8), "red")).image_digest()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_pillow_allows_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    with pytest.raises(DataError, match="DecompressionBombError: 40 x 40 pixels, more than 1599"):
        record(image=tmp_path / "large.png").load_image()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    assert record(image=tmp_path / "large.png").load_image().size == (40, 40)


def test_a_file_that_is_no_picture_is_named_without_our_insides(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(DataError, match=r"notes.png: expected a picture Pillow can decode, got no format it knows\."):
        record(image=tmp_path / "notes.png").load_image()


def test_a_picture_inside_a_file_is_the_picture_and_may_be_cut_off(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    (tmp_path / "many").write_bytes(b"..." + data)
    inside = FileSlice(tmp_path / "many", 3, len(data), "many:red")
    alone = record(image=tmp_path / "red.png")
    assert record(image=inside).image_digest() == alone.image_digest()
    assert record(image=inside).load_image().tobytes() == alone.load_image().tobytes()
    with pytest.raises(DataError, match="unreadable image many:red: expected its bytes, got expected"):
        record(image=FileSlice(tmp_path / "many", 4, len(data), "many:red")).load_image()


def test_records_are_named_by_their_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.csv:7: unknown type"):
        check_records([record(type="weather", level="low", source="data.csv:7")], DEFAULT_TAXONOMY)


def test_records_that_do_not_fit_the_taxonomy_are_named_by_position() -> None:
    bad = [record(), record(type="weather", level="low"), record(question="see <image>")]
    with pytest.raises(DataError) as caught:
        check_records(bad, DEFAULT_TAXONOMY)
    assert "record 1: unknown type" in str(caught.value)
    assert "record 2: <image> inside the text" in str(caught.value)
    with pytest.raises(DataError, match="at least one"):
        check_records([], DEFAULT_TAXONOMY)
