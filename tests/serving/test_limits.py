"""Bad input, slow and impolite clients: a status of 4xx, one clear sentence, and a server that stays up."""

import json
import socket
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from PIL import Image
from serving_cases import NAME, ask, data_uri, picture_part, records, served, turn

SMALL = Image.new("RGB", (8, 8), "green")


def user(content):
    return [{"role": "user", "content": content}]


DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no UTF-8": b'{"model": "\xff"}',
    "NaN": b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}',
    "endless number": b'{"temperature": 1e999, "messages": [{"role": "user", "content": "a"}]}',
    "huge integer": b'{"seed": ' + b"9" * 10_000 + b', "messages": [{"role": "user", "content": "a"}]}',
    "key twice": b'{"messages": [], "messages": [{"role": "user", "content": "a"}]}',
    "deep": DEEP,
    "no messages": {},
    "empty messages": {"messages": []},
    "messages of another kind": {"messages": "hello"},
    "unknown field": {"messages": user("a"), "unknown": 1},
    "unknown role": {"messages": [{"role": "tool", "content": "a"}]},
    "tools": {"messages": user("a"), "tools": []},
    "several answers": {"messages": user("a"), "n": 2},
    "no tokens": {"messages": user("a"), "max_tokens": 0},
    "too many tokens": {"messages": user("a"), "max_tokens": 10**9},
    "tokens as a word": {"messages": user("a"), "max_tokens": "9"},
    "hot": {"messages": user("a"), "temperature": 3},
    "too many stops": {"messages": user("a"), "stop": ["a"] * 5},
    "empty stop": {"messages": user("a"), "stop": ""},
    "the assistant last": {"messages": [*user("a"), {"role": "assistant", "content": "Sure"}]},
    "an assistant's picture": {
        "messages": [{"role": "assistant", "content": [picture_part(SMALL)]}, *user("a")],
    },
    "unknown part": {"messages": user([{"type": "audio", "audio": "x"}])},
    "half a character": b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    "the picture's mark": {"messages": user("what is <image> this")},
    "100 pictures": {"messages": [turn("a", *[SMALL] * 100)]},
    "an address nobody allowed": {"messages": [turn("a", "https://example.org/a.png")]},
    "a local file": {"messages": [turn("a", "file:///etc/passwd")]},
    "broken base64": {"messages": [turn("a", "data:image/png;base64,@@@")]},
    "no picture": {"messages": [turn("a", "data:image/png;base64,aGVsbG8=")]},
    "a huge prompt": {"messages": user("word " * 3000)},
    "a longer one": {"messages": user("a" * 100_000)},
    "200 messages": {"messages": user("a") * 200},
    "safety of another kind": {"messages": user("a"), "safety": "off"},
    "unknown mode": {"messages": user("a"), "safety": {"mode": "none"}},
    "no policy": {"messages": user("a"), "safety": {"policy": {"rules": {"privacy": {"action": "shout"}}}}},
    "a threshold that may be two things": {
        "messages": user("a"),
        "safety": {"policy": {"rules": {"privacy": {"threshold": 0.5}}}},
    },
    "unknown type": {"messages": user("a"), "safety": {"policy": {"rules": {"<script>": {"action": "refuse"}}}}},
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_input_gets_one_clear_sentence(server, name):
    reply = server.chat(BODIES[name])
    assert reply.status == 400, reply.raw
    error = reply.error
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert "expected" in error["message"] and "got" in error["message"] and "\n" not in error["message"]
    assert 20 < len(error["message"]) < 900 and "Traceback" not in error["message"]


def test_another_model_path_or_method_is_told(server):
    reply = server.chat(ask(records("benign")[0], model="gpt-4"))
    assert reply.status == 404 and reply.error["code"] == "model_not_found" and NAME in reply.error["message"]
    assert server.get("/v1/completions").status == 404 and server.get("/v1/chat/completions").status == 405
    assert server.get("/v1/completions").error["message"]


