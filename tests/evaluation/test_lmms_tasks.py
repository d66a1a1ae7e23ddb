"""Tasks for lmms-eval, without it: their documents are our benchmarks' cases, their measures our matchers'."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from suite_samples import figstep_tiny, mm_safetybench, siuo, vlguard
from suite_samples_rtvlm import rtvlm

from safety_modules.errors import DataError
from safety_modules.evaluation.lmms import TASKS, docs
from safety_modules.evaluation.matchers import MATCHERS
from safety_modules.evaluation.suites import registry

REFUSAL, CAUTION, STEPS = "I'm sorry, I can't help with that.", "Please be careful. 1. Get it.", "1. Get it. 2. Use it."
NO_FUNCTION = type("Loader", (yaml.SafeLoader,), {})
NO_FUNCTION.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def task(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), NO_FUNCTION)  # noqa: S506 (a SafeLoader)


FILES = sorted(TASKS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    docs.cases.cache_clear()
    monkeypatch.setenv(docs.DATA, str(tmp_path))
    yield
    docs.cases.cache_clear()


@pytest.mark.parametrize(
    ("write", "folder", "suite"),
    [
        (vlguard, "vlguard", "vlguard"),
        (figstep_tiny, "figstep", "figstep-tiny"),
        (mm_safetybench, "mm-safetybench", "mm-safetybench"),
        (siuo, "siuo", "siuo"),
        (rtvlm, "rtvlm", "rtvlm"),
    ],
)
def test_documents_are_the_cases_of_the_official_layout(write, folder, suite, tmp_path):
    (tmp_path / folder).mkdir()
    write(tmp_path / folder)
    cases = registry.read(suite, tmp_path / folder)
    found = getattr(docs, suite.replace("-", "_"))(None)
    assert [(doc["id"], doc["prompt"], doc["part"]) for doc in found] == [(c.id, c.prompt, c.part) for c in cases]
    for doc, case in zip(found, cases, strict=True):
        assert [image.tobytes() for image in docs.doc_to_visual(doc)] == [i.tobytes() for i in case.load_images()]


def test_each_answer_is_measured_by_both_matchers_for_all_and_for_its_part(tmp_path):
    (tmp_path / "vlguard").mkdir()
    vlguard(tmp_path / "vlguard")
    documents = {doc["part"]: doc for doc in docs.vlguard(None)}
    complied = docs.process_results(documents["unsafes"], [STEPS])
    assert complied["asr_start"] == complied["asr_anywhere_unsafes"] == 1
    assert docs.process_results(documents["unsafes"], [REFUSAL])["asr_start_unsafes"] == 0
    refused = docs.process_results(documents["safe_safes"], [REFUSAL])
    assert refused["over_refusal_start_safe_safes"] == 1 and "asr_start" not in refused
    late = docs.process_results(documents["unsafes"], ["Well, here is why it is illegal."])
    assert (late["asr_start"], late["asr_anywhere"]) == (1, 0)


def test_a_caution_is_enough_only_where_the_benchmark_says_so(tmp_path):
    for name, write in (("siuo", siuo), ("vlguard", vlguard)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    enough = docs.process_results(docs.siuo(None)[0], [CAUTION])
    assert (enough["asr_start"], enough["content_start"], enough["cautioned_start"]) == (0, 1, 1)
    unsafe = next(doc for doc in docs.vlguard(None) if doc["part"] == "unsafes")
    assert docs.process_results(unsafe, [CAUTION])["asr_start"] == 1


def test_absent_data_are_an_error_that_says_where_to_put_them_and_how_to_get_them(tmp_path, monkeypatch):
    obtain = re.escape(registry.benchmark("vlguard").obtain)
    with pytest.raises(DataError, match=f"{obtain} .* looks into .*vlguard is not there"):
        docs.vlguard(None)
    monkeypatch.delenv(docs.DATA)
    with pytest.raises(DataError, match=r"\$SAFETY_MODULES_DATA/vlguard: SAFETY_MODULES_DATA is not set"):
        docs.vlguard(None)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_task_refers_to_what_exists_and_names_measures_of_parts_that_exist(path):
    found = task(path)
    module, _, function = found["process_docs"].rpartition(".")
    assert module == docs.__name__ and callable(getattr(docs, function))
    assert found["task"] == path.stem == f"safety_{function}"
    suite = registry.benchmark(function.replace("_", "-"))
    names = {f"{measure}_{matcher}" for measure in ("asr", "content", "over_refusal") for matcher in MATCHERS} | {
        "accuracy"
    }
    known = names | {f"{name}_{part}" for name in names for part in suite.parts}
    assert {metric["metric"] for metric in found["metric_list"]} <= known
    assert (TASKS / found["include"]).is_file()


def test_every_task_function_has_a_task():
    functions = {name for name in vars(docs) if f"safety_{name}" in {path.stem for path in FILES}}
    assert len(functions) == len(FILES) == 7
