"""In front of replicas, without Ray: what a client gets when they answer, and when they end in the middle."""

import asyncio
import contextlib
import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from pydantic import ValidationError

pytest.importorskip("fastapi", reason="needs the extra serve")

from serving_cases import alone, ask, data_uri, picture_part, records, served

from safety_modules.errors import ConfigError
from safety_modules.serving import Access, create_app
from safety_modules.serving.front import Front, ReplicaLost
from safety_modules.serving.relay import Asked, Note, Part, relayed
from safety_modules.serving.replicas import Deployed, RayReplicas, build


class Two:
    """Two replicas that are one service, and what happens to them: `ends` has, for each time one is asked, after how
    many parts it ends; None = it does not, and -1 = it never says anything.
    """

    def __init__(self, service):
        self._service, self._app = service, create_app(service)
        self._running = contextlib.AsyncExitStack()
        self.ends, self.error = [], ReplicaLost()
        self.asked, self.counts, self.closed = [], {"running": 2}, 0

    async def ask(self, asked):
        self.asked.append(asked)
        left = self.ends.pop(0) if self.ends else None
        if left == -1:
            await asyncio.Event().wait()
        if not self._service.begun:
            await self._running.enter_async_context(self._service.running(self._app))
        async for part in relayed(self._app, asked):
            if left == 0:
                raise self.error
            left = None if left is None else left - 1
            yield part

    async def states(self):
        return self.counts

    async def close(self):
        self.closed += 1
        await self._running.aclose()


@contextlib.contextmanager
def fronted(**settings):
    """A server with a front; gives it and its replicas."""
    made = []

    def front(service, log):
        made.append(Two(service))
        quiet = service.log
        service.log = type(quiet)(on=False)
        return Front(made[0], service.settings, service.access, log)

    with served(front=front, **settings) as running:
        yield running, made[0]
    assert made[0].closed == 1


@pytest.fixture(scope="module")
def both():
    with fronted() as found:
        yield found


@pytest.fixture
def server(both):
    return both[0]


@pytest.fixture
def two(both):
    both[1].asked.clear()
    yield both[1]
    assert not both[1].ends


def lost(reply):
    return reply.status == 503 and reply.headers["retry-after"] == "1" and reply.error["code"] == "replica_lost"


def test_answers_are_those_of_the_model_alone(server, two):
    record = records("attack")[0]
    reply, own = server.chat(ask(record)), alone(record)
    assert reply.text == own.text and reply.json["safety"]["flagged"] == own.verdict.flagged
    events = server.chat(ask(record, stream=True)).events
    assert events[-1] == "[DONE]"
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == own.text
    assert server.moderate(picture_part(record.image)).json["results"][0]["flagged"]
    guardrail = {"input_type": "request", "images": [data_uri(record.image)]}
    assert server.post("/beta/litellm_basic_guardrail_api", guardrail).json["action"] in ("NONE", "BLOCKED")
    assert server.get("/v1/models").json["data"] and server.get("/v1/none").status == 404
    assert len(two.asked) == 5


def test_log_and_metrics_say_of_a_request_what_a_single_server_says(server, two):
    record = records("attack")[0]
    before = server.numbers()
    reply = server.chat(ask(record))
    line, after = server.line(reply), server.numbers()
    assert line["safety_type"] == record.type and line["answer_tokens"] == reply.json["usage"]["completion_tokens"]
    assert line["status"] == 200 and line["key"] == "anonymous"

    def more(name):
        return after.get(name, 0) - before.get(name, 0)

    assert more('safety_modules_requests_total{route="/v1/chat/completions",status="200"}') == 1
    assert more('safety_modules_tokens_total{part="answer"}') == line["answer_tokens"]
    assert more("safety_modules_batch_size_count") == 1
    verdict = reply.json["safety"]
    assert more(f'safety_modules_pictures_total{{action="{verdict["action"]}",type="{record.type}"}}') == 1


