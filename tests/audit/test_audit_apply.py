"""Marks applied: the copy is the data without the confirmed, in its own format, and every row is accounted for."""

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from audit_samples import audit_of, write_marks
from data_samples import (
    encoded,
    llava,
    published,
    row,
    save,
    vlguard_safe,
    write_csv,
    write_json,
    write_jsonl,
    write_tar,
)

from safety_modules.audit.review_apply import Applied, apply_marks
from safety_modules.pictures import read_bytes
from safety_modules.records.formats import FORMATS as ALL
from safety_modules.records.source import ReadOptions, Source, copied_name
from safety_modules.taxonomy import DEFAULT_TAXONOMY

datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")

# Each makes five rows with pictures 0 to 4 in `folder`, of which row 3 shows the picture of row 1.
PICTURES = (0, 1, 2, 1, 4)
Make = Callable[[Path], tuple[str, str]]


def pictures(folder: Path) -> list[str]:
    for seed in PICTURES:
        save(folder / f"{seed}.png", seed)
    return [f"{seed}.png" for seed in PICTURES]


def jsonl(folder: Path) -> tuple[str, str]:
    lines = [json.dumps(published(name, question=f"number {k}?")) for k, name in enumerate(pictures(folder))]
    return str(write_jsonl(folder / "data.jsonl", [lines[0], "  ", *lines[1:]])), "jsonl"


def llava_json(folder: Path) -> tuple[str, str]:
    items = [llava(name, f'[{k}], ]}} "?\\') for k, name in enumerate(pictures(folder))]
    return str(write_json(folder / "data.json", items)), "llava"


def csv_table(folder: Path) -> tuple[str, str]:
    named = [row(name, question=f'"{k}",\nand on?') for k, name in enumerate(pictures(folder))]
    return str(write_csv(folder / "data.csv", named)), "csv"


def dataset_of(seeds: Sequence[int]) -> Any:
    words = ("type", "level", "question", "answer")
    columns = {"image": datasets.Image(), **{name: datasets.Value("string") for name in words}}
    items = [row({"bytes": encoded(seed), "path": None}, question=f"{k}?") for k, seed in enumerate(seeds)]
    return datasets.Dataset.from_list(items, features=datasets.Features(columns))


def parquet(folder: Path) -> tuple[str, str]:
    folder.mkdir()
    dataset_of(PICTURES).to_parquet(str(folder / "data.parquet"), batch_size=2)
    return str(folder / "data.parquet"), "parquet"


def saved(folder: Path) -> tuple[str, str]:
    dataset_of(PICTURES).save_to_disk(str(folder / "data"))
    return str(folder / "data"), "hf"


def image_folder(folder: Path) -> tuple[str, str]:
    for number, seed in enumerate(PICTURES):
        save(folder / "data" / "part" / f"{number}.png", seed)
    (folder / "data" / "part" / "notes.txt").write_text("stays")
    return str(folder / "data"), "folder"


def tars(folder: Path) -> tuple[str, str]:
    folder.mkdir()
    words = {name: value for name, value in row().items() if name != "image"}
    for shard, numbers in (("a", (0, 1, 2)), ("b", (3, 4))):
        members: dict[str, Any] = {}
        for number in numbers:
            long = "x" * 120  # a name that needs a header of its own
            members |= {f"{long}{number}.png": encoded(PICTURES[number]), f"{long}{number}.json": words}
        write_tar(folder / f"{shard}.tar", members)
    return str(folder / "{a,b}.tar"), "webdataset"


FORMATS: list[Make] = [jsonl, llava_json, csv_table, parquet, saved, image_folder, tars]


def cleaned(tmp_path: Path, make: Make, marks: dict[int, str]) -> tuple[Path, Applied]:
    """(data, what applying marks to its audit gave); rows 1 and 2 are flagged."""
    path, format = make(tmp_path / "set")
    out = audit_of(path, tmp_path / "out", {1: "illegal", 2: "privacy"}, format)
    return Path(path), apply_marks(out, write_marks(tmp_path / "marks.json", out, marks))


def contents(path: Path, format: str, image_dir: Path) -> list[tuple[Any, ...]]:
    """Everything that the audit reads of data."""
    source = Source(str(path), DEFAULT_TAXONOMY, ReadOptions(image_dir=None if path.is_dir() else image_dir))
    found = []
    for one in ALL[format].rows(source):
        image = None if one.image is None else read_bytes(one.image)  # type: ignore[arg-type]
        found.append((image, one.question, one.answer, one.label, one.fault))
    return found


