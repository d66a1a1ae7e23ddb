"""vLLM's endpoint plugin: every name of vLLM that is used here; `make test-vllm` holds them against the package."""

import asyncio
import math
import uuid
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import CONFIG_FILE, lora_files
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.attach import attach_safety
from safety_modules.backbones.bases import find_base
from safety_modules.backbones.tower import without_blocks
from safety_modules.config import LoraSettings
from safety_modules.defences.guard.guard import Guard
from safety_modules.errors import ConfigError
from safety_modules.io.files import sha256_of
from safety_modules.policy.policy import Policy
from safety_modules.serving.access import Access
from safety_modules.serving.app import ROUTES, add_routes, not_found
from safety_modules.serving.service import Service
from safety_modules.serving.settings import ServeSettings, read_settings
from safety_modules.serving.vllm.handing_on import Asked, HandingOn

NAME = "safety_modules"
VLLMS_OWN = ("/metrics",)
"""Paths that vLLM's own routes keep."""
HARMLESS = ("GET", "HEAD", "OPTIONS")
PROBE, PROBED = "hello", 32
"""What is asked to see whether the LoRA acts, and tokens of its answer."""


class VllmSettings(BaseSettings):
    """What the plugin is told; it has no arguments. Each field is an environment variable: `SAFETY_MODULES_VLLM_` ...

    Attributes:
        adapter: folder, hub id or shipped name; made for the model that vLLM serves.
        policy: its file; None = the default one.
        device: of tower and head, in the API process.
    """

    model_config = SettingsConfigDict(env_prefix="SAFETY_MODULES_VLLM_", extra="forbid", frozen=True)

    adapter: str = Field(min_length=1)
    policy: Path | None = None
    device: str = "cpu"


class SafetyPlugin:
    """`vllm.endpoint_plugins`: chat and moderation of `safety-modules serve`, answered by vLLM's engine.

    vLLM makes one without arguments. It then refuses every request that is no GET and not for one of these routes:
    vLLM's others would answer unguarded.
    """

    name = NAME
    required_tasks = None
    """Always loaded: without it a server would answer unguarded."""

    def __init__(self) -> None:  # nothing that may fail: vLLM would go on without the plugin
        self._service: Service | None = None
        self._running = AsyncExitStack()

    def attach_router(self, app: FastAPI) -> None:
        """The routes, which take the place of vLLM's, and the gate before all others."""
        add_routes(app, self._serving, VLLMS_OWN)
        app.add_middleware(Gate, open_to={path for _, path, _ in ROUTES})

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load what judges, check the engine, begin to answer.

        Raises:
            SafetyModulesError: naming what is missing; the server then does not start.
        """
        asked = read_settings(VllmSettings)
        # vLLM listens to everybody where no host is named.
        settings = read_settings(ServeSettings, host=args.host or "0.0.0.0", port=args.port)
        keys = Access() if settings.access is None else Access.from_yaml(settings.access)
        if not args.api_key:
            settings.check_reachable(bool(keys.keys))
        found = read_adapter(find_adapter(asked.adapter))
        check_engine(engine_client, args, found.guard.lora_settings)
        config = engine_client.model_config
        model, processor = without_blocks(find_base(config.model), config.dtype, asked.device)
        policy = None if asked.policy is None else Policy.from_yaml(asked.policy)
        safety = attach_safety(model, processor, found.path, policy=policy)
        lora = None if safety.lora is None else (found.path / lora_files(Guard.kind)[0]).parent
        language_model = VllmEngine(engine_client, lora)
        if lora is not None:
            probe = torch.tensor([safety.backbone.prompt_ids(PROBE, images=0)])
            await language_model.check_lora(safety.backbone.embed_text(probe)[0].cpu())
        about = {"name": asked.adapter, "sha256": sha256_of(found.path / CONFIG_FILE)}
        name = (args.served_model_name or [config.model])[0]
        engine = HandingOn(safety, language_model, config.max_model_len)
        self._service = Service(safety, settings, keys, name, about, config.max_model_len, engine=engine)
        await self._running.enter_async_context(self._service.running(state))

    def _serving(self) -> Service:
        assert self._service is not None, "vLLM listens once init_state is through"
        return self._service


def check_engine(client: Any, args: Namespace, lora: LoraSettings | None) -> None:
    """Raises ConfigError for an engine that was not started with what the plugin and the adapter's LoRA need."""
    config, loras = client.model_config, client.vllm_config.lora_config
    pictures = config.multimodal_config
    problems = [
        (not config.enable_prompt_embeds, "--enable-prompt-embeds"),
        (pictures is None or pictures.get_limit_per_prompt("image") != 0, """--limit-mm-per-prompt '{"image": 0}'"""),
        (args.lora_modules or (loras is not None and loras.default_mm_loras), "no LoRA of its own"),
    ]
    if lora is not None:
        places = sorted(lora.target_modules)
        # Elsewhere, around the embeddings too, vLLM's layers take another number of rows than embeddings come in.
        elsewhere = loras is None or sorted(loras.target_modules or ()) != places
        problems += [
            (loras is None, "--enable-lora"),
            (loras is None or loras.max_lora_rank < lora.r, f"--max-lora-rank {at_least(lora.r)}"),
            (elsewhere, f"--lora-target-modules {' '.join(places)}"),
        ]
    missing = [flag for wrong, flag in problems if wrong]
    if missing:
        raise ConfigError(
            f"not served: expected vllm serve with {' '.join(missing)}, got another engine. Start it with these."
        )