def test_a_refusal_of_the_replica_is_the_clients(server, two):
    reply = server.chat({"messages": 1})
    assert reply.status == 400 and server.line(reply)["error"] == "invalid_body"
    assert len(two.asked) == 1


def test_one_that_ends_before_it_says_anything_is_not_noticed(server, two):
    two.ends = [0, None, 0, None]
    record = records("benign")[0]
    assert server.chat(ask(record)).text == alone(record).text
    assert server.chat(ask(record, stream=True)).events[-1] == "[DONE]"
    assert len(two.asked) == 4 and two.asked[0] == two.asked[1]


@pytest.mark.parametrize("stream", [False, True])
def test_where_both_end_the_client_is_told_to_come_back(server, two, stream):
    two.ends = [0, 0]
    reply = server.chat(ask(records("benign")[0], stream=stream))
    assert lost(reply) and server.line(reply)["status"] == 503
    assert server.numbers()['safety_modules_requests_total{route="/v1/chat/completions",status="503"}'] >= 1


@pytest.mark.parametrize("parts", [1, 2])
def test_a_stream_that_breaks_off_says_so_and_is_never_whole(server, two, parts):
    two.ends = [parts]
    reply = server.chat(ask(records("benign")[0], stream=True))
    *said, last = reply.events
    assert last["error"]["code"] == "replica_lost" and last["error"]["type"] == "overloaded_error"
    assert len(said) == parts and all(event["choices"][0]["finish_reason"] is None for event in said)
    line = server.line(reply)
    assert line["status"] == 503 and line["error"] == "replica_lost" and len(two.asked) == 1


def test_a_fault_of_the_service_is_told_without_what_only_the_operator_may_see(server, two):
    for ends, stream in ([0], False), ([1], True):
        two.ends, two.error = ends, RuntimeError("the operator's secret")
        reply = server.chat(ask(records("benign")[0], stream=stream))
        assert b"secret" not in reply.raw and b'"failed"' in reply.raw
        assert reply.status == (200 if stream else 500) and server.line(reply)["status"] == 500
        assert len(two.asked) == 1  # the next one would fail as well
        two.asked.clear()
    two.error = ReplicaLost()


def test_what_the_front_can_refuse_no_replica_sees():
    with fronted(max_body_bytes=100) as (server, two):
        assert server.chat(b'{"messages": 1}', headers={"host": "evil.example"}).status == 403
        assert server.chat(b"x" * 101).status == 413
        assert server.chat(b"{}", headers={"content-type": "text/plain"}).status == 415
        assert not two.asked


def test_keys_are_asked_for_in_front():
    key = {"name": "web", "sha256": "0" * 64}
    with fronted(access=Access.model_validate({"keys": [key]})) as (server, two):
        assert server.chat(ask(records("benign")[0])).status == 401 and not two.asked
        assert server.get("/healthz").status == 200


def test_one_that_says_nothing_is_not_waited_for_for_ever():
    with fronted(request_seconds=0.2) as (server, two):
        two.ends = [-1]
        reply = server.chat(ask(records("benign")[0]))
    assert reply.status == 503 and reply.headers["retry-after"] and "0.2 seconds" in reply.error["message"]


def test_a_client_that_goes_is_noted(server, two):
    two.ends = [-1]
    with pytest.raises(TimeoutError):
        server.chat(ask(records("benign")[0]), timeout=0.5)
    for _ in range(500):
        if server.lines[-1]["status"] == 499:
            return
        time.sleep(0.01)
    raise AssertionError(server.lines[-1])


def test_no_room_is_a_503(monkeypatch):
    with fronted(max_queue=1) as (server, _):
        monkeypatch.setattr(Front, "_admit", lambda self, more: setattr(self, "_admitted", 2))
        reply = server.chat(ask(records("benign")[0]))
    assert reply.status == 503 and reply.headers["retry-after"]


