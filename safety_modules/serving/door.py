"""What every request goes through, whoever answers it: room, who asks, the answer or why there is none, the log."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TextIO

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from safety_modules.errors import SafetyModulesError
from safety_modules.serving.access import Access, Caller
from safety_modules.serving.errors import RequestRefused, as_refused, overloaded
from safety_modules.serving.exchange import Exchange, Gone
from safety_modules.serving.log import RequestLog
from safety_modules.serving.metrics import Metrics
from safety_modules.serving.settings import ServeSettings
from safety_modules.serving.stream import EventStream

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
LOG = logging.getLogger(__name__)
GONE = 499
"""Noted for a client that did not wait for its answer; nobody gets it."""


class Door(ABC):
    """What stands between the routes and whoever answers.

    Args:
        settings: limits.
        access: keys.
        log_stream: where log lines go; default: standard output.

    Raises:
        ConfigError: others could reach a server without keys.
    """

    def __init__(self, settings: ServeSettings, access: Access, log_stream: TextIO | None = None) -> None:
        settings.check_reachable(bool(access.keys))
        self.settings, self.access = settings, access
        self.metrics, self.log = Metrics(), RequestLog(settings.log, log_stream)
        self._admitted = 0

    @abstractmethod
    def running(self, app: FastAPI) -> AbstractAsyncContextManager[None]:
        """Inside this block requests are answered."""

    @abstractmethod
    async def chat(self, exchange: Exchange, caller: Caller) -> Response:
        """`/v1/chat/completions`."""

    @abstractmethod
    async def moderate(self, exchange: Exchange, caller: Caller) -> Response:
        """`/v1/moderations`."""

    @abstractmethod
    async def guardrail(self, exchange: Exchange, caller: Caller) -> Response:
        """litellm's generic guardrail."""

    @abstractmethod
    async def models(self, exchange: Exchange, caller: Caller) -> Response:
        """`/v1/models`."""

    @abstractmethod
    async def health(self) -> Response:
        """`/healthz`: what is served, and whether it is; for everybody."""

    async def measured(self, _exchange: Exchange, _caller: Caller) -> Response:
        """`/metrics`."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def guarded(self, request: Request, answer: Callable[[Exchange, Caller], Awaitable[Response]]) -> Response:
        """The answer to a request, or why there is none."""
        exchange = request.state.exchange = Exchange(request, self.settings)
        self._admit(1)
        streams = False
        try:
            if self._admitted > self.settings.max_queue:
                raise overloaded(f"expected at most {self.settings.max_queue} requests at a time, got more")
            caller = self._caller(request)
            exchange.about["key"] = caller.name
            response = await answer(exchange, caller)
            streams = isinstance(response, EventStream)
        except Gone:
            response = Response(status_code=GONE)
        except Exception as error:
            refused = as_refused(error)
            if not isinstance(error, SafetyModulesError):
                LOG.error("a request failed", exc_info=error)
            exchange.about["error"] = refused.code
            response = refused.response()
        finally:
            if not streams:
                self._admit(-1)
        response.headers["x-request-id"] = exchange.id
        if not streams:
            self._over(exchange, response.status_code)
        return response

    def ended(self, exchange: Exchange, status: int) -> None:
        """An answer that was an EventStream has ended."""
        self._admit(-1)
        self._over(exchange, status)

    def count(self, exchange: Exchange, name: str, *labels: str, value: float = 1) -> None:
        """Tell the metrics, and note what they were told of this request."""
        self.metrics.count(name, labels, value)
        exchange.counted.append((name, labels, value))

    def _admit(self, more: int) -> None:
        self._admitted += more
        self.metrics.waiting.set(self._admitted)

    def _caller(self, request: Request) -> Caller:
        """Who asks. Raises RequestRefused."""
        if not self.access.keys:
            # A page in this machine's browser reaches this server under a name of its own (DNS rebinding).
            host = request.headers.get("host", "").rpartition(":")
            name = host[0] if host[2].isdecimal() and host[0] else request.headers.get("host", "")
            if name.lower() not in LOCAL_NAMES:
                raise RequestRefused(403, "not answered: expected this machine's own name as host, got another.")
        key = request.headers.get("x-api-key")  # litellm's guardrails send theirs so
        return self.access.caller(request.headers.get("authorization") or (key and f"Bearer {key}"))

    def _over(self, exchange: Exchange, status: int) -> None:
        """Note a request that is over."""
        route = exchange.about["route"]
        self.metrics.count("requests", (route, str(status)), 1)
        self.metrics.count("seconds", (route,), exchange.seconds)
        self.log.line({**exchange.about, "status": status, "seconds": round(exchange.seconds, 4)})
