"""Hugging Face datasets and Parquet: local files only, as everywhere in the tests."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from data_samples import encoded, row, save, write_csv

from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, read_records
from safety_modules.records.images import DatasetCell, FileSlice, reference

datasets = pytest.importorskip("datasets")
WORDS = {name: datasets.Value("string") for name in ("type", "level", "question", "answer")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def dataset(*rows: dict[str, Any], **features: Any) -> Any:
    """Rows with pictures, encoded in the dataset."""
    return datasets.Dataset.from_list(
        list(rows), features=datasets.Features({"image": datasets.Image(), **WORDS, **features})
    )


def inside(seed: int = 1) -> dict[str, Any]:
    return {"bytes": encoded(seed), "path": None}


def saved(folder: Path, *rows: dict[str, Any], **features: Any) -> Path:
    dataset(*rows, **features).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def test_a_saved_dataset_gives_records_whose_pictures_stay_in_it(tmp_path: Path) -> None:
    path = saved(tmp_path, row(inside(1)), row(None, type="clean", level=None, answer=None), row(inside(2)))
    first, second, third = read_records(path)
    assert isinstance(first.image, DatasetCell) and first.image_digest() != third.image_digest()
    assert (first.type, first.level, first.source) == ("illegal", "high", f"{path} row 0")
    assert (second.image, second.level, second.answer) == (None, "safe", None)
    assert pickle.loads(pickle.dumps(third)).load_image().size == (64, 64)  # noqa: S301 (our own)


def test_class_labels_are_names_and_minus_one_is_none(tmp_path: Path) -> None:
    kinds = {
        "type": datasets.ClassLabel(names=["illegal", "clean"]),
        "level": datasets.ClassLabel(names=["high", "safe"]),
    }
    risky, clean = read_records(
        saved(tmp_path, row(inside(), type=0, level=0), row(inside(), type=1, level=-1), **kinds)
    )
    assert (risky.type, risky.level, clean.type, clean.level) == ("illegal", "high", "clean", "safe")


def test_class_labels_with_other_names_and_bare_numbers_are_refused(tmp_path: Path) -> None:
    kinds = {"type": datasets.ClassLabel(names=["weapons", "clean"])}
    with pytest.raises(DataError, match=r"row 0: unknown type: expected one of politics, .*, got 'weapons'"):
        read_records(saved(tmp_path, row(inside(), type=0), **kinds))
    numbers = {"type": datasets.Value("int64")}
    dataset(row(inside(), type=1), **numbers).to_parquet(str(tmp_path / "numbers.parquet"))
    with pytest.raises(DataError, match="row 0: type: expected words, got 1"):
        read_records(tmp_path / "numbers.parquet")


def test_parquet_may_name_files_or_hold_pictures(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    datasets.Dataset.from_list([row("a.png")]).to_parquet(str(tmp_path / "names.parquet"))
    dataset(row(inside(1))).to_parquet(str(tmp_path / "pictures.parquet"))
    (named,), (held,) = read_records(tmp_path / "names.parquet"), read_records(tmp_path / "pictures.parquet")
    assert named.image == tmp_path / "a.png"
    assert named.load_image().tobytes() == held.load_image().tobytes()


def test_local_files_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for split in ("train", "test"):
        dataset(row(inside(), question=split)).to_parquet(str(folder / f"{split}-00000.parquet"))
    with pytest.raises(DataError, match=r"expected one split, got (train, test|test, train)\. Name one: .*files:t"):
        read_records(folder, ReadOptions(format="hf"))
    (found,) = read_records(f"{folder}:test", ReadOptions(format="hf"))
    assert (found.question, found.source) == ("test", f"{folder}:test row 0")


def test_a_stream_gives_the_same_records_and_leaves_no_file_behind(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    dataset(row(inside(1)), row(None), row(inside(2))).to_parquet(str(folder / "train.parquet"))
    stored = read_records(folder, ReadOptions(format="hf"))
    streamed = read_records(folder, ReadOptions(format="hf", streaming=True))
    assert [one.question for one in streamed] == [one.question for one in stored]
    assert streamed[1].image is None
    assert [streamed[at].image_digest() for at in (0, 2)] == [stored[at].image_digest() for at in (0, 2)]
    image = streamed[0].image
    assert isinstance(image, FileSlice)
    waiting = image.path
    assert waiting.is_file()
    del image, streamed
    assert not waiting.exists()


def test_tables_of_file_names_in_a_local_folder_are_read_and_streamed(tmp_path: Path) -> None:
    save(tmp_path / "files" / "a.png", 1)
    write_csv(tmp_path / "files" / "train.csv", [row(), row("", type="clean", level="safe")])
    for streaming in (False, True):
        shown, told = read_records(tmp_path / "files", ReadOptions(format="hf", streaming=streaming))
        assert (shown.image, told.image) == (tmp_path / "files" / "a.png", None)


def test_a_hub_address_is_read_with_its_split_and_no_code_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(name: str, **options: Any) -> Any:
        calls.append((name, options))
        return dataset(row(inside()))

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    for address, split in (("hf://someone/something", "train"), ("hf://someone/something:test", "test")):
        (found,) = read_records(address)
        assert found.source == f"{address} row 0"
        assert calls.pop() == ("someone/something", {"split": split, "streaming": False})
    read_records("hf://someone/something", ReadOptions(streaming=True))
    assert calls.pop()[1]["streaming"] is True


def test_a_hub_address_never_reads_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someone" / "something").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="expected a name on the hub, got a folder someone/something here as well"):
        read_records("hf://someone/something:train")


def test_a_dataset_that_cannot_be_opened_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    with pytest.raises(DataError, match=r"expected a dataset at hf://someone/gone, got ConnectionError: no network"):
        read_records("hf://someone/gone")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet not read: expected a Parquet file"):
        read_records(tmp_path / "bad.parquet")
    datasets.DatasetDict({"train": dataset(row(inside()))}).save_to_disk(str(tmp_path / "several"))
    with pytest.raises(DataError, match="expected one split, got a folder of several"):
        read_records(tmp_path / "several")
    assert len(read_records(tmp_path / "several" / "train")) == 1


def test_a_picture_that_is_nowhere_is_a_fault_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="expected bytes or a path in the cell, got neither"):
        reference({"bytes": None, "path": None}, "here", tmp_path)
    rows = [row(inside()), row({"bytes": None, "path": str(tmp_path / "gone.png")})]
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: dataset(*rows).to_iterable_dataset())
    with pytest.raises(DataError, match=r"row 1: image: expected a file, got nothing at .*gone\.png"):
        read_records("hf://someone/something", ReadOptions(streaming=True))


def test_a_stream_that_breaks_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        yield row(None)
        raise ConnectionError("cut off")

    features = datasets.Features({"image": datasets.Image(), **WORDS})
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train"])
    stream = datasets.IterableDataset.from_generator(broken, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: stream)
    with pytest.raises(DataError, match=r"expected a dataset at hf://someone/something, got .*cut off"):
        read_records("hf://someone/something", ReadOptions(streaming=True))


def test_missing_columns_and_other_pictures_are_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"image": "a.png", "type": "clean"}]).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"expected the columns .* \(without level, question, answer\)"):
        read_records(tmp_path / "a.parquet")
    datasets.Dataset.from_list([row(7)]).to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(DataError, match="expected pictures or file names in image"):
        read_records(tmp_path / "b.parquet")
