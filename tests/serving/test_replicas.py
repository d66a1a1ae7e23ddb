"""Two replicas behind Ray Serve, as processes of this machine: `make test-serve`."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("ray.serve", reason="needs ray[serve]: make test-serve", exc_type=ImportError)

import grpc
import psutil
import yaml
from serving_cases import Running, alone, ask, picture_part, records

SECONDS = 300
CLIENTS, REQUESTS, ANSWERED_BEFORE = 8, 160, 30
KEY = "web-key"
ACCESS = f"keys: [{{name: web, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}]\n"


def until(true, what):
    """Wait till something is true."""
    end = time.monotonic() + SECONDS
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


@contextmanager
def serving(folder, *words, **environment):
    """`safety-modules serve` with two replicas, ended by Ctrl-C; its output is in the folder."""
    command = [sys.executable, "-m", "safety_modules", "serve", "--replicas", "2", "--port", "0", *words]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=err, env={**os.environ, **environment}, start_new_session=True
        )
    try:

        def port():
            told = (folder / "err").read_text()
            assert process.poll() is None, told
            return re.search(r"in 2 replicas.*http://127\.0\.0\.1:(\d+)", told)

        found = int(until(port, "the server did not start")[1])
        yield process, Running(f"http://127.0.0.1:{found}", found, None, None)
        below = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) in (0, 130, -signal.SIGINT), (folder / "err").read_text()
        if not environment:
            assert not psutil.wait_procs(below, timeout=30)[1], "Ray's processes are still there"
    finally:
        process.kill()


def replicas(process):
    """Processes of the replicas."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [one for one in found if one.name().startswith("ray::ServeRepli")]


def running(server):
    return server.get("/healthz").json["replicas"].get("running", 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    with serving(folder) as (process, server):
        yield folder, process, server
    # Every line of standard output is about one request, whatever happened to the replicas.
    lines = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) > 0


@pytest.fixture
def server(place):
    """The server, with both replicas."""
    until(lambda: running(place[2]) == 2, "a replica did not come back")
    return place[2]


def test_nobody_else_reaches_a_port(place, server):
    process = psutil.Process(place[1].pid)
    asked = 0
    for one in [process, *process.children(recursive=True)]:
        for found in one.net_connections("tcp"):
            address = found.laddr.ip.removeprefix("::ffff:")
            if found.status == psutil.CONN_LISTEN and address not in ("127.0.0.1", "::1"):
                call = grpc.insecure_channel(f"127.0.0.1:{found.laddr.port}").unary_unary(
                    "/ray.serve.ASGIService/HandleRequest"
                )
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=SECONDS)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
                asked += 1
    assert asked == 2  # a replica's own each, where Ray Serve gives no choice


def test_answers_are_those_of_one_server(server):
    for record in records("attack", 4) + records("benign", 4):
        reply, own = server.chat(ask(record)), alone(record)
        assert reply.text == own.text and reply.json["safety"]["verdicts"][0]["type"] == own.verdict.type
        events = server.chat(ask(record, stream=True)).events
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == own.text
    judged = server.moderate(picture_part(record.image)).json["results"][0]
    assert not judged["flagged"]
    refused = server.chat({"messages": 1})
    assert refused.status == 400 and refused.error["code"] == "invalid_body"
    assert server.chat(ask(record), headers={"host": "evil.example"}).status == 403
    numbers = server.numbers()
    assert numbers['safety_modules_requests_total{route="/v1/chat/completions",status="200"}'] == 16
    assert numbers["safety_modules_batch_size_count"] == 17


def outcome(server, place, own):
    """What one request came to; its kind is chosen by its place."""
    number, record = place % len(own), records("attack")[place % len(own)]
    text, flagged = own[number]
    try:
        if place % 4 == 3:
            reply = server.moderate(picture_part(record.image))
            good = reply.status == 200 and reply.json["results"][0]["flagged"] == flagged
        else:
            reply = server.chat(ask(record, stream=place % 2 == 1))
            if reply.status == 200 and place % 2 == 1:
                *said, last = reply.events
                if last != "[DONE]":
                    code = last["error"]["code"]
                    return "broken off" if code == "replica_lost" else f"a stream ends with {code}"
                good = "".join(event["choices"][0]["delta"].get("content", "") for event in said) == text
            else:
                good = reply.status == 200 and reply.text == text
    except OSError as error:
        return f"lost: {error}"
    if reply.status == 503 and reply.headers["retry-after"] and reply.error["type"] == "overloaded_error":
        return "503"
    return "answered" if good else f"wrong: {reply.status} {reply.raw[:200]}"


