"""Hostile data of every format: counts add up to what was planted, each risky picture is flagged, the copy is clean."""

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_samples import write_marks
from data_samples import write_tar
from hostile import NAMES, Picture, audited, found_out, kinds, label, names, picture, red_judge, suffixes, words
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from safety_modules.audit.review_apply import apply_marks
from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, Record, check_data, read_good_records
from safety_modules.records.formats import FORMATS
from safety_modules.records.images import KEYS
from safety_modules.records.source import Source
from safety_modules.taxonomy import DEFAULT_TAXONOMY

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("braceexpand")
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "10"))
"""Of each format; more of them are worth their time after a change of a reader."""
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
"""Without shrinking, which would take minutes: what failed is small enough."""
many = settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def judge() -> Iterator[None]:
    with red_judge():
        yield


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def fresh(place: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=place))


def everywhere(data: Path, at: Path, planted: list[Picture], rows: int, left_out: int = 0, **options: Any) -> None:
    """Audit, training's reading and the cleaned copy of the same data.

    Args:
        data: the data.
        at: a folder for what is written.
        planted: the pictures that can be reached.
        rows: of the audit.
        left_out: what it must have passed over.
        options: of `ReadOptions`.
    """
    summary, found = audited(data, at / "out", **options)
    found_out(found, planted)
    assert summary["rows"] == rows and sum(summary["left_out"].values()) == left_out
    training(data, **options)
    if not summary["flagged"]:
        return
    flagged = [row["row"] for row in found if row["flagged"]]
    marks = write_marks(at / "marks.json", at / "out", dict.fromkeys(flagged, "confirm"))
    done = apply_marks(at / "out", marks, at / "clean")
    assert (done.input, done.kept + done.removed) == (rows, rows)
    if not done.kept:
        return
    start = json.loads(done.manifest.read_bytes())["images"]
    again, _ = audited(done.copy, at / "again", **options, **({"image_dir": start} if start else {}))
    assert (again["rows"], again["flagged"]) == (done.kept, 0)


def training(data: Path, **options: Any) -> None:
    """Whatever training's reading finds, it finds it without dying, and can say it in UTF-8."""
    name = options.pop("format", None)
    try:
        report = check_data(data, options=ReadOptions(format=name, **options), progress=False)
        good = read_good_records(data, ReadOptions(format=name, **options), progress=False)
    except DataError as error:
        str(error).encode()
        return
    report.model_dump_json()
    for record in good.records:
        f"{record.source}{record.question}{record.answer}".encode()
        assert record.image is None or record.load_image().mode == "RGB"
    assert all(problem.model_dump_json() for problem in good.left_out)


# folders


Tree = dict[tuple[str, ...], str]


@st.composite
def trees(draw: Any) -> Tree:
    """What lies where: by path, a kind of picture or `notes`, `hidden`, `broken link`."""
    folders = st.lists(st.sampled_from(("clean", "illegal", "high", *NAMES[:9])), max_size=3).map(tuple)
    found: Tree = {}
    for number in range(draw(st.integers(1, 8))):
        what = draw(st.sampled_from(["risky", "risky", "clean", "broken", "notes", "hidden", "broken link"]))
        suffix = {"notes": ".txt", "broken link": ".jpg", "broken": ".png"}.get(what) or draw(suffixes)
        dot = "." if what == "hidden" else ""
        found[(*draw(folders), f"{dot}{draw(names)}{number}{suffix}")] = what
    return found


@many
@given(trees(), trees(), st.booleans())
def test_folders(place: Path, inside: Tree, outside: Tree, loop: bool) -> None:
    at = fresh(place)
    planted, rows, left_out, number = [], 0, 0, 0
    for root, tree in ((at / "data", inside), (at / "store", outside)):
        root.mkdir()
        for parts, what in tree.items():
            number += 1
            path = root.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            if what == "broken link":
                path.symlink_to(at / "nowhere")
            elif what in ("notes", "hidden"):
                path.write_bytes(b"words" if what == "notes" else picture("risky", number).data)
            else:
                planted.append(picture(what, number))
                path.write_bytes(planted[-1].data)
            rows += what not in ("notes", "hidden")
            left_out += what in ("notes", "hidden")
    (at / "data" / "zz linked").symlink_to(at / "store")
    if loop:
        (at / "store" / "loop").symlink_to(at / "data")
        left_out += 1
    if rows:
        everywhere(at / "data", at, planted, rows, left_out, format="folder")
    else:
        with pytest.raises(DataError, match="nothing to audit"):
            audited(at / "data", at / "out")


# tars


