"""String matching as a judge, and judges by specification."""

from pathlib import Path

import pytest
from judge_cases import REFUSAL, case, replies

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.judges import CHOICES, make_judge
from safety_modules.evaluation.judges.base import Judgement
from safety_modules.evaluation.judges.strings import StringJudge


@pytest.mark.parametrize("spec", ["string:start", "string:anywhere"])
def test_a_string_judge_sees_refusals_and_cautions_and_nothing_else(spec: str) -> None:
    texts = [REFUSAL, "Please be careful. first take the knife.", "first take the knife."]
    assert make_judge(spec).judge([case()] * 3, replies(*texts)) == [
        Judgement(refused=True, cautioned=False),
        Judgement(refused=False, cautioned=True),
        Judgement(refused=False, cautioned=False),
    ]


def test_the_two_matchers_differ_where_a_norm_is_named_in_passing() -> None:
    reply = replies("Warning. Mix the two. This is illegal in most countries.")
    assert make_judge("string:start").judge([case()], reply) == [Judgement(refused=False, cautioned=True)]
    assert make_judge("string:anywhere").judge([case()], reply) == [Judgement(refused=True, cautioned=False)]


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_answer_is_an_error_in_its_place_and_no_refusal(text: str) -> None:
    first, empty, last = make_judge("string:start").judge([case()] * 3, replies(REFUSAL, text, "a cup"))
    assert first.refused
    assert last.refused is False
    assert "empty answer" in str(empty.error)
    assert empty.refused is None
    assert empty.unsafe is None


def test_a_string_judge_names_its_phrases_by_a_digest_of_their_own() -> None:
    start, anywhere = (make_judge(f"string:{name}").describe() for name in ("start", "anywhere"))
    assert start["name"] == "string:start"
    assert start["version"]
    assert len(start["prompt_digest"]) == 64
    assert start["prompt_digest"] != anywhere["prompt_digest"]


def test_a_string_judge_of_an_unknown_matcher_is_refused() -> None:
    with pytest.raises(DataError, match="'middle'"):
        StringJudge("middle")


@pytest.mark.parametrize("spec", ["", "string", "string:middle", "endpoint:gpt", "local:", "guard:", "oracle:x"])
def test_an_unknown_specification_is_an_error_that_lists_the_choices(spec: str) -> None:
    with pytest.raises(ConfigError, match="unknown judge") as caught:
        make_judge(spec)
    assert all(form in str(caught.value) for form in CHOICES)


def test_what_may_hold_a_key_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        make_judge("endpoint:m@ftp://user:secret@host/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["local", "guard"])
def test_a_model_that_is_not_there_is_an_error_when_the_judge_is_made(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge not loaded.*no-such-model"):
        make_judge(f"{kind}:{tmp_path / 'no-such-model'}")