def test_health_is_of_one_that_answers_and_of_all(server, two):
    assert server.get("/healthz").json["replicas"] == {"running": 2}
    two.ends = [0]
    assert server.get("/healthz").json["model"] == "llava-pocket"
    two.counts = {"running": 0, "starting": 2}
    down = server.get("/healthz")
    assert down.status == 503 and down.json == {"status": "stopped", "replicas": two.counts}
    two.counts, two.ends = {"running": 2}, [0, 0]
    assert server.get("/healthz").status == 503


def test_an_application_hears_that_its_client_is_gone():
    heard = []

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"asked"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        heard.append((await receive())["type"])
        heard_all.set()

    async def main():
        parts = relayed(app, Asked("POST", "/", (), b"asked"))
        assert (await anext(parts)).body == b"begun"
        await parts.aclose()
        await asyncio.wait_for(heard_all.wait(), 10)

    heard_all = asyncio.Event()
    asyncio.run(main())
    assert heard == ["http.disconnect"]


class Handle:
    """Of a deployment: one answer, and how it ends."""

    def __init__(self, parts, error=None):
        self._parts, self._error, self.cancelled = parts, error, 0
        self.answer = SimpleNamespace(remote=lambda asked: self)

    def options(self, method_name, stream):
        assert stream
        return getattr(self, method_name)

    async def __aiter__(self):
        for part in self._parts:
            yield part
        if self._error is not None:
            raise self._error

    def cancel(self):
        self.cancelled += 1


@pytest.fixture
def ray(monkeypatch):
    """Ray's errors, as it has them: one of an actor, one of the code in it, one of Serve's."""
    errors, own = ModuleType("ray.exceptions"), ModuleType("ray.serve.exceptions")
    errors.RayError = type("RayError", (Exception,), {})
    errors.RayTaskError = type("RayTaskError", (errors.RayError,), {})
    errors.RayActorError = type("RayActorError", (errors.RayError,), {})
    own.RayServeException = type("RayServeException", (Exception,), {})
    for module in (ModuleType("ray"), ModuleType("ray.serve"), errors, own):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(actor=errors.RayActorError(), task=errors.RayTaskError(), serve=own.RayServeException())


def heard(handle):
    async def main():
        return [part async for part in RayReplicas(handle, "app").ask(Asked("GET", "/"))]

    return asyncio.run(main())


def test_an_answer_nobody_waits_for_is_cancelled(ray):
    async def main():
        parts = RayReplicas(handle, "app").ask(Asked("GET", "/"))
        await anext(parts)
        await parts.aclose()

    handle = Handle([Part(b"begun", 200), WHOLE])
    asyncio.run(main())
    assert handle.cancelled == 1


def test_the_pages_arguments_are_an_applications_and_need_keys():
    page = (Path(__file__).parents[2] / "docs" / "serving-ray.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (app,) = yaml.safe_load(found)["applications"]
    assert Deployed.model_validate(app["args"]).settings.replicas == 8
    with pytest.raises(ConfigError, match="expected keys"):
        build(Deployed())
    with pytest.raises(ConfigError, match="no adapter"):
        build(Deployed(model="llava-hf/llava-1.5-7b-hf"))
    with pytest.raises(ValidationError):
        Deployed.model_validate({"setings": {}})


WHOLE = Part(b"words", 200, note=Note())


def test_a_whole_answer_of_rays_is_that_and_not_cancelled(ray):
    handle = Handle([Part(b"begun", 200), WHOLE])
    assert heard(handle) == [Part(b"begun", 200), WHOLE] and not handle.cancelled


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        ([], "actor", "ReplicaLost"),
        ([Part(b"begun", 200)], "actor", "ReplicaLost"),
        ([Part(b"begun", 200)], "serve", "ReplicaLost"),
        ([Part(b"begun", 200)], None, "ReplicaLost"),
        ([], "task", "RayTaskError"),
    ],
)
def test_what_ray_says_of_an_actor_that_ended_is_a_lost_replica(ray, parts, error, told):
    handle = Handle(parts, error and getattr(ray, error))
    with pytest.raises(Exception) as raised:
        heard(handle)
    assert type(raised.value).__name__ == told and handle.cancelled == 1
