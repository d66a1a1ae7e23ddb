"""Replicas of one service by Ray Serve (extra `ray`): behind the server of here, or deployed on a cluster.

`build` makes an application of a front and replicas for `serve run` and for Serve's config files; `replicated` starts
replicas for a front that this process serves itself.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from safety_modules.backbones.bases import find_base, local_config
from safety_modules.errors import ConfigError
from safety_modules.io.optional import needed
from safety_modules.io.strict import quote
from safety_modules.serving.app import create_app
from safety_modules.serving.front import Front, ReplicaLost
from safety_modules.serving.relay import Asked, Part, relayed
from safety_modules.serving.served import Served
from safety_modules.serving.settings import ServeSettings

REPLICA = "replica"
HEALTH_SECONDS = 2
"""Between two looks of Ray Serve's at a replica: one that is dead may be called running so long."""
STARTS = 3
"""Tries to start a replica, before there is none."""


class Replica:
    """One service with a model of its own, in an actor of Ray's.

    Args:
        served: what it serves. Its lines of the log are the front's to write.
    """

    def __init__(self, served: Served) -> None:
        self._service = replace(served, settings=served.settings.model_copy(update={"log": False})).service()
        self._app = create_app(self._service)
        self._running = AsyncExitStack()

    async def answer(self, asked: Asked) -> AsyncIterator[Part]:
        """The answer to a request, part by part."""
        await self._run()
        async for part in relayed(self._app, asked):
            yield part

    async def check_health(self) -> None:
        """Raises where nothing is answered any more: Ray Serve then starts another one in its place."""
        await self._run()
        if not self._service.working:
            raise RuntimeError("the queue of requests has stopped")

    async def _run(self) -> None:
        if not self._service.begun:  # in the loop that requests come in, which an actor's constructor is not
            await self._running.enter_async_context(self._service.running(self._app))