def at_least(rank: int) -> int:
    """The smallest power of two, from 8: vLLM takes no other ranks there."""
    return max(8, 2 ** math.ceil(math.log2(rank)))


class VllmEngine:
    """vLLM's engine as a `LanguageModel`.

    Args:
        client: vLLM's EngineClient.
        lora: peft's folder of the adapter's LoRA; None = there is none.
    """

    def __init__(self, client: Any, lora: Path | None) -> None:
        from vllm.lora.request import LoRARequest

        # Ids have to be the engine's only ones; check_engine sees that there are no others.
        self._lora: Any = None if lora is None else LoRARequest(lora_name=NAME, lora_int_id=1, lora_path=str(lora))
        self._client = client

    async def __call__(self, asked: Asked) -> AsyncGenerator[Sequence[int], None]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = SamplingParams(
            temperature=asked.sampling.temperature,
            top_p=asked.sampling.top_p,
            seed=asked.sampling.seed,
            max_tokens=asked.limit,
            stop_token_ids=sorted(asked.ends),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async with aclosing(self._outputs(asked.embeddings, sampling, asked.steered)) as outputs:
            async for output in outputs:
                yield output.token_ids

    async def _outputs(self, embeddings: torch.Tensor, sampling: Any, steered: bool) -> AsyncGenerator[Any, None]:
        from vllm.inputs import EmbedsPrompt

        prompt = EmbedsPrompt(prompt_embeds=embeddings)
        (rendered,) = await self._client.renderer.render_cmpl_async([prompt])
        lora = self._lora if steered else None
        async with aclosing(self._client.generate(rendered, sampling, uuid.uuid4().hex, lora_request=lora)) as found:
            async for one in found:
                yield one.outputs[0]

    async def check_lora(self, embeddings: torch.Tensor) -> None:
        """See whether the LoRA acts on a prompt (T, D) that is to have it, and only on that.

        Raises:
            ConfigError: it does not, or it acts on a neighbour in the batch too (vLLM 0.32 on the CPU).
        """
        alone = await self._likelihood(embeddings, False)
        beside, steered = await asyncio.gather(*(self._likelihood(embeddings, lora) for lora in (False, True)))
        if not abs(beside - alone) < abs(beside - steered):
            raise ConfigError(
                f"not served: expected the adapter's LoRA to act on one of two prompts in the engine, got {alone:.4f} "
                f"for the log-likelihood of an answer without it, {beside:.4f} beside a prompt with it, {steered:.4f} "
                "with it. Use another release of vLLM; 0.32 on the CPU wants --max-loras 2."
            )

    async def _likelihood(self, embeddings: torch.Tensor, steered: bool) -> float:
        """Of the first tokens of the engine's own answer."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = SamplingParams(
            temperature=0, max_tokens=PROBED, ignore_eos=True, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        async with aclosing(self._outputs(embeddings, sampling, steered)) as outputs:
            (output,) = [one async for one in outputs]
        return float(output.cumulative_logprob)


class Gate:
    """ASGI middleware: what changes nothing passes, and what is for one of our routes; vLLM's others are unguarded.

    Args:
        app: behind it.
        open_to: paths.
    """

    def __init__(self, app: Callable[..., Any], open_to: Iterable[str]) -> None:
        self._app, self._open_to = app, frozenset(open_to)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if scope["method"] not in HARMLESS and path not in self._open_to:
                await not_found(404).response()(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)
