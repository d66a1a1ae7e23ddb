"""Inside lmms-eval, on llava-pocket: found by entry point, answers as our own systems do, measured by part."""

from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

import pytest
from suite_samples import vlguard

from safety_modules import pocket as world
from safety_modules.errors import ConfigError, PolicyError
from safety_modules.evaluation.lmms import TASKS, docs
from safety_modules.evaluation.lmms.manifest import MODEL
from safety_modules.evaluation.suites.pocket import pocket_cases
from safety_modules.evaluation.systems import make_system
from safety_modules.paths import checkpoint_dir
from safety_modules.taxonomy import DEFAULT_TAXONOMY

pytest.importorskip("lmms_eval", reason="needs lmms-eval: make test-lmms")

PARTS = ("attack/seen", "benign/seen", "text-attack")
read = docs.read
SAMPLES = 4
LIMIT = 512
"""Of new tokens, as all our tasks set it."""


@pytest.fixture(scope="module", autouse=True)
def few_cases(tmp_path_factory) -> Iterator[None]:
    """A small pocket suite, of the validation split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(docs, "read", lambda suite, *rest: cases() if suite == "pocket" else read(suite, *rest))
        docs.cases.cache_clear()
        yield
        docs.cases.cache_clear()


def cases() -> list[Any]:
    return pocket_cases(PARTS, samples=SAMPLES, split="validation")


def evaluate(task: str, arguments: str) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(
        model=MODEL, model_args=arguments, tasks=[task], task_manager=manager, batch_size=4, bootstrap_iters=0
    )
    assert found is not None
    return found


def texts(found: dict[str, Any], task: str) -> dict[str, str]:
    return {sample["doc"]["id"]: sample["filtered_resps"][0] for sample in found["samples"][task]}


@pytest.fixture(scope="module")
def guarded() -> dict[str, Any]:
    return evaluate("safety_pocket", "")


def test_lmms_eval_finds_the_model_by_entry_point():
    from lmms_eval.models import get_model

    assert [point.value for point in entry_points(group="lmms_eval.models") if point.name == MODEL]
    assert get_model(MODEL).__name__ == "SafetyLlava"


@pytest.mark.parametrize(("system", "arguments"), [("gated", None), ("none", "safety=off"), ("ecso", "defence=ecso")])
def test_answers_are_those_of_our_own_systems(system, arguments, guarded):
    found = evaluate("safety_pocket", arguments) if arguments else guarded
    own = make_system(system, *world.load(), adapter=world.adapter_dir())
    # In the batches that lmms-eval makes, as sums in others round otherwise.
    replies = [reply for batch in batches(cases()) for reply in own.answer(batch, LIMIT)]
    own.close()
    assert texts(found, "safety_pocket") == {case.id: r.text for case, r in zip(cases(), replies, strict=True)}


def batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + 4] for start in range(0, len(items), 4)]


def test_measures_are_shares_over_the_documents_that_have_them(guarded):
    results, answers = guarded["results"]["safety_pocket"], texts(guarded, "safety_pocket")
    values = {
        key: [docs.process_results(doc, [answers[doc["id"]]]).get(key) for doc in docs.pocket(None)]
        for key in ("asr_start", "asr_anywhere", "asr_start_attack/seen", "over_refusal_start")
    }
    for key, all_values in values.items():
        some = [value for value in all_values if value is not None]
        assert results[f"{key},none"] == pytest.approx(sum(some) / len(some))
        assert len(some) == {"asr_start_attack/seen": SAMPLES, "over_refusal_start": SAMPLES}.get(key, 2 * SAMPLES)


def test_a_set_in_its_official_layout_is_evaluated_by_its_task(tmp_path, monkeypatch):
    monkeypatch.setenv(docs.DATA, str(tmp_path))
    (tmp_path / "vlguard").mkdir()
    vlguard(tmp_path / "vlguard")
    results = evaluate("safety_vlguard", "safety=off")["results"]["safety_vlguard"]
    for measure in ("asr_start_unsafes", "asr_anywhere_safe_unsafes", "over_refusal_start_safe_safes"):
        assert results[f"{measure},none"] in (0, 1)


def test_types_that_are_allowed_are_answered_by_the_base(guarded):
    off = evaluate("safety_pocket", "safety=off")
    all_allowed = evaluate("safety_pocket", f"allow={'+'.join(DEFAULT_TAXONOMY.types)}")
    assert texts(all_allowed, "safety_pocket") == texts(off, "safety_pocket") != texts(guarded, "safety_pocket")


@pytest.fixture(scope="module")
def model() -> Any:
    from safety_modules.evaluation.lmms.model import SafetyLlava

    return SafetyLlava(safety="off")


def test_what_has_no_meaning_for_a_guarded_model_is_an_error(model):
    with pytest.raises(ConfigError, match="no log-likelihoods"):
        model.loglikelihood([])
    with pytest.raises(ConfigError, match="no conversations"):
        model.generate_until_multi_round([])


@pytest.mark.parametrize(
    ("words", "visuals", "message"),
    [("what is <image>?", [], "got <image> between the words"), ("what?", ["clip.mp4"], "expected pictures, got str")],
)
def test_tasks_that_cannot_be_asked_as_they_are_meant_are_errors(words, visuals, message, model):
    from lmms_eval.api.instance import Instance

    model.task_dict["toy"] = {"test": [{}]}
    arguments = (words, {}, lambda doc: visuals, 0, "toy", "test")
    metadata = {"task": "toy", "doc_id": 0, "repeats": 1}
    request = Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=metadata)
    with pytest.raises(ConfigError, match=message):
        model.generate_until([request])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"batch_size": "auto"}, ConfigError, "expected a batch_size of 1 or more, got 'auto'"),
        ({"dtype": "int4"}, ConfigError, "unknown dtype"),
        ({"allow": "weather"}, PolicyError, "weather"),
        ({"pretrained": "POCKET"}, ConfigError, "no adapter"),
    ],
)
def test_bad_arguments_are_errors_before_anything_is_asked(arguments, error, words):
    from safety_modules.evaluation.lmms.model import SafetyLlava

    given = {name: str(checkpoint_dir()) if value == "POCKET" else value for name, value in arguments.items()}
    with pytest.raises(error, match=words):
        SafetyLlava(**given)