def test_a_page_in_a_browser_can_neither_send_a_form_nor_use_a_name_of_its_own(server):
    """What a page may send without asking first is no JSON; and a name of its own (DNS rebinding) is no loopback's."""
    body = json.dumps(ask(records("benign")[0])).encode()
    assert server.chat(body, headers={"content-type": "text/plain"}).status == 415
    assert server.chat(body, headers={"content-encoding": "gzip"}).status == 415
    with served() as open_server:
        for host in ("evil.example", f"evil.example:{open_server.port}", "127.0.0.1.evil.example", "", "[::1"):
            assert open_server.get("/v1/models", {"host": host}).status == 403
        for host in (
            "localhost",
            f"localhost:{open_server.port}",
            f"127.0.0.1:{open_server.port}",
            "[::1]:80",
            "[::1]",
        ):
            assert open_server.get("/v1/models", {"host": host}).status == 200


def exchange(server, data, wait=0.0, more=b""):
    """All that comes back on a connection on which this was sent, and how long it took."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(data)
        time.sleep(wait)
        found = b""
        try:
            if more:
                connection.sendall(more)
            while piece := connection.recv(10_000):
                found += piece
        except ConnectionError:
            pass
    return found, time.monotonic() - started


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
)


def test_bodies_are_read_no_further_than_they_may_be_large():
    with served(max_body_bytes=2000) as server:
        said, _ = exchange(server, HEAD + b"Content-Length: 999999999999\r\n\r\n")
        assert b" 413 " in said and b"at most 2000 bytes" in said
        chunk = b"%x\r\n%s\r\n" % (1500, b" " * 1500)
        said, _ = exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert b" 413 " in said
        assert server.chat(b" " * 3000).status == 413
        assert server.chat({"messages": user("a"), "max_tokens": 1}).status == 200


def test_clients_that_send_nothing_or_little_are_left():
    with served(body_seconds=1) as server:
        said, seconds = exchange(server, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in said and seconds < 30
        for beginning in (b"", b"POST /v1", HEAD):
            said, seconds = exchange(server, beginning)
            assert said == b"" and seconds < 30
        kept = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        said, seconds = exchange(server, kept + b"GET /")
        assert b" 200 " in said and seconds < 30  # closed while it waits for the rest of a second request
        said, _ = exchange(server, kept, wait=1.5, more=kept.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert said.count(b" 200 ") == 2  # and not between two
        assert server.get("/healthz").status == 200


def test_what_is_no_http_is_refused(server):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", HEAD + b"Content-Length: -5\r\n\r\n", b"x" * 100_000):
        said, _ = exchange(server, data + b"\r\n\r\n")
        assert said == b"" or b" 400 " in said or b" 431 " in said
    assert server.get("/healthz").status == 200


def test_a_server_that_is_full_says_when_to_come_back(server):
    with served(max_queue=1) as full:
        with socket.create_connection(("127.0.0.1", full.port)) as waiting:
            waiting.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            for _ in range(1000):
                reply = full.get("/v1/models")
                if reply.status == 503:
                    break
                time.sleep(0.01)
        assert reply.status == 503 and reply.headers["retry-after"] and reply.error["code"] == "overloaded"
        for _ in range(1000):
            if full.get("/v1/models").status == 200:
                return
            time.sleep(0.01)
        raise AssertionError("the place of a client that left was not freed")


def test_limits_are_settings():
    two = [turn("a", SMALL, SMALL)]
    with served(max_images=1, max_pixels=100, max_prompt_tokens=40, max_tokens=5) as server:
        assert "at most 1 pictures" in server.chat({"messages": two}).error["message"]
        big = data_uri(Image.new("RGB", (20, 20)))
        assert "at most 100 pixels" in server.chat({"messages": [turn("a", big)]}).error["message"]
        assert "at most 40 tokens" in server.chat({"messages": [turn("a", SMALL)]}).error["message"]
        assert "up to 5" in server.chat({"messages": user("a"), "max_tokens": 6}).error["message"]
        assert server.chat({"messages": user("a")}).json["usage"]["completion_tokens"] <= 5


def test_prompt_and_answer_fit_into_the_models_room():
    with served(room=100) as server:
        body = ask(records("benign")[0], max_tokens=60)
        assert "fit into 100 tokens" in server.chat(body).error["message"]
        del body["max_tokens"]
        used = server.chat(body).json["usage"]
        assert used["total_tokens"] <= 100