def test_a_replica_that_is_killed_under_load_costs_no_request_silently(place, server):
    own = [(one.text, one.verdict.flagged) for one in map(alone, records("attack"))]
    found: Counter[str] = Counter()
    left, lock, enough = iter(range(REQUESTS)), threading.Lock(), threading.Event()

    def client():
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            told = outcome(server, number, own)
            with lock:
                found[told] += 1
                if found["answered"] >= ANSWERED_BEFORE:
                    enough.set()

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    assert enough.wait(SECONDS)
    victim = replicas(place[1])[0]
    victim.kill()
    for one in clients:
        one.join(SECONDS)
    print(f"one of two replicas killed under load: {dict(found)}")
    assert found.total() == REQUESTS and set(found) <= {"answered", "503", "broken off"}
    assert found["answered"] > REQUESTS // 2
    until(lambda: running(server) == 2, "the replica did not come back")
    assert victim.pid not in [one.pid for one in replicas(place[1])]
    assert {outcome(server, number, own) for number in range(16)} == {"answered"}


def heard(connection, seconds):
    """What comes till the other end closes, or nothing more for so long; and whether it closed."""
    connection.settimeout(seconds)
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except TimeoutError:
        return found, False
    return found, True


def test_a_stream_whose_replica_is_killed_ends_with_an_error(place, server):
    body = json.dumps(ask(records("attack")[0], stream=True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(20):  # an answer of pocket's may be over before it can be stopped
        both = replicas(place[1])
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
            connection.sendall(head.encode() + body)
            said = connection.recv(65_536)
            for one in both:
                one.suspend()
            more, whole = heard(connection, 1)
            for one in both:
                one.resume() if whole else one.kill()
            if whole:
                assert b"[DONE]" in said + more
                continue
            rest, closed = heard(connection, SECONDS)
            break
    assert not whole and closed
    assert b" 200 OK" in said and b"data: " in said and b"[DONE]" not in said + more + rest
    (error,) = re.findall(rb"^data: (.*replica_lost.*)$", rest, re.MULTILINE)
    assert json.loads(error)["error"]["type"] == "overloaded_error"


CLUSTER = """
import sys
import ray
from ray import serve
from ray.serve.scripts import cli

told = ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
print(told.address_info["gcs_address"], file=sys.stderr, flush=True)
input()
assert not serve.status().applications
cli(["run", "serve.yaml"])
"""
PAGE = (Path(__file__).parents[2] / "docs" / "serving-ray.md").read_text(encoding="utf-8")


def as_the_page_shows_it(port, keys):
    """The page's file for Ray Serve, about pocket and two replicas."""
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = yaml.safe_load(found)
    (app,) = config["applications"]
    config["http_options"]["port"] = port
    app["args"] = {"settings": app["args"]["settings"] | {"access": str(keys), "replicas": 2}}
    app["deployments"][0]["autoscaling_config"]["min_replicas"] = 2
    return yaml.safe_dump(config)


def test_on_a_cluster_it_leaves_nothing_and_an_application_can_be_deployed(tmp_path):
    (tmp_path / "keys.yaml").write_text(ACCESS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "serve.yaml").write_text(as_the_page_shows_it(port, tmp_path / "keys.yaml"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", CLUSTER]
    with (tmp_path / "cluster").open("wb") as err:
        cluster = subprocess.Popen(
            command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=err, stderr=err, env={**os.environ, **token}
        )
    try:

        def told(pattern):
            log = (tmp_path / "cluster").read_text()
            assert cluster.poll() is None, log
            return re.search(pattern, log, re.MULTILINE)

        address = until(lambda: told(r"^[\d.]+:\d+$"), "no cluster")[0]
        record = records("attack")[0]
        with serving(tmp_path, RAY_ADDRESS=address, **token) as (_, server):
            assert server.chat(ask(record)).text == alone(record).text
        cluster.stdin.write(b"\n")
        cluster.stdin.flush()
        deployed = Running(f"http://127.0.0.1:{port}", port, None, None, KEY)

        def ready():
            with suppress(OSError):
                return told("Submitted") and deployed.get("/healthz").status == 200

        until(ready, "not deployed")
        assert deployed.chat(ask(record)).text == alone(record).text
        assert deployed.chat(ask(record, stream=True)).events[-1] == "[DONE]"
        assert deployed.moderate(picture_part(record.image)).json["results"][0]["flagged"]
        assert deployed.chat(ask(record), headers={"authorization": "Bearer other"}).status == 401
        assert deployed.get("/healthz").json["replicas"] == {"running": 2}
        assert deployed.numbers()['safety_modules_requests_total{route="/v1/chat/completions",status="200"}'] == 2
        cluster.send_signal(signal.SIGINT)
        cluster.wait(60)
    finally:
        cluster.kill()