@pytest.mark.parametrize("make", FORMATS)
def test_the_copy_is_the_data_without_the_confirmed_picture_wherever_it_is(tmp_path: Path, make: Make) -> None:
    path, done = cleaned(tmp_path, make, {1: "confirm", 2: "reject"})
    format = json.loads(done.manifest.read_text())["data"]["format"]
    before = contents(path, format, tmp_path / "set")
    assert len({image for image, *_ in before}) == 4
    assert contents(done.copy, format, tmp_path / "set") == [before[0], before[2], before[4]]
    assert (done.input, done.kept, done.removed) == (5, 3, 2)


@pytest.mark.parametrize("make", FORMATS)
def test_the_manifest_says_what_was_removed_and_why(tmp_path: Path, make: Make) -> None:
    path, done = cleaned(tmp_path, make, {1: "confirm", 2: "reject"})
    manifest = json.loads(done.manifest.read_text())
    assert manifest["rows"] == {"input": 5, "kept": 3, "removed": 2}
    assert manifest["data"]["path"] == str(path)
    confirmed, copy = manifest["removed"]
    assert (confirmed["row"], confirmed["reason"], confirmed["mark"]) == (1, "confirmed", "confirm")
    assert (confirmed["type"], confirmed["level"], confirmed["rule"]) == ("illegal", "high", "illegal >= 0.500")
    assert (copy["row"], copy["reason"]) == (3, "the same picture as row 1")
    assert copy["image_digest"] == confirmed["image_digest"]
    assert copy["source"] != confirmed["source"]


def test_lines_of_jsonl_stay_byte_for_byte(tmp_path: Path) -> None:
    path, done = cleaned(tmp_path, jsonl, {1: "confirm"})
    lines = path.read_bytes().split(b"\n")
    assert lines[1] == b"  "
    assert done.copy.read_bytes().split(b"\n") == [lines[0], lines[1], lines[3], lines[5], lines[6]]


def test_objects_of_a_json_list_and_rows_of_a_csv_stay_byte_for_byte(tmp_path: Path) -> None:
    path, done = cleaned(tmp_path / "a", llava_json, {1: "confirm"})
    items = [json.dumps(item) for item in json.loads(path.read_text())]
    assert done.copy.read_text() == f"[{items[0]}, {items[2]}, {items[4]}]"
    path, done = cleaned(tmp_path / "b", csv_table, {1: "confirm"})
    lines = path.read_bytes().splitlines(keepends=True)  # a header, then two lines each
    assert done.copy.read_bytes() == b"".join([*lines[:3], *lines[5:7], *lines[9:]])


def test_the_first_and_the_last_object_of_a_json_list_can_go(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save(folder / "a.png", 0), save(folder / "b.png", 1), save(folder / "c.png", 2)
    path = folder / "data.json"
    path.write_text("[\n " + ",\n ".join(json.dumps(llava(name)) for name in ("a.png", "b.png", "c.png")) + "\n]\n")
    out = audit_of(path, tmp_path / "out", {0: "illegal", 2: "illegal"})
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {0: "confirm", 2: "confirm"}))
    assert json.loads(done.copy.read_text()) == [llava("b.png")]


def test_members_of_tars_stay_byte_for_byte(tmp_path: Path) -> None:
    path, done = cleaned(tmp_path, tars, {1: "confirm"})
    for shard, kept in (("a", (0, 2)), ("b", (4,))):
        whole, left = path.parent / f"{shard}.tar", done.copy.parent / f"{shard}.tar"
        with tarfile.open(whole) as before, tarfile.open(left) as after:
            names = [f"{'x' * 120}{number}.{kind}" for number in kept for kind in ("png", "json")]
            assert after.getnames() == names
            for name in names:
                one, other = before.getmember(name), after.getmember(name)
                first = whole.read_bytes()[one.offset : one.offset_data + one.size]
                assert left.read_bytes()[other.offset : other.offset_data + other.size] == first


def test_parquet_keeps_its_schema_and_its_row_groups(tmp_path: Path) -> None:
    path, done = cleaned(tmp_path, parquet, {1: "confirm"})
    before, after = pq.ParquetFile(path), pq.ParquetFile(done.copy)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
    assert after.metadata.num_row_groups == before.metadata.num_row_groups == 3


def test_other_files_of_a_folder_come_along(tmp_path: Path) -> None:
    _, done = cleaned(tmp_path, image_folder, {1: "confirm"})
    assert (done.copy / "part" / "notes.txt").read_text() == "stays"


