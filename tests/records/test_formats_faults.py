"""Ways past a reader that were found, each with the right outcome: for the audit and for training alike."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_samples import write_marks
from data_samples import published, row, write_json, write_jsonl, write_tar
from hostile import audited, picture, red_judge
from typer.testing import CliRunner

from safety_modules.audit.review_apply import apply_marks
from safety_modules.cli import app
from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, check_data, read_good_records, read_records
from safety_modules.records.formats import FORMATS
from safety_modules.records.images import KEYS, reference
from safety_modules.records.source import Source
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
HEAD = "image,type,level,question,answer\n"


@pytest.fixture(autouse=True, scope="module")
def judge() -> Iterator[None]:
    with red_judge():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(picture("risky", 1).data)
    (tmp_path / "b.png").write_bytes(picture("risky", 3).data)
    return tmp_path


def counts(data: Any, out: Path, **options: Any) -> tuple[int, int, int, int]:
    """Flagged, unreadable, text only, passed over."""
    found, _ = audited(data, out, **options)
    return found["flagged"], found["unreadable"], found["text_only"], sum(found["left_out"].values())


def reasons(data: Any, **options: Any) -> str:
    return "\n".join(str(one) for one in read_good_records(data, ReadOptions(**options), progress=False).left_out)


def rows(data: Path) -> list[Any]:
    form = {".jsonl": "jsonl", ".json": "llava", ".csv": "csv", ".parquet": "parquet", "": "folder"}[data.suffix]
    return list(FORMATS[form].rows(Source(str(data), DEFAULT_TAXONOMY)))


# names with dots


def test_a_name_in_a_tar_ends_at_its_last_dot(tmp_path: Path) -> None:
    names = ("photo.v2.jpg", "2024.01.05.jpg", "a.1.jpg", "a.2.jpg", "a.jpg", "w.jpg.tmp", "z.jpg_large", "noext")
    members: dict[str, Any] = {name: picture("risky", 2 * at).data for at, name in enumerate(names)}
    write_tar(tmp_path / "a.tar", {**members, "photo.heic": b"\0\0\0\x18ftyp", "README": b"words"})
    assert counts(tmp_path / "a.tar", tmp_path / "out") == (len(names), 1, 0, 1)


def test_a_sample_of_which_no_part_is_a_picture_is_no_text(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", {"1.npy": b"\x93NUMPY", "1.json": {"question": "what?"}, "2.json": {"question": "a?"}}
    )
    assert counts(tmp_path / "a.tar", tmp_path / "out") == (0, 1, 1, 0)


def test_links_and_hidden_members_of_a_tar_are_told(tmp_path: Path) -> None:
    import tarfile

    write_tar(tmp_path / "a.tar", {"1.png": picture("risky", 1).data, ".thumbs/2.png": picture("risky", 3).data})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.LNKTYPE, "1.png"
        tar.addfile(link)
    assert counts(tmp_path / "a.tar", tmp_path / "out") == (1, 1, 0, 1)


# folders


def test_links_are_followed_once_by_the_audit_and_by_training(tmp_path: Path) -> None:
    store, data = tmp_path / "store" / "high", tmp_path / "data"
    for at, place in enumerate((store, data / "clean")):
        place.mkdir(parents=True)
        (place / f"{at}.png").write_bytes(picture("risky", 2 * at).data)
    (data / "privacy").symlink_to(tmp_path / "store")
    assert counts(data, tmp_path / "out") == (2, 0, 0, 0)
    assert {one.type for one in read_records(data)} == {"clean", "privacy"}
    (store / "loop").symlink_to(data)
    (data / "clean" / "gone").symlink_to("nowhere")
    assert counts(data, tmp_path / "again") == (2, 0, 0, 2)
    assert "expected each folder once" in reasons(data) and "leads nowhere" in reasons(data)


def test_a_folder_that_cannot_be_listed_is_a_fault_and_a_pipe_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "locked").mkdir()
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert counts(folder, tmp_path_factory.mktemp("out")) == (2, 1, 0, 2)


def test_a_picture_is_one_by_its_suffix_or_its_first_bytes(folder: Path) -> None:
    (folder / "a.png").rename(folder / "0")
    (folder / "notes").write_text("BMW is a car")
    (folder / "x.heic").write_bytes(b"no picture")
    assert [Path(one.source).name for one in rows(folder)] == ["0", "b.png", "x.heic"]


def test_an_empty_folder_is_called_so(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(DataError, match="got the empty folder"):
        read_records(tmp_path)
    with pytest.raises(DataError, match=r"nothing to audit: expected pictures in .*, got 1 hidden files and folders"):
        audited(tmp_path, tmp_path / "out")


# keys


@pytest.mark.parametrize("key", KEYS)
def test_a_picture_is_found_under_every_documented_key(folder: Path, key: str) -> None:
    item = {**published(), key: "a.png"}
    del item["image"]
    path = write_jsonl(folder / "d.jsonl", [{**item, key: "a.png"}, {**item, key: ["b.png"]}])
    assert counts(path, folder / "out") == (2, 0, 0, 0)
    assert [Path(str(one.image)).name for one in read_records(path)] == ["a.png", "b.png"]
    assert f"`{key}`" in (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["a.png", "data:image/png;base64,AAAA", "sub dir/a.JPG", {"deep": ["b.png"]}])
def test_data_with_pictures_under_an_unknown_key_is_not_called_clean(folder: Path, value: Any) -> None:
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a.png is it"}]
    path = write_jsonl(folder / "d.jsonl", [{"pic": value, "conversations": turns}] * 2)
    with pytest.raises(
        DataError, match=r"no picture under image, .* under 'pic(\.deep)?'\. Name that key .*--image-key"
    ):
        audited(path, folder / "out")
    assert "under 'pic" in reasons(write_json(folder / "d.json", [{"pic": value, "conversations": turns}]))


def test_a_key_can_be_named_and_several(folder: Path) -> None:
    turns = [{"from": "USER", "value": "<image>\nwhat?"}]
    item = {"one": "a.png", "two": "b.png", "safe_type": 1, "safe_level": 3, "conversations": turns}
    path = write_jsonl(folder / "d.jsonl", [item])
    assert counts(path, folder / "out", image_key="one") == (1, 0, 0, 0)
    assert counts(path, folder / "both", image_key="one,two") == (2, 0, 0, 0)
    assert len(read_records(path, ReadOptions(image_key="two"))) == 1
    done = CliRunner().invoke(app, ["data", "check", str(path), "--image-key", "two"])
    assert done.exit_code == 0, done.output
    (folder / "d.csv").write_text("pic\na.png\n")
    with pytest.raises(DataError, match="expected a column two, got pic"):
        audited(folder / "d.csv", folder / "csv", image_key="two")


def test_rows_whose_picture_has_another_key_are_unreadable_and_other_names_are_counted(folder: Path) -> None:
    lines = [published("a.png"), {"pic": "b.png"}, {"image": "a.png", "file_name": "b.png"}, {"video": "x.mp4"}]
    assert counts(write_jsonl(folder / "d.jsonl", lines), folder / "out") == (2, 2, 0, 1)
    cells = [{"bytes": picture("risky", 5).data, "path": None}]
    pq.write_table(pa.table({"image": ["a.png"], "image_2": cells}), folder / "d.parquet")
    assert counts(folder / "d.parquet", folder / "tables") == (1, 0, 0, 1)


def test_a_picture_that_the_words_ask_for_is_not_text_only(folder: Path) -> None:
    item = published()
    del item["image"]
    assert counts(write_jsonl(folder / "d.jsonl", [item, published()]), folder / "out") == (1, 1, 0, 0)


# text that is no UTF-8


def test_names_and_words_that_are_no_utf8_are_judged_and_told_with_an_escape(tmp_path: Path) -> None:
    data = tmp_path / "caf\udce9"
    (data / "privacy" / "high").mkdir(parents=True)
    for number, name in enumerate(("caf\udce9.png", "b.png")):
        (data / "privacy" / "high" / name).write_bytes(picture("risky", 2 * number).data)
    summary, found = audited(data, tmp_path / "out")
    assert [Path(one["source"]).name for one in found] == ["b.png", "caf\\xe9.png"] and summary["flagged"] == 2
    assert check_data(data, progress=False).model_dump_json()
    marks = write_marks(tmp_path / "marks.json", tmp_path / "out", {0: "confirm"})
    done = apply_marks(tmp_path / "out", marks)
    assert [*map(os.fsencode, os.listdir(done.copy / "privacy" / "high"))] == [b"caf\xe9.png"]
    assert json.loads(done.manifest.read_text(encoding="utf-8"))["rows"]["kept"] == 1


@pytest.mark.parametrize("where", ["question", "answer", "image"])
def test_half_a_character_is_a_fault_to_training_and_not_to_an_audit(folder: Path, where: str) -> None:
    changes = {"question": "what \ud83d?", "answer": "no \ud83d", "image": "\ud83d.png"}
    path = write_jsonl(folder / "d.jsonl", [published("b.png"), published(**{where: changes[where]})])
    assert counts(path, folder / "out")[0] == (1 if where == "image" else 2)
    report = check_data(path, progress=False)
    assert len(report.errors) == 1 and "\\ud83d" in report.model_dump_json().replace("\\\\", "\\")
    assert f"{path}:2" in reasons(path)


def test_a_byte_that_is_no_utf8_is_named_with_its_line(folder: Path) -> None:
    (folder / "d.csv").write_bytes((HEAD + "a.png,clean,,ok?,\nb.png,clean,,W\xe4s?,\n").encode("latin-1"))
    lines = [json.dumps(published("a.png")), json.dumps(published("b.png", question="W\xe4s?"), ensure_ascii=False)]
    (folder / "d.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    for name, line in (("d.csv", 3), ("d.jsonl", 2)):
        assert f"{name}:{line}: expected a UTF-8 file, got the byte \\xe4 in" in reasons(folder / name)
        assert counts(folder / name, folder / f"{name}.out") == (2, 0, 0, 0)
        assert "W\\xe4s?" in [one.question for one in rows(folder / name)]
    (folder / "e.csv").write_bytes((HEAD + "\xfc.png,clean,,ok?,\n").encode("latin-1"))
    assert "save the data as UTF-8" in str(rows(folder / "e.csv")[0].fault)
    (folder / "f.csv").write_bytes(HEAD.encode("utf-16"))
    with pytest.raises(DataError, match="got UTF-16"):
        read_records(folder / "f.csv")


# values


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x" * 300 + ".png", r"got nothing at .*\(\d+ signs\)"),
        ("a/" * 2500, "got nothing at"),
        ("a\0b.png", "got nothing at"),
        ("https://example.org/a.png", "expected a file on this machine, got the address https"),
        ("s3://there/a.png", "Download it and name the file"),
        ("zip://a.png::https://example.org/z.zip", "expected a file on this machine"),
        ("data:image/png;base64,???", "unreadable image"),
        ("iVBORw0KGgo" + "A" * 100 + "!", "expected base64"),
        ({"bytes": None, "path": None}, "got neither"),
        (7, "expected a file name, got 7"),
    ],
)
def test_a_value_that_is_no_picture_is_one_fault(folder: Path, value: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        reference(value, "here", folder)
    if isinstance(value, str):
        path = write_jsonl(folder / "d.jsonl", [published("a.png"), published(value)])
        assert counts(path, folder / "out") == (1, 1, 0, 0)
        assert reasons(path).startswith(f"{path}:2: ")


def test_pictures_in_base64_are_read_and_let_go_of(folder: Path) -> None:
    shown = [picture("risky", number) for number in (5, 8)]
    lines = [published(f"data:image/png;base64,{shown[0].base64}"), published(shown[1].base64)]
    path = write_jsonl(folder / "d.jsonl", lines)
    assert counts(path, folder / "out") == (2, 0, 0, 0)
    assert [one.image_digest() for one in read_records(path)] == [one.digest for one in shown]


def test_relative_paths_in_cells_start_beside_the_data_and_no_address_is_opened(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": None, "path": one} for one in ("a.png", str(folder / "b.png"), "https://x/a.png", "gone.png")]
    words = {name: [value] * 4 for name, value in row().items() if name != "image"}
    made = pa.table({"image": cells, **words})
    pq.write_table(made, folder / "d.parquet")
    assert counts(folder / "d.parquet", folder / "out") == (2, 2, 0, 0)
    good = read_good_records(folder / "d.parquet", progress=False)
    assert [one.image for one in good.records] == [folder / "a.png", folder / "b.png"]
    (folder / "saved").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / "saved" / name)
    made = pa.table({"image": [*cells[:1], *cells[2:]], **{name: value[:3] for name, value in words.items()}})
    datasets.Dataset(made).save_to_disk(folder / "saved")
    assert counts(folder / "saved", folder / "hf") == (1, 2, 0, 0)
    assert len(read_good_records(folder / "saved", progress=False).records) == 1


# CSV


def test_a_long_cell_is_read_and_the_limit_of_others_is_left_alone(folder: Path) -> None:
    before = csv.field_size_limit()
    (folder / "d.csv").write_text(HEAD + f"a.png,clean,,What?,{'x' * 150_000}\n,,,,\n,,,,\n")
    (record,) = read_records(folder / "d.csv")
    assert len(str(record.answer)) == 150_000
    assert csv.field_size_limit() == before
    assert counts(folder / "d.csv", folder / "out") == (1, 0, 0, 0)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_another_separator_is_named(folder: Path, sign: str) -> None:
    (folder / "d.csv").write_text(HEAD.replace(",", sign))
    with pytest.raises(DataError, match="expected commas between columns"):
        read_records(folder / "d.csv")


def test_a_row_with_other_cells_than_the_header_is_listed_by_the_audit_too(folder: Path) -> None:
    (folder / "d.csv").write_text(HEAD + "a.png,clean,,What?,\nb.png,clean,,What, now?,\n")
    assert counts(folder / "d.csv", folder / "out") == (1, 1, 0, 0)