class RayReplicas:
    """Replicas of an application of Ray Serve's.

    Args:
        handle: of the deployment.
        name: the application's.
        stop: called in the end.
    """

    def __init__(self, handle: Any, name: str, stop: Callable[[], None] = lambda: None) -> None:
        self._answer = handle.options(method_name="answer", stream=True)
        self._name, self._stop = name, stop

    async def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
        """One's answer. Raises ReplicaLost where it ends in the middle."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        response, whole = self._answer.remote(asked), False
        try:
            async for part in response:
                whole = part.note is not None
                yield part
        except RayTaskError:
            raise  # of the service itself
        except (RayError, RayServeException) as error:
            raise ReplicaLost from error
        finally:
            if not whole:
                response.cancel()
        if not whole:
            raise ReplicaLost

    async def states(self) -> dict[str, int]:
        """How many there are, by state; `running` ones answer."""
        from ray import serve

        found = (await asyncio.to_thread(serve.status)).applications[self._name].deployments[REPLICA].replica_states
        return {str(getattr(state, "value", state)).lower(): count for state, count in found.items()}

    async def close(self) -> None:
        """End them."""
        await asyncio.to_thread(self._stop)


def replicated(served: Served, log_stream: TextIO | None = None) -> Front:
    """Start replicas, on the cluster that RAY_ADDRESS names or on this machine alone; gives what stands in front.

    Raises:
        DataError: Ray Serve is not installed.
        ConfigError: no such cluster, or the replicas do not start.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address == "local":  # Ray's word for none
        address = ""
    if address.startswith("ray://"):
        raise ConfigError(
            f"replicas not started: expected RAY_ADDRESS to be a cluster's own, got Ray's client {quote(address)}. Run "
            "this on a machine of the cluster, with RAY_ADDRESS=auto."
        )
    if not address and served.model is not None:
        local_config(find_base(served.model))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # at a cluster that is not there; each takes 40 seconds
    options: dict[str, Any] = {}
    cpus, count = 1, served.settings.replicas
    if not address:
        # Ray's own ports are for whoever reaches them: here they listen on this machine alone, and want a token. Ray
        # has the first for two systems only, but takes it everywhere.
        token = secrets.token_hex(32)
        os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        cores = os.cpu_count() or 1
        cpus = max(1, cores // count)  # Ray gives a replica as many threads
        options = {"include_dashboard": False, "num_cpus": max(cores, count), "address": "local"}
    serve, ray = needed("ray.serve", "replicas", "ray"), needed("ray", "replicas", "ray")
    name = f"safety-modules-{secrets.token_hex(4)}"

    def stop() -> None:
        if address and ray.is_initialized():
            with suppress(Exception):  # there may be none: it did not start
                serve.delete(name)
                left = serve.status()
                if not left.applications and not left.proxies:
                    serve.shutdown()  # begun here: what others begin has proxies
        ray.shutdown()

    quiet = {"log_level": "WARNING", "enable_access_log": False}
    try:
        ray.init(logging_level=logging.ERROR, **options)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        gpus, there = _gpus(served), ray.cluster_resources().get("GPU", 0)
        if not address and gpus * count > there:  # a cluster may grow; here they would be waited for for ever
            raise ConfigError(
                f"replicas not started: expected {gpus * count:g} GPUs for {count} replicas, got {there:g}. Start "
                "fewer, or share them: SAFETY_MODULES_SERVE_REPLICA_GPUS=0.5."
            )
        serve.start(proxy_location="Disabled", logging_config=quiet)
        handle = serve.run(_deployment(served, cpus), name=name, route_prefix=None, logging_config=quiet)
    except BaseException as error:
        why = [str(error)]
        if ray.is_initialized():  # else asking would begin anew
            with suppress(Exception):  # there may be nothing deployed
                why = serve.status().applications[name].deployments[REPLICA].message.split("\n")
        stop()
        if isinstance(error, ConfigError) or not isinstance(error, Exception):
            raise
        told = ["nothing", *(line.strip() for line in why if line.strip())][-1]
        raise ConfigError(f"replicas not started: expected a cluster and a model on it, got: {told}") from error
    return _front(served, RayReplicas(handle, name, stop), log_stream)


class Deployed(BaseModel):
    """Arguments of an application: those of `safety-modules serve`, and its settings.

    Attributes:
        settings: as ServeSettings; `access` is needed, and `replicas` are the most there will be.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    adapter: str | None = None
    policy: Path | None = None
    name: str | None = None
    quantize: str | None = None
    dtype: str | None = None
    settings: ServeSettings = Field(default_factory=ServeSettings)


def build(args: Deployed) -> Any:
    """An application of Ray Serve's: deployments `front` and `replica`, behind the cluster's own proxies.

    Raises:
        ConfigError: there are no keys: whoever reaches the cluster's proxies could ask.
    """
    served = Served.read(**{name: getattr(args, name) for name in Deployed.model_fields})
    if not served.access.keys:
        raise ConfigError(
            "not deployed: expected keys, got none; a cluster's proxies are not for this machine alone. Name a file of "
            "keys in args: settings: access."
        )
    serve = needed("ray.serve", "replicas", "ray")
    entrance = serve.deployment(
        serve.ingress()(Entrance), name="front", max_ongoing_requests=_all(served).max_queue, health_check_period_s=2
    )
    return entrance.bind(served, _deployment(served, 1))


class Entrance:
    """A front in an actor of Ray's, behind Ray Serve's proxies.

    Args:
        served: what is served.
        replicas: handle.
    """

    def __init__(self, served: Served, replicas: Any) -> None:
        self._served, self._replicas = served, replicas

    def __serve_build_asgi_app__(self) -> FastAPI:
        from ray import serve

        name = serve.get_replica_context().app_name
        return create_app(_front(self._served, RayReplicas(self._replicas, name)))


def _front(served: Served, replicas: RayReplicas, log_stream: TextIO | None = None) -> Front:
    return Front(replicas, _all(served), served.access, log_stream)


def _all(served: Served) -> ServeSettings:
    """The settings of all replicas together."""
    one = served.settings
    return one.model_copy(update={"max_queue": one.max_queue * one.replicas})


def _deployment(served: Served, cpus: int) -> Any:
    """The replicas as an application of Ray Serve's; its Batcher stays, so Serve's own batching is not used."""
    from ray import serve

    settings = served.settings
    deployment = serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_queue,
        max_constructor_retry_count=STARTS,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": cpus, "num_gpus": _gpus(served)},
    )
    return deployment.bind(served)


def _gpus(served: Served) -> float:
    """What a replica asks for: pocket stays on the CPU."""
    import ray

    if served.settings.replica_gpus is not None:
        return served.settings.replica_gpus
    return 1 if served.model is not None and ray.cluster_resources().get("GPU") else 0