def test_what_links_lead_to_stands_in_the_copy_without_the_confirmed(tmp_path: Path) -> None:
    for seed, name in enumerate(("set/a.png", "store/b.png", "store/c.png")):
        save(tmp_path / name, seed)
    (tmp_path / "set" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "one.png").symlink_to(tmp_path / "store" / "c.png")
    (tmp_path / "set" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "set" / ".notes" / "deep").mkdir(parents=True)
    (tmp_path / "set" / ".notes" / "deep" / "x.txt").write_text("stays")
    out = audit_of(tmp_path / "set", tmp_path / "out", {3: "illegal"}, "folder")
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {3: "confirm"}))
    assert (done.input, done.kept, done.removed) == (5, 4, 1)
    kept = sorted(str(path.relative_to(done.copy)) for path in done.copy.rglob("*") if not path.is_dir())
    assert kept == [".notes/deep/x.txt", "a.png", "gone.png", "more/c.png", "one.png"]
    assert (done.copy / "one.png").read_bytes() == (tmp_path / "store" / "c.png").read_bytes()


def test_a_conversation_goes_as_a_whole(tmp_path: Path) -> None:
    turns = [
        {"from": who, "value": words}
        for k in range(3)
        for who, words in (("human", f"<image>\n{k}?" if k == 0 else f"{k}?"), ("gpt", "yes"))
    ]
    save(tmp_path / "a.png", 0), save(tmp_path / "b.png", 1)
    items = [{"id": "1", "image": "a.png", "conversations": turns}, llava("b.png")]
    path = write_json(tmp_path / "data.json", items)
    out = audit_of(path, tmp_path / "out", {1: "illegal"})
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {1: "confirm"}))
    assert json.loads(done.copy.read_text()) == [llava("b.png")]
    assert (done.input, done.kept, done.removed) == (4, 1, 3)


def test_the_other_questions_of_an_item_with_several_pictures_go_too(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 0), save(tmp_path / "b.png", 1)
    both = {**llava("a.png"), "image": ["a.png", "b.png"]}
    path = write_json(tmp_path / "data.json", [both, llava("b.png")])
    out = audit_of(path, tmp_path / "out", {0: "illegal"})
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {0: "confirm"}))
    assert json.loads(done.copy.read_text()) == [llava("b.png")]
    assert [one["reason"] for one in json.loads(done.manifest.read_text())["removed"]] == [
        "confirmed",
        "the same item as a removed row",
    ]


def test_unreadable_rows_stay(tmp_path: Path) -> None:
    names = [*pictures(tmp_path), "missing.png"]
    path = write_jsonl(tmp_path / "data.jsonl", [*(published(name, question=f"{name}?") for name in names), "no json"])
    out = audit_of(path, tmp_path / "out", {1: "illegal"})
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {1: "confirm"}))
    assert (done.input, done.kept) == (7, 5)
    assert done.copy.read_text().endswith("no json\n")


def test_an_object_of_vlguard_goes_with_all_its_instructions(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 0), save(tmp_path / "b.png", 1)
    path = write_json(tmp_path / "data.json", [vlguard_safe("a.png"), vlguard_safe("b.png")])
    out = audit_of(path, tmp_path / "out", {1: "privacy"})
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {1: "confirm"}))
    assert json.loads(done.copy.read_text()) == [vlguard_safe("b.png")]
    assert (done.kept, done.removed) == (2, 2)


def test_shards_keep_the_folders_that_a_pattern_spans(tmp_path: Path) -> None:
    for seed, part in enumerate("ab"):
        table = dataset_of([seed, 7])
        (tmp_path / "set" / part).mkdir(parents=True)
        table.to_parquet(str(tmp_path / "set" / part / "x.parquet"))
    out = audit_of(f"{tmp_path}/set/{{a,b}}/*.parquet", tmp_path / "out", {0: "illegal"}, "parquet")
    done = apply_marks(out, write_marks(tmp_path / "marks.json", out, {0: "confirm"}), tmp_path / "clean")
    assert done.copy == tmp_path / "clean" / "{a,b}" / "*.parquet"
    assert [pq.read_metadata(tmp_path / "clean" / part / "x.parquet").num_rows for part in "ab"] == [1, 2]


@pytest.mark.parametrize(
    ("path", "name"),
    [("hf://owner/name:train", "owner--name--train"), ("files:train", "files--train"), ("a/*/x.tar", "*/x.tar")],
)
def test_a_copy_is_named_like_its_data(path: str, name: str) -> None:
    assert copied_name(Source(path, DEFAULT_TAXONOMY)) == name
