"""Datasets as streams of rows, labelled or not."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from data_samples import (
    encoded,
    llava,
    published,
    save,
    vlguard_safe,
    vlguard_unsafe,
    write_json,
    write_jsonl,
    write_tar,
)

from safety_modules.errors import DataError
from safety_modules.pictures import open_picture, read_bytes
from safety_modules.records import read_records
from safety_modules.records.formats import FORMATS, text
from safety_modules.records.formats.base import Row
from safety_modules.records.images import EncodedImage
from safety_modules.records.readers import recognise
from safety_modules.records.source import ReadOptions, Source
from safety_modules.taxonomy import DEFAULT_TAXONOMY

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def source(path: Any, **options: Any) -> Source:
    return Source(str(path), DEFAULT_TAXONOMY, ReadOptions(**options))


def rows(where: Source, pictures: bool = True) -> Iterator[Row]:
    return FORMATS[recognise(where, strict=False)].rows(where, pictures)


def read(path: Any, **options: Any) -> list[Row]:
    """Every row; its pictures can be decoded, and a count without pictures is the same."""
    where = source(path, **options)
    found = list(rows(where))
    for row in found:
        if row.image is not None:
            assert isinstance(row.image, Path | EncodedImage)
            open_picture(row.image)
    assert sum(1 for _ in rows(where, pictures=False)) == len(found)
    return found


def test_a_folder_of_pictures_needs_no_labels_and_takes_those_of_class_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("b.png", "a/deep/x.png", "clean/y.png", "illegal/high/z.png", ".hidden/h.png")):
        save(tmp_path / name, number)
    (tmp_path / "notes.txt").write_text("x")
    where = source(tmp_path, question="what is it?")
    found = list(rows(where))
    names = ["b.png", "a/deep/x.png", "clean/y.png", "illegal/high/z.png"]
    assert [row.source for row in found] == [str(tmp_path / name) for name in names]
    assert [row.label for row in found] == [None, None, "clean", "illegal"]
    assert {row.question for row in found} == {"what is it?"}
    assert where.left_out == {"files that are no pictures": 1, "hidden files and folders": 1}


def test_conversations_become_a_row_for_each_question_with_the_places_training_names(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    talk = llava()
    talk["conversations"] += [{"from": "human", "value": "and now?"}, {"from": "gpt", "value": "tea"}]
    path = write_json(tmp_path / "data.json", [talk, llava(image=None)])
    found = read(path)
    trained = read_records(path)
    assert [(row.source, row.question, row.answer) for row in found] == [
        (record.source, record.question, record.answer) for record in trained
    ]
    assert [row.image for row in found] == [record.image for record in trained]
    assert [row.label for row in found] == [None] * 3, "LLaVA's data says nothing of risk"


def test_published_labels_are_taken_and_a_faulty_line_is_a_row_with_its_reason(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    lines = [published(type=1), published(type=99), {"image": "a.png"}, "{bad", published(image="gone.png"), "3"]
    found = list(rows(source(write_jsonl(tmp_path / "d.jsonl", lines))))
    assert [row.label for row in found] == ["illegal", None, None, None, "illegal", None]
    assert [row.fault is None for row in found] == [True, True, True, False, False, False]
    assert [row.source.rpartition(":")[2] for row in found] == list("123456")
    assert "gone.png" in str(found[4].fault)


def test_vlguard_is_read_with_its_categories(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, 1)
    found = read(write_json(tmp_path / "train.json", [vlguard_safe(), vlguard_unsafe()]))
    assert [row.label for row in found] == ["clean", None, "privacy"]
    assert [row.question for row in found] == ["what is shown?", "who lives here?", "read this card"]


def test_tables_need_only_pictures(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(seed), "path": None} for seed in range(3)]
    pq.write_table(pa.table({"image": cells, "extra": [1, 2, 3]}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [row.source for row in found] == [f"{tmp_path}/a.parquet row {number}" for number in range(3)]
    save(tmp_path / "x.png", 0)
    (tmp_path / "t.csv").write_text('image,question\nx.png,"how\nso?"\nx.png,\n')
    assert [(row.source[-2:], row.question) for row in read(tmp_path / "t.csv")] == [(":2", "how\nso?"), (":4", None)]
    (tmp_path / "u.csv").write_text("picture\nx.png\n")
    with pytest.raises(DataError, match="expected a column image, got picture"):
        read(tmp_path / "u.csv")


def test_parquet_may_be_many_files_with_conversations_and_named_classes(tmp_path: Path) -> None:
    kinds = datasets.ClassLabel(names=["clean", "illegal"])
    for number in range(2):
        talk = [llava()["conversations"]] * 2
        cells = [{"bytes": encoded(seed), "path": None} for seed in range(2)]
        features = {
            "image": datasets.Image(),
            "type": kinds,
            "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
        }
        table = {"image": cells, "type": [1, -1], "conversations": talk}
        made = datasets.Dataset.from_dict(table, datasets.Features(features))
        made.to_parquet(tmp_path / f"p{number}.parquet")
    found = read(f"{tmp_path}/p*.parquet")
    assert [row.label for row in found] == ["illegal", None] * 2
    assert {row.question for row in found} == {"what is this?"}
    assert found[2].source == f"{tmp_path}/p1.parquet row 0"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_dataset_is_read_row_by_row(tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "data"
    cells = [{"bytes": encoded(seed), "path": None} for seed in range(3)]
    made = datasets.Dataset.from_dict({"image": cells, "question": ["a", None, "c"]})
    made = made.cast_column("image", datasets.Image())
    if streaming:
        folder.mkdir()
        made.to_parquet(folder / "train.parquet")
        found = list(rows(source(folder, format="hf", streaming=True)))
    else:
        made.save_to_disk(folder)
        found = read(folder)
    assert [row.question for row in found] == ["a", None, "c"]
    assert all(read_bytes(row.image) == encoded(seed) for seed, row in enumerate(found))


def test_tars_need_only_pictures_and_take_captions(tmp_path: Path) -> None:
    members = {"0.png": encoded(0), "1.jpg": encoded(1, "JPEG"), "1.txt": b"a cup", "2.png": encoded(2)}
    members["2.json"] = json.dumps({"question": "how?", "type": "illegal"}).encode()
    members["3.cls"] = b"7"
    write_tar(tmp_path / "s.tar", members)
    found = read(tmp_path / "s.tar")
    assert [(row.question, row.answer, row.label) for row in found] == [
        (None, None, None),
        (None, "a cup", None),
        ("how?", None, "illegal"),
        (None, None, None),
    ]
    assert [row.image is None for row in found] == [False, False, False, True]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_json_list_is_the_same_in_pieces_of_any_size(tmp_path: Path, piece: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    items = [llava(question=f'a "]" , {{ ü {number}') for number in range(5)] + [12, 3.5, None, [1, 2], "x"]
    for whole in (json.dumps(items), json.dumps(items, indent=2) + "\n", f"\ufeff {json.dumps(items)}"):
        (tmp_path / "d.json").write_text(whole, encoding="utf-8")
        found = [*text.json_list(source(tmp_path / "d.json"))]
        assert [entry.value for entry in found if entry.where] == items
        head, *texts, tail = [entry.raw for entry in found]
        assert f"{head}{','.join(texts)}{tail}" == whole, "a copy is made of these"
    (tmp_path / "d.json").write_text("[]")
    assert [*text.json_items(source(tmp_path / "d.json"))] == []


@pytest.mark.parametrize("whole", ['{"a": 1}', '[{"a": 1}', '[{"a": 1} {"b": 2}]', '[{"a": ]', "", "[1", "[1, 2"])
def test_what_is_no_json_list_is_refused(tmp_path: Path, whole: str) -> None:
    (tmp_path / "d.json").write_text(whole)
    with pytest.raises(DataError, match="expected a list of objects"):
        list(text.json_list(source(tmp_path / "d.json")))


def long_json(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps(llava()) for _ in range(count)) + "]")


def long_jsonl(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(published()) + "\n" for _ in range(count))


def long_parquet(path: Path, count: int) -> None:
    table = pa.table({"image": [encoded(0)] * 1000})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(count // 1000):
            writer.write_table(table, row_group_size=1000)


@pytest.mark.parametrize("write, name", [(long_json, "d.json"), (long_jsonl, "d.jsonl"), (long_parquet, "d.parquet")])
def test_memory_does_not_grow_with_the_data(
    tmp_path: Path, write: Callable[[Path, int], None], name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(text, "PIECE", 1 << 14)
    save(tmp_path / "a.png", 1)
    write(tmp_path / name, 3_000)
    where = source(tmp_path / name)
    found = rows(where)
    tracemalloc.start()
    try:
        assert sum(1 for _ in islice(found, 1_000)) == 1_000
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert sum(1 for _ in found) == 2_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 0.4e6, "a stream that keeps its rows would take far more"


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data format"):
        recognise(source(tmp_path, format="xlsx"), strict=False)
    with pytest.raises(DataError, match="got nothing at"):
        recognise(source(tmp_path / "gone"), strict=False)
