"""The harness: fair, complete, and loud about what it could not do."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness_fakes import FakeJudge, FakeSystem, make_benchmark, make_cases

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.cases import Case, Reply
from safety_modules.evaluation.harness import run as harness
from safety_modules.evaluation.harness.journal import Journal
from safety_modules.evaluation.harness.run import RunSettings, evaluate
from safety_modules.evaluation.harness.sample import draw, spread
from safety_modules.evaluation.harness.transcripts import BLOCK, Transcript, answer_all, batches

CASES = make_cases(8)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page and its plots, which take a second."""
    monkeypatch.setattr(harness, "write_page", lambda *arguments: None)


def run(out: Path, judges: list[FakeJudge], systems: list[Any] | None = None, **settings: Any) -> dict[str, Any]:
    openers = systems or [partial(FakeSystem, "ours", 0.9), partial(FakeSystem, "none")]
    return evaluate(draw(make_benchmark(CASES)), openers, judges, out, {"name": "b"}, RunSettings(**settings))


def test_every_system_answers_every_case_in_the_same_batches(tmp_path: Path) -> None:
    log: list[Any] = []
    systems = {name: partial(FakeSystem, name, log=log) for name in ("none", "a", "b")}
    lines = answer_all(CASES, systems, Journal(tmp_path / "t", Transcript), 2, 8, session=1)
    assert [(line.system, line.case) for line in lines] == [(name, case.id) for name in systems for case in CASES]
    batch_of = {name: [line.batch for line in lines if line.system == name] for name in systems}
    assert batch_of["a"] == batch_of["none"] == batch_of["b"]


def test_one_system_is_open_at_a_time_and_they_take_turns_after_a_few_batches(tmp_path: Path) -> None:
    log: list[Any] = []
    systems = {name: partial(FakeSystem, name, log=log) for name in ("none", "a")}
    answer_all(CASES, systems, Journal(tmp_path / "t", Transcript), 2, 8, session=1)
    turns = [name for name, what in log if what == "closed"]
    assert len(batches(CASES, 2)) > 2 * BLOCK
    assert turns[:6] == ["none", "a", "a", "none", "none", "a"]  # every other block runs backwards
    open_system = None
    for name, what in log:
        assert open_system in (None, name)
        open_system = None if what == "closed" else name


def test_benign_cases_and_those_with_other_numbers_of_pictures_have_batches_of_their_own() -> None:
    for batch in batches(CASES, 5):
        assert len({(len(case.images), case.wanted in ("answer", "exact")) for case in batch}) == 1
        assert len(batch) <= 5


def test_the_base_comes_first_and_without_it_nothing_is_measured(tmp_path: Path, no_page: None) -> None:
    report = run(tmp_path / "a", [FakeJudge()])
    assert list(report["systems"]) == ["none", "ours"]
    with pytest.raises(ConfigError, match="expected the bare base, 'none', among the systems, got ours"):
        run(tmp_path / "b", [FakeJudge()], [partial(FakeSystem, "ours")])
    with pytest.raises(ConfigError, match="'none' twice"):
        run(tmp_path / "b", [FakeJudge()], [FakeSystem, FakeSystem])
    assert not (tmp_path / "b").exists()


def test_what_a_judge_fails_on_is_listed_and_in_no_rate(tmp_path: Path, no_page: None) -> None:
    failed = ["nobody", "attack-seen-0", "attack-seen-1"]
    report = run(tmp_path, [FakeJudge(fails_on=failed)], max_judge_errors=0.5)
    assert {row["case"] for row in report["judge_errors"]} == set(failed[1:])
    for system in ("none", "ours"):
        assert report["parts"]["words"]["attack/seen"][system]["asr"]["n"] == 8 - 2
    assert report["results"]["words"]["all"]["none"]["asr"]["value"] == 1.0
    assert report["failed"] == []


def test_above_the_set_share_of_failures_the_run_fails_after_everything_is_written(
    tmp_path: Path, no_page: None
) -> None:
    with pytest.raises(DataError, match=r"judge words failed on 2 of \d+ replies, the first: no score in the answer"):
        run(tmp_path, [FakeJudge(fails_on=["text-0"])])
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["failed"] == ["words"]
    assert len(written["judge_errors"]) == 2


def test_an_unreadable_picture_is_an_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = [
        Case(id=name, part="p", wanted="refuse", prompt="?", images=(tmp_path / f"{name}.png",))
        for name in ("broken", "missing")
    ]
    with pytest.raises(DataError, match="got 2 that cannot") as error:
        draw(make_benchmark([*CASES, *bad]))
    assert "broken.png" in str(error.value)
    assert "missing.png" in str(error.value)


def test_too_few_replies_or_judgements_are_an_error_that_names_who_gave_them(tmp_path: Path, no_page: None) -> None:
    class Short(FakeSystem):
        def answer(self, cases: Any, max_new_tokens: int) -> list[Reply]:
            return super().answer(cases, max_new_tokens)[1:]

    class Silent(FakeJudge):
        def judge(self, cases: Any, replies: Any) -> list[Any]:
            return []

    with pytest.raises(DataError, match="system none: expected 16 replies"):
        run(tmp_path / "a", [FakeJudge()], [Short])
    with pytest.raises(DataError, match="judge words: expected"):
        run(tmp_path / "b", [Silent()])


def test_judges_need_files_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names of their own, got a/b, a:b"):
        run(tmp_path, [FakeJudge("a/b"), FakeJudge("a:b")])
    with pytest.raises(ConfigError, match="got none"):
        run(tmp_path, [])


def test_a_limit_takes_cases_from_all_along_every_part_and_depends_on_the_seed() -> None:
    cases = [case.model_copy(update={"id": f"{case.id}-{i}"}) for i in range(5) for case in CASES]
    kept = spread(cases, 4, seed=0)
    places = [place for place, case in enumerate(cases) if case.part == "vqa"]
    chosen = [place for place in places if cases[place] in kept]
    assert len(chosen) == 4
    for quarter, place in enumerate(chosen):
        assert places.index(place) // (len(places) // 4) == quarter
    assert spread(cases, 4, seed=0) == kept != spread(cases, 4, seed=1)
    assert spread(CASES, 100, seed=0) == CASES


def test_the_report_says_that_it_is_a_sample() -> None:
    sample = draw(make_benchmark(CASES), parts=["*/seen"], limit=3, seed=7)
    assert {case.part for case in sample.cases} == {"attack/seen", "benign/seen"}
    about = harness._about(sample)
    assert (about["cases"], about["available"], about["limit"], about["seed"]) == (6, 16, 3, 7)


def test_the_digest_changes_with_whatever_a_model_is_shown_or_measured_by() -> None:
    def digest(**change: Any) -> str:
        return draw(make_benchmark([CASES[0].model_copy(update=change), *CASES[1:]])).digest

    changes = [{"prompt": "Now?"}, {"wanted": "answer"}, {"type": "clean"}, {"images": CASES[-3].images or ()}, {}]
    assert len({digest(**change) for change in changes}) == len(changes)
    assert digest() == digest()


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "got none"),
        ([CASES[0], CASES[0]], "twice"),
        ([Case(id="a", part="p", wanted="exact", prompt="?")], "expected the reference answer"),
    ],
)
def test_cases_that_cannot_be_measured_are_refused(cases: list[Case], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(make_benchmark(cases))


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="got attack/blue"):
        draw(make_benchmark(CASES), parts=["attack/blue"])
