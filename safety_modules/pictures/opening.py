"""A picture as a viewer sees it, in RGB as the installed transformers makes it; or why there is none.

Upright by its EXIF orientation, transparency laid on white or dropped as `transformers.image_transforms.convert_to_rgb`
does, numbers in 8 bits, and never larger than memory allows: all of that is looked at before a pixel is decoded.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from safety_modules.errors import DataError
from safety_modules.pictures.arrays import array_picture, as_array
from safety_modules.pictures.sources import is_encoded, read_bytes, source_name

FRAMES = 8
"""Frames of an animation that are looked at, at most: the first, the last, and those evenly between them."""
RESIZED_PIXELS = 2**25
"""Pixels that a processor's resize may make of a picture (100 MB in RGB)."""
SHORTER_SIDE = 336
"""What LLaVA-1.5's processor resizes the shorter side to: the measure where no base is at hand."""
READING = 2
"""Counts the ways in which this module has made pixels of files: features that were kept are known by it."""

_PARTS = ("MPO", "PSD", "ICO", "ICNS")
"""Formats of several pictures of which a viewer shows one (depth maps, layers, sizes)."""
_DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a channel begin with these."""
_OPAQUE = {"RGBa": "RGBA", "La": "LA"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Frame(NamedTuple):
    """What is looked at of a picture at a time.

    Attributes:
        picture: RGB.
        number: of the frame, from 0.
        total: frames there are; 1 where it is no animation.
    """

    picture: Image.Image
    number: int
    total: int


def open_picture(source: Any, name: object = None, frame: int = 0) -> Image.Image:
    """A picture in RGB: upright, in 8 bits, without transparency, and a copy. Opening it again changes nothing.

    Args:
        source: a path, a `data:` URI, bytes, an open file, an `EncodedImage`, an undecoded cell of a dataset (`bytes`,
            `path`), a PIL image, an array or a tensor (see `array_picture`).
        name: for messages; default: the source's own.
        frame: of an animation.

    Raises:
        DataError: it is unreadable or truncated; it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or is so thin
            that LLaVA-1.5's resize would make more than RESIZED_PIXELS of it; or its numbers are no picture's.

    Does not cover: blue and red swapped (OpenCV's arrays), which nothing tells from a picture.
    """
    with _opened(source, name) as picture:
        if not frame:
            return _finished(picture)
        at = picture.tell()
        try:
            picture.seek(frame)
            return _finished(picture)
        finally:
            picture.seek(at)


def open_frames(source: Any, name: object = None, most: int = FRAMES) -> Iterator[Frame]:
    """As `open_picture`, with more of an animation than its first frame, one after the other.

    A PIL image that stands at a later frame was put there: it is that frame alone. Frames behind one that cannot be
    decoded are not looked at.

    Args:
        source: as in `open_picture`.
        name: as in `open_picture`.
        most: frames.

    Raises:
        DataError: as `open_picture`.
    """
    with _opened(source, name) as picture:
        at = picture.tell()
        total = 1 if picture.format in _PARTS or at else int(getattr(picture, "n_frames", 1))
        yield Frame(_finished(picture), at, total)
        try:
            for number in sorted({round(place) for place in np.linspace(0, total - 1, most)} - {0}):
                try:
                    picture.seek(number)
                    frame = Frame(_finished(picture), number, total)
                except Exception:  # the rest of a damaged animation: counted as not looked at
                    return
                yield frame
        finally:
            if total > 1:
                picture.seek(0)


def unreadable(name: object, error: Exception) -> DataError:
    """What is raised for a picture that cannot be used."""
    # Pillow's own words about an unknown format name a buffer of ours; a ValueError's are a sentence.
    got = "no format it knows" if isinstance(error, UnidentifiedImageError) else str(error)
    if not isinstance(error, UnidentifiedImageError | ValueError):
        got = f"{type(error).__name__}: {error}"
    return DataError(
        f"unreadable image {name}: expected a picture Pillow can decode, got {got}. "
        "Replace the file or remove its record."
    )


def reading() -> dict[str, Any]:
    """What the pixels of a file depend on beside the processor; JSON-able."""
    clear = in_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))
    return {"reading": READING, "transparency": "white" if clear.tobytes()[0] else "dropped"}


def in_rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture in RGB, as transformers converts it; more than 8 bits a channel first in 8."""
    if picture.mode.startswith(_DEEP):
        picture = array_picture(np.asarray(picture))
    if picture.mode in _OPAQUE:
        picture = picture.convert(_OPAQUE[picture.mode])
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        return _converted()(picture)
    return picture.convert("RGB")


@contextmanager
def _opened(source: Any, name: object) -> Iterator[Image.Image]:
    """The picture as Pillow has it, not decoded yet; what is wrong with it, or is found so inside, is a DataError."""
    array = None
    if isinstance(source, Image.Image):
        name = name or f"in memory (mode {source.mode}, {source.width} x {source.height})"
    elif (array := as_array(source)) is not None:
        name = name or f"in an array of shape {array[0].shape}"
    elif is_encoded(source):
        name = name or source_name(source)
        source = BytesIO(read_bytes(source, name))
    else:
        raise DataError(
            f"no image: expected a path, bytes, a file, a PIL image, an array or a tensor, got {type(source).__name__}."
        )
    try:
        if isinstance(source, BytesIO):
            with Image.open(source) as file:
                _check_size(file.size)
                yield file
        else:
            picture = source if array is None else array_picture(*array)
            _check_size(picture.size)
            yield picture
    except Exception as error:  # on damaged files Pillow's decoders raise more kinds than it documents
        raise unreadable(name, error) from error


def _check_size(size: tuple[int, int]) -> None:
    shorter, longer = sorted(size)
    if not shorter:
        raise ValueError(f"no pixels ({size[0]} x {size[1]})")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and shorter * longer > limit:
        raise Image.DecompressionBombError(
            f"{size[0]} x {size[1]} pixels, more than {limit} (PIL.Image.MAX_IMAGE_PIXELS)"
        )
    check_resized(size, SHORTER_SIDE**2 * longer // shorter, f"with its shorter side at {SHORTER_SIDE}")


def check_resized(size: tuple[int, int], made: int, how: str) -> None:
    """Raises ValueError for a picture of which a resize would make too many pixels.

    Args:
        size: of the picture.
        made: pixels of the resized one.
        how: it is resized, for the message.
    """
    if made > RESIZED_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels, which {how} are more than {RESIZED_PIXELS}: too thin to judge")


def _finished(picture: Image.Image) -> Image.Image:
    picture.load()
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged note about the picture; viewers show it as it lies
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    done = in_rgb(picture if turn is None else picture.transpose(turn))
    done.info = {}  # or the orientation would be followed again
    return done


@lru_cache(maxsize=1)
def _converted() -> Callable[[Image.Image], Image.Image]:
    """transformers' own conversion: from 5.x on laid on white, before that dropped."""
    from transformers.image_transforms import convert_to_rgb

    if "return_numpy" in inspect.signature(convert_to_rgb).parameters:
        return lambda picture: Image.fromarray(convert_to_rgb(picture, return_numpy=True))
    return convert_to_rgb
