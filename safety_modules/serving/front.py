"""In front of several replicas of one service: the same routes, limits and keys, and every failure a clear answer.

A replica that ends in the middle costs no request: where nothing of the answer has been sent, another one is asked;
where something has, the stream says that it broke off. Own code, because Ray Serve's proxy (2.60) answers then with a
bare 500, and has no limit for bodies nor for slow clients, which everything else here has.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from safety_modules.serving.access import Access, Caller
from safety_modules.serving.door import GONE, LOG, Door
from safety_modules.serving.errors import RequestRefused, as_refused, overloaded
from safety_modules.serving.exchange import Exchange
from safety_modules.serving.relay import Asked, Note, Part
from safety_modules.serving.replies import streamed
from safety_modules.serving.settings import ServeSettings
from safety_modules.serving.stream import EventStream

TRIES = 2
"""Replicas that are asked before a client is told to come back."""
HEALTH_SECONDS = 5


class ReplicaLost(RequestRefused):
    """The replica that was asked has ended: nothing is wrong with the request."""

    def __init__(self) -> None:
        message = "not answered: expected a replica to answer, got one that ended. Send the request again, later."
        super().__init__(503, message, "replica_lost")


class Replicas(Protocol):
    """Those that answer."""

    def ask(self, asked: Asked) -> AsyncGenerator[Part, None]:
        """One's answer. Raises ReplicaLost where it ends in the middle."""

    async def states(self) -> Mapping[str, int]:
        """How many there are, by state; `running` ones answer."""

    async def close(self) -> None:
        """End them."""


class Front(Door):
    """The routes, answered by replicas.

    Args:
        replicas: that answer.
        settings: limits; `max_queue` of all of them together.
        access: keys.
        log_stream: where log lines go; default: standard output.
    """

    def __init__(
        self, replicas: Replicas, settings: ServeSettings, access: Access, log_stream: TextIO | None = None
    ) -> None:
        super().__init__(settings, access, log_stream)
        self._replicas = replicas

    @asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Inside this block requests are answered; behind it there are no replicas any more."""
        try:
            yield
        finally:
            await self._replicas.close()

    async def chat(self, exchange: Exchange, caller: Caller) -> Response:
        """What a replica answers."""
        request = exchange.request
        body = await exchange.body() if request.method == "POST" else b""
        asked = Asked(request.method, request.url.path, [*request.scope["headers"]], body)
        parts, first = await self._begun(asked, exchange.waited)
        if first.note is None:
            return self._streamed(exchange, parts, first)
        self._noted(exchange, first.note)
        response = Response(first.body, first.status)
        response.raw_headers = [*first.headers]
        return response

    moderate = guardrail = models = chat

    async def _begun(
        self, asked: Asked, waited: Callable[[Awaitable[Part]], Awaitable[Part]]
    ) -> tuple[AsyncGenerator[Part, None], Part]:
        """An answer and its first part: from another replica, if the first that is asked ends without one."""
        tries = 0
        while True:
            parts, tries = self._replicas.ask(asked), tries + 1
            try:
                return parts, await waited(anext(parts))
            except ReplicaLost:
                if tries == TRIES:
                    raise

    def _streamed(self, exchange: Exchange, parts: AsyncGenerator[Part, None], first: Part) -> Response:
        status = GONE

        async def events() -> AsyncIterator[bytes]:
            nonlocal status
            part = first
            yield part.body
            try:
                while part.note is None:
                    left = max(0.0, exchange.until - time.monotonic())
                    part = await asyncio.wait_for(anext(parts), left)
                    yield part.body
                self._noted(exchange, part.note)
                status = 200
            except Exception as error:
                if isinstance(error, asyncio.TimeoutError):
                    limit = self.settings.request_seconds
                    error = overloaded(f"expected an answer within {limit:g} seconds, got a part")
                refused = as_refused(error)
                if not isinstance(error, RequestRefused):
                    LOG.error("a request failed", exc_info=error)
                exchange.about["error"], status = refused.code, refused.status
                yield streamed(refused.body())
            finally:
                await parts.aclose()

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in first.headers}
        return EventStream(events(), lambda: self.ended(exchange, status), headers)

    def _noted(self, exchange: Exchange, note: Note) -> None:
        """Log and count what the replica knows, under this request's own name."""
        exchange.about |= note.about | {"id": exchange.id}
        for name, labels, value in note.counted:
            self.count(exchange, name, *labels, value=value)

    async def health(self) -> Response:
        """`/healthz`: what is served, by one that answers now, and how many there are."""
        states: Mapping[str, int] = {}
        about, status = {"status": "stopped"}, 503
        try:
            states = await asyncio.wait_for(self._replicas.states(), HEALTH_SECONDS)
            if states.get("running"):
                parts, part = await self._begun(
                    Asked("GET", "/healthz"), lambda first: asyncio.wait_for(first, HEALTH_SECONDS)
                )
                await parts.aclose()
                about, status = json.loads(part.body), part.status
        except Exception as error:
            LOG.error("no replica was found well", exc_info=error)
        return JSONResponse({**about, "replicas": dict(states)}, status)
