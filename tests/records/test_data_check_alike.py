"""Pictures that look alike: found as by comparing all, each picture decoded once and none kept."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import encoded, picture, save
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_modules.records import Record
from safety_modules.records import examine as module
from safety_modules.records.examine import Seen, examine
from safety_modules.records.images import FileSlice
from safety_modules.records.perceptual_hash import MAX_DISTANCE, distances, first_alike


def record(image: Any) -> Record:
    return Record(image=image, question="why?", answer=None, type="clean", level="safe")


@settings(deadline=None, max_examples=30)
@given(
    bases=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    flips=st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=10)), min_size=1, max_size=30),
    distance=st.integers(0, MAX_DISTANCE),
    seed=st.integers(0, 9),
)
def test_the_search_finds_what_comparing_every_pair_finds(
    bases: list[int], flips: list[tuple[int, set[int]]], distance: int, seed: int
) -> None:
    values = [bases[base % len(bases)] ^ sum(1 << bit for bit in bits) for base, bits in flips]
    hashes = np.array(values, dtype=np.uint64)
    among = np.random.default_rng(seed).random(len(values)) < 0.7
    wanted = [
        next((j for j, b in enumerate(values) if among[j] and (a ^ b).bit_count() <= distance), len(values))
        for a in values
    ]
    assert first_alike(hashes, among, distance).tolist() == wanted


def test_distances_are_bits_that_differ() -> None:
    a = np.array([0, 0b1011, 2**64 - 1], dtype=np.uint64)
    b = np.array([0, 0b0001, 0], dtype=np.uint64)
    assert distances(a, b).tolist() == [0, 2, 64]


def test_a_hundred_thousand_pictures_are_compared_without_all_pairs() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[-1] = hashes[7] ^ np.uint64(0b1111)
    found = first_alike(hashes, np.ones(len(hashes), bool), 4)  # all pairs would take minutes and gigabytes
    assert np.flatnonzero(found != np.arange(len(hashes))).tolist() == [len(hashes) - 1]
    assert found[-1] == 7


def test_size_and_encoding_do_not_change_how_a_picture_looks(tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    picture(1, 160).save(tmp_path / "large.jpg", quality=70)
    names = [save(tmp_path / "a.png", 1), tmp_path / "large.jpg", save(tmp_path / "b.png", 2)]
    looks = np.array([one.look for one in examine([record(p) for p in names], None, False, True)], dtype=np.uint64)
    assert distances(looks[[0]], looks[[1]])[0] <= 4
    assert distances(looks[[0]], looks[[2]])[0] > 15


def test_each_distinct_picture_is_decoded_once_and_none_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    at_once, calls = [], []

    def alive() -> int:
        return sum(reference() is not None for reference in made)

    def opened(data: bytes, name: object) -> Any:
        found = picture(int(name.stem))  # type: ignore[attr-defined]
        made.append(weakref.ref(found))
        calls.append(name)
        at_once.append(alive())
        return found

    monkeypatch.setattr(module, "open_picture", opened)
    paths = [save(tmp_path / f"{number}.png", number) for number in range(40)]
    records = [record(path) for path in paths for _ in range(3)]
    seen = examine(records, jobs=2, progress=False)
    assert len(calls) == 40
    assert max(at_once) <= 6
    assert not alive()
    assert [one.digest for one in seen] == [one.image_digest() for one in records]


def test_any_number_of_threads_sees_the_same(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(encoded(3)[:100])
    whole = tmp_path / "all"
    whole.write_bytes(encoded(1) + encoded(2))
    slices = [FileSlice(whole, 0, len(encoded(1)), "one"), FileSlice(whole, len(encoded(1)), 10**6, "two")]
    records = [record(image) for image in (None, broken, *slices, picture(4), save(tmp_path / "5.png", 5))]
    seen = examine(records, jobs=1, progress=False)
    assert seen == examine(records, jobs=4, progress=False)
    assert seen[0] == Seen()
    assert [one.fault is None for one in seen] == [True, False, True, False, True, True]
    assert "unreadable image two: expected its bytes" in str(seen[3].fault)
