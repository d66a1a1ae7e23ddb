"""Perceptual hashes of pictures, and which of many differ in few bits."""

from itertools import combinations, pairwise

import numpy as np
from PIL import Image, ImageStat

from safety_modules.io.optional import needed

BITS = 64
DISTANCE = 4
"""Bits in which the hashes of two pictures that look the same may differ."""
THUMBNAIL = 32
"""Side, in pixels, of the grey picture that a perceptual hash is made of (imagehash's own)."""
PLAIN = 2.0
"""Standard deviation of the thumbnail's grey levels (0 to 255) below which a picture has no perceptual hash."""
MAX_DISTANCE = 8
"""The largest distance that is searched for quickly."""
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.int64)


def perceptual_hash(picture: Image.Image) -> int | None:
    """A picture's pHash, 64 bits; None for plain pictures, which all look the same."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    if ImageStat.Stat(small).stddev[0] < PLAIN:
        return None
    return int(str(needed("imagehash", "perceptual hashes").phash(small)), 16)


def first_alike(hashes: np.ndarray, among: np.ndarray, max_distance: int) -> np.ndarray:
    """For each hash, the first of some others that is at most `max_distance` bits away.

    Two hashes that differ in at most d bits agree wholly in at least two of d + 2 bands of bits, so only hashes with
    two equal bands are compared: exact, and near linear where few hashes share two bands.

    Args:
        hashes: (N,) uint64.
        among: (N,) bool: which of them may be found.
        max_distance: in bits, 0 to MAX_DISTANCE.

    Returns:
        (N,) indices into `hashes`; N where there is none. A hash that is itself `among` them finds itself, unless an
        earlier one is alike.
    """
    none = len(hashes)
    distinct, place = np.unique(hashes, return_inverse=True)
    own = np.full(len(distinct), none)
    np.minimum.at(own, place[among], np.flatnonzero(among))
    best = own.copy()
    for bands in combinations(_bands(max_distance + 2), 2):
        band = distinct & np.uint64(sum(bands))
        order = np.argsort(band, kind="stable")
        band = band[order]
        left, step = np.arange(len(order)), 0
        while len(left):  # pairs (i, i + step) in this order, as long as any agree
            step += 1
            left = left[left + step < len(order)]
            left = left[band[left] == band[left + step]]
            a, b = order[left], order[left + step]
            close = distances(distinct[a], distinct[b]) <= max_distance
            np.minimum.at(best, a[close], own[b[close]])
            np.minimum.at(best, b[close], own[a[close]])
    found: np.ndarray = best[place]
    return found


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which hashes differ; (N,) uint64 each -> (N,) integers."""
    differ = np.ascontiguousarray(a ^ b).view(np.uint8).reshape(-1, BITS // 8)
    count: np.ndarray = _ONES[differ].sum(1)
    return count


def _bands(count: int) -> list[int]:
    """Masks of `count` bands that cover all bits."""
    edges = [BITS * number // count for number in range(count + 1)]
    return [(1 << high) - (1 << low) for low, high in pairwise(edges)]
