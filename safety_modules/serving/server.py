"""The HTTP server in front of the application: uvicorn, with time limits for clients that send nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from safety_modules.serving.app import create_app
from safety_modules.serving.door import Door

HEADER_BYTES = 32_768
KEEP_ALIVE_SECONDS = 5
STOP_SECONDS = 10


class Telling(uvicorn.Server):
    """Says when it listens, and where: the port may be one that was free.

    Args:
        config: uvicorn's.
        tell: called with the port; None = nobody asks.
    """

    def __init__(self, config: uvicorn.Config, tell: Callable[[int], None] | None = None) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self._tell is not None and self.started:
            self._tell(int(self.servers[0].sockets[0].getsockname()[1]))


def make_server(service: Door, started: Callable[[int], None] | None = None) -> uvicorn.Server:
    """A server that `run()` runs until it is stopped (Ctrl-C, SIGTERM), answering what it has begun.

    Args:
        service: what it serves.
        started: called with the port, once it listens.
    """
    settings = service.settings

    class Impatient(H11Protocol):
        """Closes connections on which a request begins and does not go on: uvicorn itself waits for ever."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """From the first byte to the last of a request's headers; its body has a limit of its own."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()
            elif self._late is None:
                self._late = self.loop.call_later(settings.body_seconds, self.transport.close)

        def _forget(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        http=Impatient,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        limit_concurrency=4 * settings.max_queue,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return Telling(config, started)
