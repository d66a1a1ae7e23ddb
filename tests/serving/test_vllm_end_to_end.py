"""A real vLLM with the plugin, as a process, against the guarded call of transformers: `make test-vllm`."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM in an environment of its own: make test-vllm")

from serving_cases import NAME, Running, alone, ask, guarded, records
from vllm_base import save_widened

from safety_modules.paths import checkpoint_dir

pytestmark = pytest.mark.slow
SECONDS = 600
FLAGS = ["--enable-prompt-embeds", "--limit-mm-per-prompt", '{"image": 0}', "--enable-lora", "--max-lora-rank", "8"]
PLACES = ["--lora-target-modules", *sorted(guarded().config.lora.target_modules)]
ALL = ["attack", "benign"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the base, and one with its adapter."""
    return save_widened(guarded(), Path(checkpoint_dir()), tmp_path_factory.mktemp("pocket"))


@contextmanager
def started(saved, folder, *flags):
    """A process that serves, or is on its way; and its log."""
    base, adapter = saved
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(base)]
    words += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), *flags]
    words += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"]
    environment = os.environ | {
        "VLLM_PLUGINS": "safety_modules",
        "SAFETY_MODULES_VLLM_ADAPTER": str(adapter),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # else a compiler runs for a minute before the first log probability
    }
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process, Running(f"http://127.0.0.1:{port}", port, None, io.StringIO()), log
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    with started(saved, tmp_path_factory.mktemp("vllm"), *FLAGS, *PLACES, "--max-loras", "2") as (
        process,
        running,
        log,
    ):
        until = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            try:
                if running.get("/healthz", timeout=5).status == 200:
                    break
            except OSError:
                time.sleep(0.5)
        yield running


def test_answers_and_actions_are_the_guarded_calls_of_transformers(server):
    asked = [record for kind in ALL for record in records(kind, 48)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda record: server.chat(ask(record)), asked))
    own = [alone(record) for record in asked]
    assert {reply.status for reply in found} == {200}
    assert [reply.json["safety"]["action"] for reply in found] == [one.verdict.action for one in own]
    assert {one.verdict.action for one in own} == {"allow", "hint"}
    same = sum(reply.text == one.text for reply, one in zip(found, own, strict=True))
    print(f"the same answer {same} of {len(asked)}")
    assert same >= len(asked) - 1  # other kernels: a tie may fall to the other side


def test_a_stream_says_the_same(server):
    record = records("attack")[0]
    whole, reply = server.chat(ask(record)), server.chat(ask(record, stream=True))
    *events, done = reply.events
    assert done == "[DONE]" and events[0]["safety"]["verdicts"][0]["type"] == whole.json["safety"]["type"]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events) == whole.text


def test_stricter_policies_refuse_and_looser_modes_are_refused(server):
    record = records("attack")[0]
    rules = {name: {"action": "refuse"} for name in guarded().config.taxonomy.types}
    choice = server.chat(ask(record, safety={"policy": {"rules": rules}})).json["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert server.chat(ask(record, safety={"mode": "off"})).status == 403


def test_the_moderation_route_is_there_and_no_unguarded_one(server):
    part = ask(records("attack")[0])["messages"][0]["content"][0]
    assert server.moderate(part).json["results"][0]["flagged"]
    for path in ("/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/invocations"):
        assert server.post(path, {"model": NAME, "prompt": "hello", "input": "hello"}).status == 404
    parts = [{"type": "image_embeds", "image_embeds": "AAAA"}, {"type": "prompt_embeds", "data": "AAAA"}]
    assert [server.chat({"messages": [{"role": "user", "content": [one]}]}).status for one in parts] == [400, 400]
    assert server.chat(ask(records("benign")[0])).status == 200
    assert [one["id"] for one in server.get("/v1/models").json["data"]] == [NAME]


@pytest.mark.parametrize(
    ("flags", "told"),
    [((), "expected vllm serve with --enable-prompt-embeds"), ((*FLAGS, *PLACES), "to act on one of two prompts")],
    ids=["no flags", "a LoRA that also acts on its neighbour: vLLM 0.32 on the CPU with --max-loras 1"],
)
def test_a_server_that_would_answer_wrongly_does_not_start(saved, tmp_path, flags, told):
    with started(saved, tmp_path, *flags) as (process, _, log):
        assert process.wait(SECONDS) != 0
        assert "not served" in log.read_text() and told in log.read_text()
