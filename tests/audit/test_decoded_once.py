"""Every picture is decoded once: what the check has decoded or the cache holds is not decoded again."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data_samples import row, save, write_csv
from PIL import Image
from typer.testing import CliRunner

from safety_modules import attach_safety, pocket
from safety_modules.cli import app, reading
from safety_modules.errors import DataError
from safety_modules.pictures import open_picture as real_open
from safety_modules.records import read_good_records
from safety_modules.training.features import cache_features, known_pictures

RECIPE = "stage: 1\nsteps: 2\nbatch_size: 2\nlearning_rate: 1.0e-3\n"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture is decoded."""
    counts: Counter[str] = Counter()

    def opened(data: bytes, name: object) -> Image.Image:
        counts[Path(str(name)).name] += 1
        return real_open(data, name)

    for module in ("examine", "record"):
        monkeypatch.setattr(f"safety_modules.records.{module}.open_picture", opened)
    return counts


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Any, processor: Any) -> Path:
    """Four pictures, one of them asked about twice; the tiny base stands in for pocket."""
    monkeypatch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
    rows = [row(f"{save(tmp_path / f'{seed}.png', seed).name}", answer="") for seed in range(2)]
    rows += [row(f"{save(tmp_path / f'{seed}.png', seed).name}", type="clean", level="safe") for seed in (2, 3)]
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return write_csv(tmp_path / "data.csv", [*rows, row("0.png", question="why?")])


def train(data: Path, *more: object) -> None:
    words = ["train", "--out", data.parent / "new", "--data", data, "--recipe", data.parent / "recipe.yaml", *more]
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


ONCE = {f"{seed}.png": 1 for seed in range(4)}


def test_training_decodes_every_picture_once_and_with_a_cache_never_again(data: Path, decoded: Counter[str]) -> None:
    train(data, "--cache", data.parent / "features")
    assert decoded == ONCE
    train(data, "--cache", data.parent / "features", "--overwrite")
    assert decoded == ONCE


def test_what_memory_has_no_room_for_is_decoded_again(
    data: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "KEPT_BYTES", 4 * 64 * 64)  # of one picture
    train(data)
    assert sorted(decoded.values()) == [1, 2, 2, 2]


def test_a_picture_that_is_in_the_cache_still_counts_for_repetitions(data: Path, model: Any, processor: Any) -> None:
    backbone, cache = attach_safety(model, processor).backbone, data.parent / "cache"
    assert known_pictures(backbone, cache) == known_pictures(backbone, None) == frozenset()
    cache_features(backbone, read_good_records(data, progress=False).records, cache, progress=False)
    known = known_pictures(backbone, cache)
    assert len(known) == 4
    write_csv(data, [row("0.png"), row("0.png")])
    assert "repeated record" in read_good_records(data, progress=False, known=known).left_out[0].reason


def test_kept_pictures_are_let_go(data: Path, model: Any, processor: Any) -> None:
    backbone = attach_safety(model, processor).backbone
    good = read_good_records(data, progress=False, keep_bytes=10**9)
    assert len(good.pictures) == 4
    fresh = cache_features(backbone, good.records, progress=False)
    kept = cache_features(backbone, good, progress=False)
    assert not good.pictures
    digests = [digest for digest in good.digests if digest is not None]
    assert fresh.batch(digests).equal(kept.batch(digests))


def test_a_picture_that_changes_after_the_check_is_refused(data: Path, model: Any, processor: Any) -> None:
    good = read_good_records(data, progress=False)
    save(data.parent / "1.png", 9)
    with pytest.raises(DataError, match=r"data\.csv:3: image changed: expected .*1\.png as it was"):
        cache_features(attach_safety(model, processor).backbone, good, progress=False)
