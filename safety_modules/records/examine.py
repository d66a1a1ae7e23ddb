"""Look at every picture of a data set once, in parallel: can it be decoded, and what does it look like."""

import hashlib
from collections.abc import Callable, Iterable, Sequence, Set
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageStat
from rich.progress import track

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.pictures import open_picture, read_bytes
from safety_modules.records.record import Record

THUMBNAIL = 32
"""Side, in pixels, of the grey picture that a perceptual hash is made of (imagehash's own)."""
PLAIN = 2.0
"""Standard deviation of the thumbnail's grey levels (0 to 255) below which a picture has no perceptual hash."""


class Seen(NamedTuple):
    """What was seen of a record's picture.

    Attributes:
        digest: as `Record.image_digest`; None without a picture, or where it cannot be decoded.
        look: perceptual hash, 64 bits; None where not asked for, and for plain pictures, which all look the same.
        fault: why it cannot be decoded; None if it can.
        picture: decoded; None where not kept.
    """

    digest: str | None = None
    look: int | None = None
    fault: str | None = None
    picture: Image.Image | None = None


class _Room:
    """Memory for decoded pictures, shared by threads."""

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, Lock()

    def take(self, picture: Image.Image) -> bool:
        """Whether there is room for it too; then it is taken."""
        size = 4 * picture.width * picture.height  # Pillow's own, also for three channels
        with self._lock:
            fits = size <= self._left
            self._left -= size if fits else 0
        return fits


def examine(
    records: Sequence[Record],
    jobs: int | None = None,
    progress: bool = True,
    perceptual: bool = False,
    known: Set[str] = frozenset(),
    keep_bytes: int = 0,
) -> list[Seen]:
    """Decode the picture of every record, each distinct one once.

    Args:
        records: N of them.
        jobs: threads; None = one a core. (Pillow decodes outside Python's lock.)
        progress: show a bar.
        perceptual: compute perceptual hashes too.
        known: digests of pictures that need not be decoded, where perceptual hashes are not asked for.
        keep_bytes: memory for decoded pictures; what does not fit is not kept.

    Returns:
        N.
    """
    hashed = needed("imagehash", "perceptual hashes").phash if perceptual else None
    look = _Look(hashed, known, _Room(keep_bytes))
    places: dict[Any, int] = {}
    for index, record in enumerate(records):
        if record.image is not None:
            places.setdefault(_key(record), index)
    looks: Iterable[Seen] = Parallel(n_jobs=jobs or -1, backend="threading", return_as="generator")(
        delayed(look)(records[index]) for index in places.values()
    )
    shown = track(looks, "pictures", total=len(places), transient=True, disable=not (progress and places))
    found = dict(zip(places, shown, strict=True))
    return [Seen() if record.image is None else found[_key(record)] for record in records]


def _key(record: Record) -> Any:
    # A decoded picture cannot be hashed; it stays alive in its record meanwhile.
    return id(record.image) if isinstance(record.image, Image.Image) else record.image


class _Look(NamedTuple):
    """Looks at one picture."""

    hashed: Callable[[Image.Image], Any] | None
    known: Set[str]
    room: _Room

    def __call__(self, record: Record) -> Seen:
        try:
            if record.image is None or isinstance(record.image, Image.Image):
                return Seen(record.image_digest(), self._perceptual(record.load_image()))
            data = read_bytes(record.image)
            digest = hashlib.sha256(data).hexdigest()
            if digest in self.known and self.hashed is None:
                return Seen(digest)
            picture = open_picture(data, record.image)
        except DataError as error:
            return Seen(fault=str(error))
        return Seen(digest, self._perceptual(picture), None, picture if self.room.take(picture) else None)

    def _perceptual(self, picture: Image.Image) -> int | None:
        if self.hashed is None:
            return None
        found = perceptual_hash(picture, self.hashed)
        return None if found is None else int(np.packbits(found.hash).view(np.uint64)[0])


def perceptual_hash(picture: Image.Image, hashed: Callable[[Image.Image], Any]) -> Any:
    """The hash of a picture by one of imagehash's functions; None for plain pictures, which all look the same."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return None if ImageStat.Stat(small).stddev[0] < PLAIN else hashed(small)
