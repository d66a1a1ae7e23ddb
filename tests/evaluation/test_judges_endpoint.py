"""The endpoint judge, against a server that misbehaves."""

import base64
import json
from typing import Any

import pytest
from judge_cases import case, replies
from judge_server import Say, completion, failure, serve

from safety_modules.errors import ConfigError
from safety_modules.evaluation.judges import make_judge
from safety_modules.evaluation.judges.base import Judgement
from safety_modules.evaluation.judges.endpoint import KEY, EndpointJudge

SECRET = "not-to-be-shown"
GOOD = Judgement(score=7, unsafe=False)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def judge(url: str, **options: Any) -> EndpointJudge:
    return EndpointJudge("judge", url, **{"max_retries": 2, "timeout": 5.0, **options})


def test_a_number_is_a_score() -> None:
    with serve(completion("7")) as server:
        assert judge(server.url).judge([case()], replies("a cup")) == [GOOD]
    (asked,) = server.requests
    assert asked["temperature"] == 0
    assert "a cup" in asked["messages"][0]["content"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_tried_again(status: int) -> None:
    with serve(failure(status), failure(status), completion("7")) as server:
        assert judge(server.url).judge([case()], replies("a cup")) == [GOOD]
    assert len(server.requests) == 3


def test_a_call_that_times_out_once_is_tried_again() -> None:
    with serve(Say(hang=True), completion("7")) as server:
        assert judge(server.url, timeout=0.3, max_retries=1).judge([case()], replies("a cup")) == [GOOD]


@pytest.mark.parametrize(
    ("said", "reason", "calls"),
    [
        (failure(429), "HTTP 429", 3),
        (failure(500), "HTTP 500", 3),
        (failure(401, f"wrong key {SECRET}"), "HTTP 401", 1),
        (failure(404), "HTTP 404", 1),
        (Say(b"<html>busy</html>", kind="text/html"), "without a choice", 1),
        (Say(b'{"choices": [{"message"'), "JSONDecodeError", 1),
        (Say(b"[]"), "without a choice", 1),
        (Say(b"null"), "without a choice", 1),
        (Say(json.dumps({"choices": []}).encode()), "without a choice", 1),
        (Say(json.dumps({"choices": [{"index": 0}]}).encode()), "without a choice", 1),
        (completion(None), "empty", 1),
        (completion(""), "empty", 1),
        (completion(7), "empty", 1),
        (completion("I cannot rate this."), "unparsable", 1),
        (completion(None, refusal="I won't."), "refusal", 1),
        (completion("7", finish="content_filter"), "refusal", 1),
        (completion("7", finish="length"), "cut off", 1),
        (completion("11"), "out of range", 1),
    ],
)
def test_whatever_is_no_score_is_an_error_and_never_safe(said: Say, reason: str, calls: int) -> None:
    with serve(said) as server:
        (found,) = judge(server.url).judge([case()], replies("a cup"))
    assert found == Judgement(error=found.error)
    assert reason in str(found.error)
    assert SECRET not in str(found.error)
    assert len(server.requests) == calls


def test_a_server_that_never_answers_is_an_error() -> None:
    with serve(Say(hang=True)) as server:
        (found,) = judge(server.url, timeout=0.2, max_retries=0).judge([case()], replies("a cup"))
    assert "APITimeoutError" in str(found.error)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with serve(completion("7")) as server:
        pass
    (found,) = judge(server.url, max_retries=0).judge([case()], replies("a cup"))
    assert "APIConnectionError" in str(found.error)


def test_one_failure_spoils_no_other_judgement_and_order_is_kept() -> None:
    with serve(completion("1"), failure(400), completion("3"), completion("9")) as server:
        found = judge(server.url, concurrency=1).judge([case()] * 5, replies("a", "b", "", "c", "d"))
    assert [one.score for one in found] == [1, None, None, 3, 9]
    assert len(server.requests) == 4  # nothing is asked about an empty answer


def test_no_more_calls_at_a_time_than_allowed() -> None:
    with serve(completion("7")) as server:
        judge(server.url, concurrency=2).judge([case()] * 12, replies(*"abcdefghijkl"))
    assert len(server.requests) == 12
    assert server.at_once <= 2


def test_pictures_are_sent_when_asked_for_and_only_then() -> None:
    with serve(completion("7")) as server:
        judge(server.url).judge([case()], replies("a cup"))
        judge(server.url, images=True, concurrency=1).judge([case(), case(images=())], replies("a cup", "a cup"))
    plain, (words, image), without = (asked["messages"][0]["content"] for asked in server.requests)
    assert isinstance(plain, str)
    assert isinstance(without, str)
    assert "attached" in words["text"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_an_unreadable_picture_is_that_replys_error(tmp_path: Any) -> None:
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no picture")
    with serve(completion("7")) as server:
        found = judge(server.url, images=True).judge([case(images=(broken,)), case()], replies("a", "b"))
    assert "unreadable image" in str(found[0].error)
    assert found[1] == GOOD


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(completion("7")) as server:
        made = judge(server.url)
        made.judge([case()], replies("a cup"))
        monkeypatch.delenv(KEY)
        judge(server.url).judge([case()], replies("a cup"))
    assert server.keys == [f"Bearer {SECRET}", "Bearer none"]
    assert SECRET not in json.dumps(made.describe())
    assert SECRET not in json.dumps(server.requests)


def test_a_report_names_the_model_that_was_asked_for_and_the_one_that_answered() -> None:
    with serve(completion("7")) as server:
        made = make_judge(f"endpoint+images:judge@{server.url}/")
        before = made.describe()
        made.judge([case()], replies("a cup"))
        after = made.describe()
    assert (before["version"], before["served"]) == ("judge", [])
    assert after == {**before, "served": ["judge-2"]}
    assert (after["name"], after["url"]) == ("endpoint+images:judge", server.url)
    assert len(after["prompt_digest"]) == 64


@pytest.mark.parametrize("url", ["http://", "http://user:pw@host/v1", "https://host/v1?key=pw", "https://host/#pw"])
def test_an_address_that_cannot_be_used_or_hides_a_key_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="judge's address") as caught:
        judge(url)
    assert "pw" not in str(caught.value)
