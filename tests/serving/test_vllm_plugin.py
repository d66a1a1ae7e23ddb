"""vLLM's endpoint plugin, as far as it needs no vLLM: routes, gate, what of an engine is refused."""

import asyncio
import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from fastapi import FastAPI

from safety_modules.config import LoraSettings
from safety_modules.errors import ConfigError
from safety_modules.serving.vllm.plugin import NAME, SafetyPlugin, VllmSettings, at_least, check_engine

LORA = LoraSettings(r=12, target_modules=("q_proj", "v_proj"))


def asked(app, method, path, kind="http", root=""):
    """Status and body of a request without one."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": root + path, "root_path": root, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    if kind == "websocket":
        return sent
    return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent[1:]) or b"null")


@pytest.fixture
def app():
    """An API server's, with routes of its own, and the plugin on it; another route comes afterwards, as some do."""
    app = FastAPI()

    async def own():
        return "unguarded"

    for path in ("/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"):
        app.add_api_route(path, own, methods=["POST"])
    app.add_api_route("/health", own, methods=["GET"])
    plugin = SafetyPlugin()
    plugin.attach_router(app)
    app.add_api_route("/invocations", own, methods=["POST"])

    class Service:
        chat, moderate, guardrail, models = "chat", "moderate", "guardrail", "models"

        async def guarded(self, request, answer):
            from fastapi.responses import JSONResponse

            return JSONResponse(answer)

        async def health(self):
            from fastapi.responses import JSONResponse

            return JSONResponse("health")

    plugin._service = Service()
    return app


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/invocations"])
@pytest.mark.parametrize("root", ["", "/behind"])
def test_no_route_of_the_servers_own_answers_unguarded(app, path, root):
    status, body = asked(app, "POST", path, root=root)
    assert status == 404 and "unguarded" not in str(body) and "/v1/chat/completions" in body["error"]["message"]
    assert asked(app, "POST", "/v1/chat/completions/../completions", root=root)[0] == 404


def test_a_websocket_is_closed(app):
    assert asked(app, "GET", "/v1/realtime", "websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("root", ["", "/behind"])
def test_chat_moderation_and_harmless_routes_pass(app, root):
    for method, path, expected in (
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/v1/moderations", "moderate"),
        ("GET", "/v1/models", "models"),
        ("GET", "/healthz", "health"),
        ("GET", "/health", "unguarded"),
    ):
        assert asked(app, method, path, root=root) == (200, expected)


def engine(embeds=True, images=0, rank=16, places=("v_proj", "q_proj"), mm_loras=None):
    """A client of an engine that was started so; rank None = without LoRA."""
    loras = SimpleNamespace(max_lora_rank=rank, target_modules=places and [*places], default_mm_loras=mm_loras)
    pictures = SimpleNamespace(get_limit_per_prompt=lambda kind: images)
    return SimpleNamespace(
        model_config=SimpleNamespace(enable_prompt_embeds=embeds, multimodal_config=pictures),
        vllm_config=SimpleNamespace(lora_config=None if rank is None else loras),
    )


@pytest.mark.parametrize(
    ("started", "flag"),
    [
        ({"embeds": False}, "--enable-prompt-embeds"),
        ({"images": 1}, "--limit-mm-per-prompt"),
        ({"rank": None}, "--enable-lora --max-lora-rank 16 --lora-target-modules q_proj v_proj"),
        ({"rank": 8}, "--max-lora-rank 16,"),
        ({"places": None}, "--lora-target-modules q_proj v_proj"),
        ({"places": ("q_proj", "v_proj", "embed_tokens")}, "--lora-target-modules"),
        ({"mm_loras": {"image": "folder"}}, "no LoRA of its own"),
    ],
)
def test_an_engine_without_what_is_needed_is_refused_by_the_flag_it_lacks(started, flag):
    with pytest.raises(ConfigError, match=flag):
        check_engine(engine(**started), SimpleNamespace(lora_modules=None), LORA)


def test_an_engine_with_it_is_taken_and_without_a_lora_needs_none():
    check_engine(engine(), SimpleNamespace(lora_modules=None), LORA)
    check_engine(engine(rank=None), SimpleNamespace(lora_modules=None), None)
    with pytest.raises(ConfigError, match="no LoRA of its own"):
        check_engine(engine(), SimpleNamespace(lora_modules=["other=folder"]), LORA)
    assert [at_least(rank) for rank in (1, 8, 9, 64)] == [8, 8, 16, 64]


def test_nothing_is_served_to_others_without_keys(monkeypatch):
    monkeypatch.setenv("SAFETY_MODULES_VLLM_ADAPTER", "llava-pocket-safe")
    args = SimpleNamespace(host=None, port=8000, api_key=None)
    with pytest.raises(ConfigError, match="expected keys"):
        asyncio.run(SafetyPlugin().init_state(None, None, args))


def test_without_an_adapter_the_server_does_not_start(monkeypatch):
    monkeypatch.delenv("SAFETY_MODULES_VLLM_ADAPTER", raising=False)
    with pytest.raises(ConfigError, match="adapter"):
        asyncio.run(SafetyPlugin().init_state(None, None, SimpleNamespace(host="127.0.0.1", port=1, api_key=None)))


def test_the_page_names_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "serving-vllm.md").read_text(encoding="utf-8")
    assert all(f"SAFETY_MODULES_VLLM_{name.upper()}" in page for name in VllmSettings.model_fields)
    assert page.splitlines()[0].startswith("# EXPERIMENTAL")


def test_the_entry_point_is_the_plugin():
    found = [one for one in entry_points(group="vllm.endpoint_plugins") if one.name == NAME]
    if not found:
        pytest.skip("needs the package installed since the entry point is there")
    assert found[0].load() is SafetyPlugin
