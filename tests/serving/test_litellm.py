"""litellm as a proxy in front, a process of an environment of its own: `make test-serve` names it in LITELLM."""

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("openai", reason="needs the extra eval")

import openai
from serving_cases import NAME, ask, records

LITELLM = os.environ.get("LITELLM")
pytestmark = pytest.mark.skipif(LITELLM is None, reason="needs litellm in an environment of its own: make test-serve")
SECONDS = 600
KEY = f"sk-{secrets.token_hex(32)}"


def config(server):
    """Two models, of which one stands for a model elsewhere that only the guardrail guards."""
    model = {"model": f"openai/{NAME}", "api_base": f"{server.url}/v1", "api_key": "operator-key"}
    unguarded = {**model, "extra_body": {"safety": {"mode": "off"}}}
    guardrail = {
        "guardrail": "generic_guardrail_api",
        "mode": "pre_call",
        "api_base": server.url,
        "api_key": server.key,
        "default_on": False,
    }
    return {
        "model_list": [
            {"model_name": "guarded", "litellm_params": model},
            {"model_name": "elsewhere", "litellm_params": unguarded},
        ],
        "guardrails": [{"guardrail_name": "pictures", "litellm_params": guardrail}],
    }


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(json.dumps(config(server)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    # Its own environment: nothing of ours on its path, and no look at the network for prices of models.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_MASTER_KEY": KEY}
    with (folder / "log").open("wb") as log:
        proxy = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + SECONDS
        while True:
            assert proxy.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, timeout=SECONDS)
    finally:
        proxy.terminate()
        proxy.wait(60)


def test_answers_come_through_the_proxy(client, server):
    record = records("attack")[0]
    asked = {"model": "guarded", "messages": ask(record)["messages"], "max_tokens": 24}
    own = server.chat(ask(record)).text
    assert client.chat.completions.create(**asked).choices[0].message.content == own
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == own


def test_a_refusal_comes_through_as_a_content_filters(client):
    record = records("attack")[0]
    refuse = {"safety": {"policy": {"rules": {record.type: {"action": "refuse"}}}}}
    reply = client.chat.completions.create(model="guarded", messages=ask(record)["messages"], extra_body=refuse)
    assert reply.choices[0].finish_reason == "content_filter"


def test_the_guardrail_guards_a_model_elsewhere(client):
    risky, clean = records("attack")[0], records("benign")[0]
    on = {"guardrails": ["pictures"]}
    with pytest.raises(openai.APIStatusError, match=risky.type):
        client.chat.completions.create(model="elsewhere", messages=ask(risky)["messages"], extra_body=on)
    for record, more in ((clean, on), (risky, {})):
        reply = client.chat.completions.create(
            model="elsewhere", messages=ask(record)["messages"], max_tokens=8, extra_body=more
        )
        assert reply.choices[0].message.content
