"""Perceptual hashes that differ in few bits, found without comparing every pair."""

from itertools import combinations, pairwise

import numpy as np

BITS = 64
MAX_DISTANCE = 8
"""The largest distance that is searched for quickly."""


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


_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.int64)


def _bands(count: int) -> list[int]:
    """Masks of `count` bands that cover all bits."""
    edges = [BITS * number // count for number in range(count + 1)]
    return [(1 << high) - (1 << low) for low, high in pairwise(edges)]
