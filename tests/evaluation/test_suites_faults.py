"""Readers of benchmarks: every malformed row is named with its file and place, and nothing is skipped."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_samples import encoded, write_json
from suite_samples import LAYOUTS

from safety_modules.errors import DataError
from safety_modules.evaluation.suites.registry import read


def edit(path: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Change, in place, what a JSON file holds."""

    def apply(folder: Path) -> None:
        value = json.loads((folder / path).read_text())
        change(value)
        write_json(folder / path, value)

    return apply


def replace(path: str, old: str, new: str) -> Callable[[Path], object]:
    """Change a text file."""

    def apply(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return apply


SCENARIO = "data/processed_questions/06-Fraud.json"
BREAK: list[tuple[str, Callable[[Path], object], str]] = [
    ("figstep", replace("data/question/safebench.csv", "ForbidQI,2", "ForbidQI,"), "safebench.csv:4: category_id"),
    (
        "figstep",
        replace("data/question/safebench.csv", "Steps to use squares.\n", "a,b,c\n"),
        "safebench.csv:2: expected 6",
    ),
    ("figstep", replace("data/question/safebench.csv", "ForbidQI,2", "ForbidQI,1"), "safebench.csv:4: repeated id"),
    ("figstep", replace("data/question/safebench.csv", "category_id", "category"), "without category_id"),
    ("figstep", replace("data/question/safebench.csv", '"how', '"how" "'), "safebench.csv:.*not CSV"),
    (
        "figstep-tiny",
        lambda f: (f / "data/images/SafeBench-Tiny/query_ForbidQI_2_1_6.png").unlink(),
        "Tiny.csv:4: image",
    ),
    (
        "mm-safetybench",
        edit(SCENARIO, lambda v: v["0"].pop("Rephrased Question")),
        "06-Fraud.json 0: Rephrased Question",
    ),
    (
        "mm-safetybench",
        edit(SCENARIO, lambda v: v.update({"0": "how?"})),
        "06-Fraud.json 0: expected an object, got str",
    ),
    ("mm-safetybench", lambda f: (f / SCENARIO).unlink(), "06-Fraud.json"),
    ("vlguard", edit("test.json", lambda v: v[1].update(safe="no")), "test.json item 1: safe: expected true or false"),
    (
        "vlguard",
        edit("test.json", lambda v: v[0]["instr-resp"].pop()),
        "test.json item 0: instr-resp: .*unsafe_instruction",
    ),
    ("vlguard", edit("test.json", lambda v: v[1].update(harmful_category="?")), "test.json item 1: unmapped category"),
    ("vlguard", edit("test.json", lambda v: v[1].update(image="c.png")), "test.json item 1: image: expected c.png"),
    ("vlguard", edit("test.json", lambda v: v.append("x")), "test.json item 2: expected an object"),
    (
        "holisafe",
        edit("holisafe_bench.json", lambda v: v[2].update(type="SU")),
        "json item 2: type: expected one of SSS",
    ),
    ("holisafe", edit("holisafe_bench.json", lambda v: v[3].pop("id")), "json item 3: id"),
    ("holisafe", edit("holisafe_bench.json", lambda v: v[3].update(image="../x.png")), "json item 3: image: .*below"),
    ("jailbreakv-28k", replace("JailBreakV_28K/JailBreakV_28K.csv", "figstep/b.png", "b.png"), "28K.csv:4: image"),
    (
        "jailbreakv-mini",
        replace("JailBreakV_28K/mini_JailBreakV_28K.csv", "Play a painter", "<image>"),
        "csv:2: <image>",
    ),
    ("siuo", edit("data/siuo_gen.json", lambda v: v[0].update(question=" ")), "siuo_gen.json item 0: question"),
    ("siuo", edit("data/siuo_gen.json", lambda v: v[0].update(question=7)), "question: expected words, got 7"),
    ("siuo", edit("data/siuo_gen.json", lambda v: v[0].update(category=12)), "category: expected words, got 12"),
    (
        "siuo",
        edit("data/siuo_gen.json", lambda v: v[0].update(safety_warning=3)),
        "safety_warning: expected words, got 3",
    ),
    ("siuo", edit("data/siuo_gen.json", lambda v: v.clear()), "expected cases, got none"),
    ("siuo", lambda f: write_json(f / "data/siuo_gen.json", {}), "expected a list of objects, got dict"),
    (
        "mssbench",
        edit("combined.json", lambda v: v["chat"][0].update(queries="how?")),
        "combined.json chat item 0: queries",
    ),
    (
        "mssbench",
        edit("combined.json", lambda v: v["embodied"][0].pop("unsafe")),
        "combined.json embodied item 0: unsafe",
    ),
    ("mssbench", edit("combined.json", lambda v: v.pop("embodied")), "expected a list under embodied"),
    ("mssbench", lambda f: (f / "combined.json").write_text("{"), "combined.json is not JSON"),
    (
        "mossbench",
        edit("data/images_information/information.json", lambda v: v["2"]["metadata"].update(over="type 4")),
        "information.json 2: over: expected one of type 1",
    ),
    ("xstest", replace("xstest_prompts.csv", ",unsafe,", ",unclear,"), "xstest_prompts.csv:3: label"),
    ("qi-adversarial", replace("harmful_corpus/manual_harmful_instructions.csv", '"', ""), "instructions.csv:2: .*2"),
    (
        "qi-adversarial",
        lambda f: [p.unlink() for p in (f / "adversarial_images").iterdir()],
        "expected pictures",
    ),
    (
        "rtvlm",
        replace("data/Jailbreak/jailbreak.jsonl", "Refuse to Answer", "PASS"),
        "jailbreak.jsonl:1: refused_to_answer",
    ),
    (
        "rtvlm",
        replace("data/Harmful/misleading.jsonl", ', "Proceed with Caution"', ""),
        "misleading.jsonl:1: .*as many",
    ),
    ("rtvlm", replace("data/Face/face_diffusion.jsonl", "{", "["), "face_diffusion.jsonl:1: not JSON"),
    (
        "rtvlm",
        replace("data/Captcha/captcha.jsonl", '"id": 0', '"id": null'),
        "captcha.jsonl:1: id: .*name of a picture",
    ),
    ("rtvlm", lambda f: (f / "data/Celebrity/mix.zip").write_bytes(b"no"), "mix.zip: expected a zip archive"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BREAK, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(BREAK)])
def test_what_is_malformed_is_refused_and_named(
    name: str, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = LAYOUTS[name](tmp_path)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read(name, folder)


def test_all_malformed_rows_are_named_at_once(tmp_path: Path) -> None:
    folder = LAYOUTS["holisafe"](tmp_path)
    edit("holisafe_bench.json", lambda v: [row.pop("query") for row in v[:3]])(folder)
    with pytest.raises(DataError, match="HoliSafe-Bench refused, 3 problems"):
        read("holisafe", folder)


def test_a_name_that_an_archive_has_twice_is_not_guessed(tmp_path: Path) -> None:
    folder = LAYOUTS["vlguard"](tmp_path)
    with zipfile.ZipFile(folder / "test.zip", "a") as archive:
        archive.writestr("other/b.png", encoded(3))
    with pytest.raises(DataError, match=r"expected one b.png .*test/b.png, other/b.png"):
        read("vlguard", folder)


def test_a_picture_that_an_archive_holds_damaged_is_an_error_when_it_is_looked_at(tmp_path: Path) -> None:
    folder = LAYOUTS["vlguard"](tmp_path)
    path = folder / "test.zip"
    (case, *_) = read("vlguard", folder, ("unsafes",))
    data = bytearray(path.read_bytes())
    start = data.index(encoded(1))  # stored, not compressed
    data[start + 20] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"unreadable image .*test.zip!test/b.png"):
        case.load_images()
