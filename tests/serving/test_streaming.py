"""Streams: chunks as OpenAI has them, verdict before the first word, and clients that leave."""

import json
import socket
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import ask, guarded, records, served


def test_chunks_are_those_of_openai_and_together_the_answer(server):
    record = records("attack")[0]
    whole = server.chat(ask(record)).json
    reply = server.chat(ask(record, stream=True, stream_options={"include_usage": True}))
    *chunks, usage, done = reply.events
    assert reply.headers["content-type"].startswith("text/event-stream") and done == "[DONE]"
    assert {chunk["object"] for chunk in (*chunks, usage)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert len(chunks) > 5
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert chunks[0]["safety"] == whole["safety"]
    assert json.loads(reply.headers["x-safety"])["rule"] == whole["safety"]["rule"]


def test_a_refusal_streams_as_a_content_filters(server):
    attack = records("attack")[0]
    safety = {"policy": {"rules": {attack.type: {"action": "refuse"}}}}
    *_, last, done = server.chat(ask(attack, stream=True, safety=safety)).events
    assert last["choices"][0]["finish_reason"] == "content_filter" and done == "[DONE]"


def test_what_is_wrong_with_a_request_is_said_before_a_stream_begins(server):
    reply = server.chat(ask(records("attack")[0], stream=True, stop=["x"] * 9))
    assert reply.status == 400 and reply.error


def send(server, body):
    """A connection on which a request went out."""
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    connection.sendall(head.encode() + raw)
    return connection


def begin(server, body):
    """A connection on which a stream has begun."""
    connection, seen = send(server, body), b""
    while b"data: " not in seen:
        piece = connection.recv(1000)
        assert piece, seen
        seen += piece
    return connection, seen


def until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


LONG = 10**6
"""Tokens that no machine makes while a test runs."""


class Endless:
    """The model with an end that never comes, so that only what is tested ends an answer."""

    def __enter__(self):
        config = guarded().backbone.model.generation_config
        self.config, self.end = config, config.eos_token_id
        config.eos_token_id = None

    def __exit__(self, *error):
        self.config.eos_token_id = self.end


def test_a_client_that_leaves_in_the_middle_ends_its_call():
    """What it would have been told is not made: else the next request would wait for ever."""
    with Endless(), served(max_tokens=LONG, room=None) as server:
        connection, _ = begin(server, ask(records("benign")[0], stream=True, max_tokens=LONG))
        assert server.numbers()["safety_modules_requests_waiting"] == 2
        connection.close()
        until(lambda: any(line["status"] == 499 for line in server.lines))
        assert server.numbers()["safety_modules_requests_waiting"] == 1
        reply = server.chat(ask(records("benign")[0], max_tokens=4))
        assert reply.status == 200 and reply.json["usage"]["completion_tokens"] == 4


def test_a_client_that_leaves_before_its_answer_ends_its_call():
    with Endless(), served(max_tokens=LONG, room=None) as server:
        connection = send(server, ask(records("benign")[0], max_tokens=LONG))
        until(lambda: server.numbers()["safety_modules_requests_waiting"] == 2)
        connection.close()
        until(lambda: any(line["status"] == 499 for line in server.lines))
        assert server.chat(ask(records("benign")[0], max_tokens=4)).status == 200


def test_an_answer_that_takes_too_long_is_ended_with_an_error_in_the_stream():
    with Endless(), served(max_tokens=LONG, room=None, request_seconds=2) as server:
        connection, seen = begin(server, ask(records("benign")[0], stream=True, max_tokens=LONG))
        with connection:
            while piece := connection.recv(10_000):
                seen += piece
                if b"\r\n0\r\n\r\n" in seen:
                    break
        assert b'"error"' in seen and b"[DONE]" not in seen and b"within 2 seconds" in seen
        late = server.chat(ask(records("benign")[0], max_tokens=LONG))
        assert late.status == 503 and late.headers["retry-after"] and late.error["type"] == "overloaded_error"
