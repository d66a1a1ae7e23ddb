"""One row's answer: where it ends, and that what is streamed is what is said in the end."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

import torch
from hypothesis import given
from hypothesis import strategies as st

from safety_modules.defences.answer import Row
from safety_modules.serving.answering import Answering, Rows, visible

END = 0
ALPHABET = "abc \n\ufffd"
texts = st.text(ALPHABET, max_size=12)
stops = st.lists(st.text("abc ", min_size=1, max_size=3), max_size=3)


def answering(stops=(), limit=100, listens=True):
    """An answer whose ids are letters; 0 ends it."""
    heard = {"pieces": [], "began": [], "whole": []}
    one = Answering(
        decode=lambda ids: "".join(chr(i) for i in ids if i != END),
        ends=frozenset({END}),
        limit=limit,
        stops=stops,
        began=heard["began"].append,
        finished=heard["whole"].append,
        said=heard["pieces"].append if listens else None,
    )
    return one, heard


def said(text, *arguments, **options):
    one, heard = answering(*arguments, **options)
    one.begin(None)
    for letter in text:
        one.put(ord(letter))
    one.put(END)
    one.end()
    return heard


@given(texts, stops, st.integers(1, 14))
def test_what_is_streamed_is_what_is_said_in_the_end(text, stops, limit):
    heard, quiet = said(text, stops, limit), said(text, stops, limit, listens=False)
    (whole,) = heard["whole"]
    assert "".join(heard["pieces"]) == whole.text
    assert quiet["whole"] == [whole] and not quiet["pieces"]
    assert len(heard["began"]) == 1


@given(texts, stops)
def test_an_answer_ends_before_the_first_stop(text, stops):
    (whole,) = said(text, stops)["whole"]
    assert whole.finish == "stop"
    assert not any(stop in whole.text for stop in stops if stop.strip() == stop)
    assert text.strip().startswith(whole.text)


@given(texts.filter(str.strip), stops)
def test_what_is_held_back_is_shown_in_the_end(text, stops):
    shown, stopped = visible(text, stops)
    whole, _ = visible(text, stops, whole=True)
    assert whole.startswith(shown) or stopped


@given(texts, st.integers(1, 8))
def test_an_answer_has_no_more_tokens_than_its_limit(text, limit):
    (whole,) = said(text, limit=limit)["whole"]
    assert whole.tokens <= limit
    assert whole.finish == ("stop" if len(text) < limit else "length")


def test_padding_behind_the_end_is_no_part_of_an_answer():
    one, heard = answering()
    for token in (ord("a"), END, ord("b"), ord("c")):
        one.put(token)
    one.end()
    assert heard["whole"][0].text == "a" and heard["whole"][0].tokens == 2 and len(heard["whole"]) == 1


def test_a_policys_refusal_is_told_apart_and_half_a_character_is_not_shown():
    one, heard = answering()
    one.begin(Row(refusal="no"))
    for letter in "no\ufffd":
        one.put(ord(letter))
    assert heard["pieces"] == ["n", "o"]
    one.end()
    assert heard["whole"][0].finish == "content_filter" and heard["began"][0].refusal


def test_rows_of_a_batch_hear_their_own_tokens_in_whichever_parts_they_are_answered():
    answers, heard = zip(*(answering(limit=2) for _ in range(3)), strict=True)
    records = [Row(), Row(refusal="no"), Row()]
    whole = Rows(answers)
    for rows in ([0, 2], [1]):
        part = whole.of_rows(rows, records)
        part.put(torch.zeros(len(rows), 5))  # the prompts
        for step in range(3):
            part.put(torch.tensor([ord("a") + 3 * row + step for row in rows]))
        part.end()
    assert [one["whole"][0].text for one in heard] == ["ab", "de", "gh"]
    assert [one["whole"][0].finish for one in heard] == ["length", "content_filter", "length"]
