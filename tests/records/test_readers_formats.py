"""Which reader reads what: the rules of recognition, named formats, options, and targets where answers are missing."""

import builtins
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from data_samples import (
    encoded,
    llava,
    published,
    row,
    save,
    vlguard_safe,
    vlguard_unsafe,
    write_csv,
    write_json,
    write_jsonl,
    write_tar,
)
from guard_cases import attach_as_trained

from safety_modules import Policy
from safety_modules.errors import DataError
from safety_modules.records import ReadOptions, Record, read_records
from safety_modules.records.formats import FORMATS
from safety_modules.records.readers import recognise
from safety_modules.records.source import Source
from safety_modules.taxonomy import DEFAULT_TAXONOMY
from safety_modules.training.corpus import Corpus
from safety_modules.training.recipe import Recipe
from safety_modules.training.target_answers import target_ids, target_text

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def make_jsonl(folder: Path) -> Path:
    return write_jsonl(folder / "data.jsonl", [published(answer=None), published("b.png", 6, 0, answer=None)])


def make_llava(folder: Path) -> Path:
    return write_json(folder / "data.json", [llava(), llava(None)])


def make_vlguard(folder: Path) -> Path:
    items = [vlguard_safe(), vlguard_unsafe()]
    for item in items:
        for pair in item["instr-resp"]:
            del pair["response"]
    return write_json(folder / "train.json", items)


def make_csv(folder: Path) -> Path:
    return write_csv(folder / "data.csv", [row(answer=""), row("b.png", type="clean", level="safe", answer="")])


def make_parquet(folder: Path) -> Path:
    datasets = import_module("datasets")
    rows = [row(answer=None), row("b.png", type="clean", level="safe", answer=None)]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "data.parquet"))
    return folder / "data.parquet"


def make_folder(folder: Path) -> Path:
    save(folder / "classes" / "illegal" / "high" / "a.png", 1)
    save(folder / "classes" / "clean" / "b.png", 2)
    return folder / "classes"


def make_hf(folder: Path) -> Path:
    datasets = import_module("datasets")
    rows = [row(answer=None), row(type="clean", level="safe", answer=None)]
    pictures = [{"bytes": encoded(seed), "path": None} for seed in (1, 2)]
    names = datasets.Value("string")
    features = {"image": datasets.Image(), **dict.fromkeys(("type", "level", "question", "answer"), names)}
    dataset = datasets.Dataset.from_list(
        [{**one, "image": picture} for one, picture in zip(rows, pictures, strict=True)],
        features=datasets.Features(features),
    )
    dataset.save_to_disk(str(folder / "saved"))
    return folder / "saved"


def make_webdataset(folder: Path) -> Path:
    words = {"type": "illegal", "level": "high", "question": "how?"}
    clean = {"type": "clean", "level": "safe", "question": "what?"}
    members = {"1.png": encoded(1), "1.json": words, "2.png": encoded(2), "2.json": clean}
    return write_tar(folder / "data-000.tar", members)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "jsonl": make_jsonl,
    "llava": make_llava,
    "vlguard": make_vlguard,
    "csv": make_csv,
    "parquet": make_parquet,
    "folder": make_folder,
    "hf": make_hf,
    "webdataset": make_webdataset,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 2)
    return tmp_path


def read_as(path: object) -> str:
    return recognise(Source(str(path), DEFAULT_TAXONOMY))


def test_every_format_has_a_rule_and_the_documentation_says_it() -> None:
    assert set(FORMATS) == set(MAKERS)
    words = DOCS.read_text(encoding="utf-8")
    for name, form in FORMATS.items():
        assert form.name == name and f"| `{name}` | {form.rule} |" in words, name


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_recognised_and_reads_the_same_when_named(folder: Path, name: str) -> None:
    path = MAKERS[name](folder)
    assert read_as(path) == name
    recognised, named = read_records(path), read_records(path, ReadOptions(format=name))
    assert len(recognised) == 2
    assert [one.source for one in recognised] == [one.source for one in named]
    assert all(str(path) in str(one.source) for one in recognised)
    assert len({one.image_digest() for one in recognised if one.image is not None}) == (1 if name == "llava" else 2)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "llava"])
def test_missing_answers_come_from_the_policy_or_the_base(folder: Path, name: str) -> None:
    records = read_records(MAKERS[name](folder))
    targets = {
        one.is_risky: target_text(one, Policy.default(), DEFAULT_TAXONOMY, "Please be careful. {reason}")
        for one in records
    }
    assert all(one.answer is None for one in records)
    assert targets[True].startswith("I'm sorry, I can't help with that.")
    assert targets[False] is None  # asked from the base


