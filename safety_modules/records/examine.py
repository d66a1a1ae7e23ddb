"""Look at every picture of a data set once, in parallel; and faults that only show among several records."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from threading import Lock
from typing import Any, NamedTuple

from joblib import Parallel, delayed
from PIL import Image
from rich.progress import track

from safety_modules.errors import DataError
from safety_modules.io.optional import needed
from safety_modules.pictures import open_picture, read_bytes
from safety_modules.records.perceptual_hash import perceptual_hash
from safety_modules.records.record import Problem, Record


class Seen(NamedTuple):
    """What was seen of a record's picture."""

    digest: str | None = None  # as `Record.image_digest`; None without a picture, or where it cannot be decoded
    look: int | None = None  # perceptual hash; None where not asked for, and for plain pictures
    fault: str | None = None  # why it cannot be decoded; None if it can
    picture: Image.Image | None = None  # decoded; None where not kept


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
    if perceptual:
        needed("imagehash", "perceptual hashes")
    left, lock = keep_bytes, Lock()

    def kept(picture: Image.Image) -> Image.Image | None:
        nonlocal left
        size = 4 * picture.width * picture.height  # Pillow's own, also for three channels
        with lock:
            if size > left:
                return None
            left -= size
        return picture

    def look(record: Record) -> Seen:
        try:
            if record.image is None or isinstance(record.image, Image.Image):
                return Seen(record.image_digest(), perceptual_hash(record.load_image()) if perceptual else None)
            data = read_bytes(record.image)
            digest = hashlib.sha256(data).hexdigest()
            if digest in known and not perceptual:
                return Seen(digest)
            picture = open_picture(data, record.image)
        except DataError as error:
            return Seen(fault=str(error))
        return Seen(digest, perceptual_hash(picture) if perceptual else None, None, kept(picture))

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


def conflicts(records: Sequence[Record], seen: Sequence[Seen], sets: Sequence[object] = ()) -> dict[int, str]:
    """Why each record whose label another one of the same picture and question contradicts cannot be used.

    Args:
        records: N of them.
        seen: of each.
        sets: which set each is of, within which it is compared; empty = one set.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index in _readable(seen):
        record = records[index]
        groups[sets[index] if sets else 0, seen[index].digest, record.history, record.question].append(index)
    found = {}
    for group in groups.values():
        for index in group:
            label = _label(records[index])
            other = next((records[other] for other in group if _label(records[other]) != label), None)
            if other is not None:
                found[index] = (
                    "labels conflict: expected one label for a picture and question, got "
                    f"{' '.join(label)} here and {' '.join(_label(other))} at {other.source}. Keep one of them."
                )
    return found


def repeats(records: Sequence[Record], seen: Sequence[Seen], sets: Sequence[object] = ()) -> dict[int, str]:
    """Why each copy of a record but the first should go; as `conflicts`."""
    first: dict[tuple[object, ...], int] = {}
    found = {}
    for index in _readable(seen):
        record = records[index]
        said = (record.history, record.question, record.answer)
        key = (sets[index] if sets else 0, seen[index].digest, said, *_label(record))
        earlier = first.setdefault(key, index)
        if earlier != index:
            found[index] = (
                "repeated record: expected each picture, question and answer once, got those of "
                f"{records[earlier].source} again. Remove one of them."
            )
    return found


def mend(records: Sequence[Record], seen: Sequence[Seen]) -> tuple[list[int], list[Problem]]:
    """Indices of the records but those of unreadable pictures, conflicting labels, and repeats; a Problem for each of
    these.
    """
    faults = repeats(records, seen) | conflicts(records, seen)
    faults |= {index: one.fault for index, one in enumerate(seen) if one.fault is not None}
    good = [index for index in range(len(records)) if index not in faults]
    return good, [Problem(source=str(records[index].source), reason=faults[index]) for index in sorted(faults)]


def _readable(seen: Sequence[Seen]) -> list[int]:
    return [index for index, one in enumerate(seen) if one.fault is None]


def _label(record: Record) -> tuple[str, str]:
    return record.type, record.level
