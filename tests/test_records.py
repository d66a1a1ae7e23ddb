"""Records: their pictures and their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safety_modules.errors import DataError
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


def test_digest_tells_pictures_apart_and_equal_ones_not() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert record(image=red).image_digest() == record(image=red.copy()).image_digest()
    assert record(image=red).image_digest() != record(image=blue).image_digest()
    assert record(image=red).image_digest() != record(image=Image.new("RGB", (2, 8), "red")).image_digest()


def test_records_that_do_not_fit_the_taxonomy_are_named_by_position() -> None:
    bad = [record(), record(type="weather", level="low"), record(question="see <image>")]
    with pytest.raises(DataError) as caught:
        check_records(bad, DEFAULT_TAXONOMY)
    assert "record 1: unknown type" in str(caught.value)
    assert "record 2: <image> inside the text" in str(caught.value)
    with pytest.raises(DataError, match="at least one"):
        check_records([], DEFAULT_TAXONOMY)
