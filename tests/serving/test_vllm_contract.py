"""Every name of vLLM that the plugin uses, held against the installed package: `make test-vllm`."""

import inspect
from argparse import Namespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM in an environment of its own: make test-vllm")

from fastapi import FastAPI

from safety_modules.serving.vllm.plugin import NAME, SafetyPlugin


def parameters(function):
    return inspect.signature(function).parameters


def test_the_plugin_is_what_vllm_takes_for_one():
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    assert isinstance(SafetyPlugin(), EndpointPlugin)
    for name in ("attach_router", "init_state"):
        assert [*parameters(getattr(SafetyPlugin, name))] == [*parameters(getattr(EndpointPlugin, name))]
        ours, theirs = getattr(SafetyPlugin, name), getattr(EndpointPlugin, name)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)


def test_vllm_loads_it_by_its_name_and_only_then(monkeypatch):
    from vllm.plugins import ENDPOINT_PLUGINS_GROUP, load_endpoint_plugins

    assert ENDPOINT_PLUGINS_GROUP == "vllm.endpoint_plugins"
    for named, count in ((NAME, 1), ("another", 0), (None, 0)):
        if named is None:
            monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        else:
            monkeypatch.setenv("VLLM_PLUGINS", named)
        assert [type(one) for one in load_endpoint_plugins(("generate",))] == [SafetyPlugin] * count


def test_its_routes_take_the_place_of_vllms(monkeypatch):
    from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins

    async def own():
        return "unguarded"

    app = FastAPI()
    app.add_api_route("/v1/chat/completions", own, methods=["POST"])
    monkeypatch.setenv("VLLM_PLUGINS", NAME)
    attach_endpoint_plugins(app, ("generate",))
    (route,) = [one for one in app.routes if getattr(one, "path", None) == "/v1/chat/completions"]
    assert route.endpoint is not own


def test_the_engine_is_asked_by_names_it_has():
    from vllm.engine.protocol import EngineClient
    from vllm.renderers import BaseRenderer
    from vllm.v1.engine.async_llm import AsyncLLM

    for kind in (EngineClient, AsyncLLM):
        asked = parameters(kind.generate)
        assert [*asked][:4] == ["self", "prompt", "sampling_params", "request_id"] and "lora_request" in asked
    assert inspect.isasyncgenfunction(AsyncLLM.generate)
    assert {"vllm_config", "model_config", "renderer"} <= EngineClient.__annotations__.keys()
    assert [*parameters(BaseRenderer.render_cmpl_async)][:2] == ["self", "prompts"]
    assert inspect.iscoroutinefunction(BaseRenderer.render_cmpl_async)


def test_what_is_asked_can_be_made():
    from vllm.inputs import EmbedsPrompt
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    assert "prompt_embeds" in EmbedsPrompt.__annotations__
    one = LoRARequest(lora_name=NAME, lora_int_id=1, lora_path="folder")
    assert (one.lora_int_id, one.lora_path) == (1, "folder")
    kinds = {RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY}
    for kind in kinds:
        SamplingParams(
            temperature=0.0, top_p=1.0, seed=None, max_tokens=4, stop_token_ids=[2], detokenize=False, output_kind=kind
        )
    SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=0)


def test_an_answer_has_what_is_read_of_it():
    from vllm.outputs import CompletionOutput, RequestOutput

    assert {"token_ids", "cumulative_logprob"} <= CompletionOutput.__dataclass_fields__.keys()
    assert "outputs" in parameters(RequestOutput)


def test_the_engines_settings_have_the_names_that_are_checked():
    from vllm.config import LoRAConfig, ModelConfig, MultiModalConfig, VllmConfig

    fields = {kind: kind.__dataclass_fields__.keys() for kind in (LoRAConfig, ModelConfig, VllmConfig)}
    assert {"max_lora_rank", "target_modules", "default_mm_loras"} <= fields[LoRAConfig]
    assert {"enable_prompt_embeds", "multimodal_config", "model", "dtype", "max_model_len"} <= fields[ModelConfig]
    assert "lora_config" in fields[VllmConfig]
    assert [*parameters(MultiModalConfig.get_limit_per_prompt)] == ["self", "modality"]


def test_the_servers_arguments_have_the_names_that_are_read():
    from vllm.entrypoints.cli.launch import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    flags = "--enable-prompt-embeds --enable-lora --max-lora-rank 8 --lora-target-modules q_proj v_proj"
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(
        [*flags.split(), "--limit-mm-per-prompt", '{"image": 0}', "--served-model-name", "one"]
    )
    assert isinstance(args, Namespace) and args.served_model_name == ["one"] and args.lora_modules is None
    assert {"host", "port", "api_key"} <= vars(args).keys()