@many
@given(st.data())
def test_tars(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    planted, rows, left_out, members = [], 0, 0, {}
    keys = data.draw(st.lists(names, min_size=1, max_size=6, unique=True))
    for number, key in enumerate(keys):
        key = f"{data.draw(st.sampled_from(['', 'deep/er/', './']))}{key}"
        what = data.draw(st.sampled_from(["picture", "picture", "picture", "words", "two", "hidden", "alone", "array"]))
        said = {"type": "illegal", "level": "high", "question": data.draw(words)}
        if what == "hidden":
            members[f"{os.path.dirname(key)}/.{number}.png"] = picture("risky", number).data
            left_out += 1
            continue
        rows += 1
        if what == "words":
            members[f"{key}.json"] = said
        elif what == "array":
            members[f"{key}.json"], members[f"{key}.npy"] = said, b"\x93NUMPY"
        elif what == "alone":
            planted.append(picture("risky", number))
            members[f"{key}{number}{data.draw(suffixes)}"] = planted[-1].data
        else:
            for suffix in ("jpg", "png")[: 1 + (what == "two")]:
                planted.append(picture(data.draw(kinds), 2 * number + (suffix == "png") + 100))
                members[f"{key}.{suffix}"] = planted[-1].data
            rows += what == "two"
            if data.draw(st.booleans()):
                members[f"{key}.json"] = said
    write_tar(at / "a.tar", members)
    if rows:
        everywhere(at / "a.tar", at, planted, rows, left_out)


# values that name or hold a picture


@st.composite
def values(draw: Any, at: Path, number: int, json: bool = True) -> tuple[Any, list[Picture]]:
    """(what stands under a key of pictures, the pictures that can be reached by it)."""
    one = picture(draw(kinds), number)
    hows = ["file", "file", "data", "base64", "gone", "far", "long", "nul", "list" if json else "file"]
    how = draw(st.sampled_from(hows))
    if how == "file":
        name = f"{draw(names)}{number}{draw(suffixes)}"
        (at / name).write_bytes(one.data)
        return name, [one]
    if how == "list":
        other = picture("risky", number + 1000)
        (at / f"second{number}").write_bytes(other.data)
        return [f"data:image/png;base64,{one.base64}", "gone.png", f"second{number}"], [one, other]
    inline = {"data": f"data:image/jpeg;base64,{one.base64}", "base64": one.base64}
    # Base64 of a file of 46 bytes is no name of a picture, and its first bytes say that it is one.
    lost = {"gone": "gone.png", "far": "s3://there/a.png", "long": "y" * 300 + ".png", "nul": "a\0.png"}
    return (inline[how], [one]) if how in inline else (lost[how], [])


def count_rows(value: Any) -> int:
    return len(value) if isinstance(value, list) else 1


@st.composite
def conversations(draw: Any, has_picture: bool) -> tuple[list[dict[str, str]], int]:
    """(turns, questions in them)."""
    turns, count = [], draw(st.integers(1, 2))
    for number in range(count):
        tag = "<image>\n" if has_picture and number == 0 else ""
        turns += [{"from": "human", "value": tag + draw(words)}, {"from": "gpt", "value": draw(words) or "yes"}]
    return turns, count


def items(data: st.DataObject, at: Path) -> tuple[list[dict[str, Any]], list[Picture], int]:
    """Objects, the pictures that they lead to, and their rows."""
    found, planted, rows = [], [], 0
    for number in range(data.draw(st.integers(1, 6))):
        value, reached = data.draw(values(at, number)) if data.draw(st.integers(0, 4)) else (None, [])
        turns, questions = data.draw(conversations(value is not None))
        key = data.draw(st.sampled_from(KEYS))
        shown = {} if value is None and data.draw(st.booleans()) else {key: value}
        found.append({"id": number, **shown, "conversations": turns, **label("illegal", "high")})
        planted += reached
        rows += count_rows(value) * questions
    return found, planted, rows


@many
@given(st.data())
def test_jsonl(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    found, planted, rows = items(data, at)
    lines = [json.dumps(item, ensure_ascii=False) for item in found]
    if data.draw(st.booleans()) or any("\ud83d" in line for line in lines):  # half a character has no bytes of its own
        lines = [json.dumps(item) for item in found]
    for extra, more in (("", 0), ("{bad", 1), ('{"image": "a", "image": "b"}', 1), ("  ", 0), ("[]", 1)):
        if data.draw(st.booleans()):
            lines.insert(data.draw(st.integers(0, len(lines))), extra)
            rows += more
    text = data.draw(st.sampled_from(["", "\ufeff"])) + data.draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    (at / "d.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    everywhere(at / "d.jsonl", at, planted, rows)


@many
@given(st.data())
def test_json_lists(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    found, planted, rows = items(data, at)
    text = json.dumps(found, indent=data.draw(st.sampled_from([None, 1])))
    (at / "d.json").write_bytes(data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode())
    everywhere(at / "d.json", at, planted, rows)


@many
@given(st.data())
def test_csv(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    planted, lines = [], []
    key = data.draw(st.sampled_from(KEYS))
    for number in range(data.draw(st.integers(1, 6))):
        value, reached = data.draw(values(at, number, json=False)) if data.draw(st.integers(0, 4)) else ("", [])
        said = data.draw(words).replace("\ud83d", "\udce9") or "x"
        lines.append([value, "illegal", "high", said, "", "z" * data.draw(st.sampled_from([1, 200_000]))])
        planted += reached
    if data.draw(st.booleans()):
        lines.append([""] * 6)
    rows = sum(any(line) for line in lines)
    if data.draw(st.booleans()):
        lines.append(["one", "two"])
        rows += 1
    with (at / "d.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(data.draw(st.sampled_from(["", "\ufeff"])))
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        csv.writer(file, lineterminator=end).writerows([[key, "type", "level", "question", "answer", "more"], *lines])
    everywhere(at / "d.csv", at, planted, rows)


def table(data: st.DataObject, at: Path) -> tuple[Any, list[Picture], int]:
    """An Arrow table with pictures of one kind of cell, those that it leads to, and its rows."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = data.draw(st.sampled_from([cell, pa.binary(), pa.string(), pa.list_(cell)]))
    cells, planted, rows = [], [], 0
    for number in range(data.draw(st.integers(1, 6))):
        reached: list[Picture] = []
        if kind == pa.string():
            value, reached = data.draw(values(at, number, json=False))
            if isinstance(value, str) and "\udce9" in value:  # which Arrow does not take
                value, reached = None, []
        else:
            one, name = picture(data.draw(kinds), number), f"{number}"
            (at / name).write_bytes(one.data)
            how = data.draw(st.sampled_from(["bytes", "path", "far", "nothing"]))
            held = {
                "bytes": one.data if how == "bytes" else None,
                "path": {"path": name, "far": "https://x/a.png"}.get(how),
            }
            reached = [one] if how in ("bytes", "path") else []
            if kind == cell:
                value = held
            elif kind == pa.binary():
                value, reached = (one.data, [one]) if how == "bytes" else (None, [])
            else:
                value = [held] * (1 + number % 2)
        value = None if data.draw(st.integers(0, 5)) == 0 else value
        planted += [] if value is None else reached
        rows += count_rows(value)
        cells.append(value)
    plain = [data.draw(words).replace("\ud83d", "") or "x" for _ in cells]
    columns = {"image": pa.array(cells, kind), "type": ["illegal"] * len(cells), "level": ["high"] * len(cells)}
    return pa.table({**columns, "question": plain, "answer": pa.array([None] * len(cells), pa.string())}), planted, rows


@many
@given(st.data())
def test_parquet(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    made, planted, rows = table(data, at)
    pq.write_table(made, at / "d.parquet", row_group_size=2)
    everywhere(at / "d.parquet", at, planted, rows)


@many
@given(st.data())
def test_saved_datasets(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    (at / "d").mkdir()
    made, planted, rows = table(data, at / "d")
    datasets.Dataset(made).save_to_disk(at / "d")
    everywhere(at / "d", at, planted, rows)


def test_what_training_takes_is_what_an_audit_judges(tmp_path: Path) -> None:
    """Not by another reader: of the same entries, the same pictures and words."""
    for seed, name in enumerate(("clean/a.png", "illegal/high/b.v2.jpg", "illegal/low/c")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("risky", seed).data)
    source = Source(str(tmp_path), DEFAULT_TAXONOMY, ReadOptions(question="What?"))
    form = FORMATS["folder"]
    records = [one for one in form.records(source) if isinstance(one, Record)]
    assert [(r.source, r.image, r.question, r.type) for r in records] == [
        (row.source, row.image, row.question, row.label) for row in form.rows(source)
    ]
    assert len(records) == 3


@many
@given(st.data())
def test_vlguard(place: Path, data: st.DataObject) -> None:
    at = fresh(place)
    found: list[Any] = []
    planted, rows = [], 0
    for number in range(data.draw(st.integers(1, 6))):
        value, reached = data.draw(values(at, number))
        safe = data.draw(st.sampled_from([True, False, None]))
        kinds_of_words = st.sampled_from(["safe_instruction", "unsafe_instruction", "instruction", "words"])
        pairs = [
            {data.draw(kinds_of_words): data.draw(words), "response": data.draw(words)} for _ in range(1 + number % 3)
        ]
        category = data.draw(st.sampled_from([("privacy", "personal data"), ("privacy", "gone"), (None, 3)]))
        known = dict(zip(("harmful_category", "harmful_subcategory"), category, strict=True))
        found.append({"id": number, "image": value, "safe": safe, **known, "instr-resp": pairs})
        planted += reached
        rows += count_rows(value) * len(pairs)
    for bad in ([], {"image": "a.png", "instr-resp": []}, {"image": "a.png", "instr-resp": 3}):
        if data.draw(st.booleans()):
            found.append(bad)
            rows += 1
    (at / "d.json").write_text(json.dumps(found))
    everywhere(at / "d.json", at, planted, rows, format="vlguard")
