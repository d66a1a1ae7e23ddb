"""An interrupted evaluation goes on as if nothing had happened, and a folder holds one run only."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness_fakes import FakeJudge, FakeSystem, make_benchmark, make_cases

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness import run as harness
from safety_modules.evaluation.harness.journal import Journal
from safety_modules.evaluation.harness.judgements import JudgedReply, judge_all
from safety_modules.evaluation.harness.run import RunSettings, evaluate
from safety_modules.evaluation.harness.sample import draw
from safety_modules.evaluation.harness.transcripts import Transcript, answer_all

CASES = make_cases(5)
SYSTEMS = {"none": 0.0, "half": 0.5}
BATCH = 4


def ask(folder: Path, session: int = 1, **faults: Any) -> list[Transcript]:
    systems = {name: partial(FakeSystem, name, stops, **faults) for name, stops in SYSTEMS.items()}
    return answer_all(CASES, systems, Journal(folder / "t.jsonl", Transcript), BATCH, 8, session)


def said(lines: list[Transcript]) -> list[Any]:
    return [line.model_dump(exclude={"seconds", "session"}) for line in lines]


@pytest.mark.parametrize("seed", range(8))
def test_transcripts_cut_off_anywhere_end_up_the_same(tmp_path: Path, seed: int) -> None:
    whole = said(ask(tmp_path))
    path = tmp_path / "t.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: random.Random(seed).randrange(len(data))])
    assert said(ask(tmp_path, session=2)) == whole
    assert len(Journal(path, Transcript).read()) == len(whole)


def test_an_interrupted_run_asks_only_for_the_batches_that_were_not_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, breaks_at="vqa-4")
    before = {(line.system, line.case) for line in Journal(tmp_path / "t.jsonl", Transcript).read()}
    log: list[Any] = []
    lines = ask(tmp_path, session=2, log=log)
    assert before
    assert len(lines) == len(SYSTEMS) * len(CASES)
    asked = [(name, case) for name, ids in log if ids != "closed" for case in ids]
    warming = 2  # the first call of each system is made twice
    assert len(asked) == len(lines) - len(before) + warming


def test_a_system_is_closed_whatever_happens_while_it_answers(tmp_path: Path) -> None:
    log: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, log=log, breaks_at="vqa-4")
    assert log[-1][1] == "closed"


def test_a_line_that_no_kill_could_have_damaged_is_an_error(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "t.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = b'{"system": "none"}'
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="expected a transcript in line 3"):
        ask(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_judgements_cut_off_anywhere_end_up_the_same(tmp_path: Path, seed: int) -> None:
    lines = ask(tmp_path)
    journal = Journal(tmp_path / "j.jsonl", JudgedReply)
    whole = judge_all(FakeJudge(), CASES, lines, journal)
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[: random.Random(seed).randrange(len(data))])
    kept = len(journal.read())
    judge = FakeJudge()
    assert judge_all(judge, CASES, lines, journal) == whole
    assert len(judge.asked) == len(whole) - kept


def test_what_a_judge_failed_on_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    lines = ask(tmp_path)
    journal = Journal(tmp_path / "j.jsonl", JudgedReply)
    judge_all(FakeJudge(fails_on=["text-1"]), CASES, lines, journal)
    judge = FakeJudge()
    judged = judge_all(judge, CASES, lines, journal)
    assert judge.asked == ["text-1", "text-1"]  # of two systems
    assert not any(judgement.error for judgement in judged.values())


def test_a_judgement_of_another_reply_is_not_used(tmp_path: Path) -> None:
    lines = ask(tmp_path)
    journal = Journal(tmp_path / "j.jsonl", JudgedReply)
    judge_all(FakeJudge(), CASES, lines, journal)
    changed = lines[0].model_copy(update={"reply": lines[0].reply.model_copy(update={"text": "No."})})
    judge = FakeJudge()
    judge_all(judge, CASES, [changed, *lines[1:]], journal)
    assert judge.asked == [lines[0].case]


def run(
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cases: list[Case] = CASES,
    systems: dict[str, float] = SYSTEMS,
    judges: tuple[FakeJudge, ...] = (FakeJudge(),),
    breaks_at: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    monkeypatch.setattr(harness, "write_page", lambda *arguments: None)
    openers = [partial(FakeSystem, name, stops, breaks_at=breaks_at) for name, stops in systems.items()]
    return evaluate(draw(make_benchmark(cases)), openers, judges, out, {"name": "b"}, RunSettings(**settings))


def test_the_numbers_of_a_resumed_run_are_those_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, batch_size=BATCH)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", monkeypatch, batch_size=BATCH, breaks_at="text-3")
    resumed = run(tmp_path / "cut", monkeypatch, batch_size=BATCH)
    assert len(resumed["settings"]["sessions"]) == 2
    for key in ("results", "parts", "categories", "verdicts", "suite", "systems"):
        assert resumed[key] == whole[key]


def test_another_run_in_the_same_folder_is_refused_and_what_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="another cases"):
        run(tmp_path, monkeypatch, cases=CASES[1:])
    with pytest.raises(ConfigError, match="another batch size, another limit of new tokens"):
        run(tmp_path, monkeypatch, batch_size=3, max_new_tokens=9)
    with pytest.raises(ConfigError, match="got another system half"):
        run(tmp_path, monkeypatch, systems={"none": 0.0, "half": 0.6})
    with pytest.raises(ConfigError, match="got another system third"):
        run(tmp_path, monkeypatch, systems={**SYSTEMS, "third": 0.6})
    with pytest.raises(ConfigError, match="another judge words"):
        run(tmp_path, monkeypatch, judges=(FakeJudge(version="2"),))


def test_a_finished_run_can_be_judged_once_more_by_someone_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch)
    first, second = FakeJudge(), FakeJudge("other")
    report = run(tmp_path, monkeypatch, judges=(first, second))
    assert first.asked == []
    assert len(second.asked) == report["judges"]["other"]["judged"]
    assert (tmp_path / "judgements-other.jsonl").exists()