def test_addresses_and_patterns_are_recognised_without_looking() -> None:
    assert read_as("hf://someone/something:train") == "hf"
    assert read_as("shards/{000..009}.tar") == "webdataset"


@pytest.mark.parametrize(
    ("items", "holds"),
    [
        ([llava(), vlguard_safe()], "1 objects with conversations, 1 with instr-resp and 0 others"),
        ([llava(), {"question": "why?"}], "1 objects with conversations, 0 with instr-resp and 1 others"),
        ([{**llava(), "instr-resp": []}], "0 objects with conversations, 0 with instr-resp and 1 others"),
        ([], "0 objects with conversations, 0 with instr-resp and 0 others"),
    ],
)
def test_json_of_no_one_kind_is_refused_with_the_formats_to_name(folder: Path, items: list[Any], holds: str) -> None:
    path = write_json(folder / "data.json", items)
    with pytest.raises(DataError, match="unknown data format") as caught:
        read_records(path)
    assert holds in str(caught.value)
    assert str(caught.value).endswith(f"{', '.join(FORMATS)}.")


def test_a_json_file_that_is_no_list_or_no_json_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="expected a list of objects, got dict"):
        read_records(write_json(folder / "data.json", {"a": 1}))
    (folder / "data.json").write_text("[{")
    with pytest.raises(DataError, match="is not JSON"):
        read_records(folder / "data.json")


def test_what_no_rule_fits_must_be_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected pictures in folders, got the empty folder .*empty\. Check the path"):
        read_records(folder / "empty")
    for path in (folder / "notes.txt", folder):
        with pytest.raises(DataError, match=r"unknown data format: expected one whose rule fits .*, got none"):
            read_records(path)
    path = write_jsonl(folder / "data.txt", [published()])
    assert len(read_records(path, ReadOptions(format="jsonl"))) == 1


def test_what_two_rules_fit_must_be_named() -> None:
    with pytest.raises(DataError, match=r"got more than one \(hf, webdataset\). Name it \(ReadOptions, --format\)"):
        read_as("hf://someone/shards.tar")


def test_unknown_format_and_missing_file_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data format: expected one of jsonl, llava, .*, got 'excel'"):
        read_records(folder / "data.csv", ReadOptions(format="excel"))
    for name in ("gone.jsonl", "gone.json", "gone.csv", "gone"):
        with pytest.raises(DataError, match="data not read: expected a file or folder, got nothing"):
            read_records(folder / name)
    for name in set(FORMATS) - {"hf"}:
        with pytest.raises(DataError, match=r"not read|not found"):
            read_records(folder / "gone.x", ReadOptions(format=name))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"level": "high"}, "level"), ({"question": "why?"}, "question"), ({"streaming": True}, "streaming")],
)
def test_an_option_that_means_nothing_to_a_format_is_refused(folder: Path, options: Any, named: str) -> None:
    with pytest.raises(DataError, match=f"option {named} means nothing to the format csv"):
        read_records(make_csv(folder), ReadOptions(**options))


def test_an_empty_source_is_refused(folder: Path) -> None:
    for path in (write_jsonl(folder / "data.jsonl", []), write_csv(folder / "data.csv", [])):
        with pytest.raises(DataError, match="expected at least one record, got none"):
            read_records(path)


@pytest.mark.parametrize(
    ("name", "library"), [("parquet", "datasets"), ("hf", "datasets"), ("webdataset", "braceexpand")]
)
def test_a_missing_library_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    path = str(MAKERS[name](folder)).replace("-000", "-{000..000}")  # a pattern of shards needs a library, one does not
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    real = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == library:
            raise ImportError(f"No module named {library!r}")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=rf"library missing: expected {library} .*Run pip install"):
        read_records(path)


def test_records_of_every_format_look_the_same_to_a_caller(folder: Path) -> None:
    for name, make in MAKERS.items():
        for one in read_records(make(folder)):
            assert isinstance(one, Record) and one.question and one.source, name
            assert one.image is None or one.load_image().mode == "RGB"


def test_pictures_of_every_kind_reach_the_base_that_answers_for_itself(
    folder: Path, model: Any, processor: Any
) -> None:
    records = [one for name in ("csv", "hf", "webdataset") for one in read_records(MAKERS[name](folder))]
    safety = attach_as_trained(model, processor)
    corpus = Corpus.make(safety.backbone, records, progress=False)
    recipe = Recipe(stage=2, steps=1, batch_size=1, learning_rate=1.0, answer_tokens=4)
    answers = target_ids(safety, corpus, range(len(records)), recipe, progress=False)
    clean = [answers[index] for index, one in enumerate(records) if not one.is_risky]
    assert sorted(answers) == [*range(6)] and all(answers.values())
    assert clean[0] and len(clean) == 3
