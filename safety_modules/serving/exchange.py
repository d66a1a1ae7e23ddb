"""One request from its first byte to its last: body within limits, who asks, time, and what is noted about it."""

import asyncio
import time
import uuid
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import Request

from safety_modules.serving.errors import RequestRefused, overloaded
from safety_modules.serving.settings import ServeSettings

T = TypeVar("T")


class Gone(Exception):
    """The client is: nobody hears an answer."""


class Exchange:
    """One request that is being answered.

    Args:
        request: of Starlette.
        settings: limits.

    Attributes:
        id: in the answer's header and in the log.
        about: what the log will say.
        counted: what the metrics were told of it: name, labels, value.
    """

    def __init__(self, request: Request, settings: ServeSettings) -> None:
        self.request, self._settings = request, settings
        self.id = uuid.uuid4().hex
        self.started = time.monotonic()
        self.until = self.started + settings.request_seconds
        self.about: dict[str, Any] = {"id": self.id, "route": request.url.path}
        self.counted: list[tuple[str, tuple[str, ...], float]] = []

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    async def body(self) -> bytes:
        """The whole body. Raises RequestRefused for one that is no JSON, too large or too slow."""
        headers, most = self.request.headers, self._settings.max_body_bytes
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused(415, "not answered: expected the content type application/json, got another. Set it.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestRefused(415, "not answered: expected a body as it is, got an encoded one. Send it plain.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            raise _too_large(most)
        try:
            found = await asyncio.wait_for(self._read(most), self._settings.body_seconds)
        except asyncio.TimeoutError as error:
            raise RequestRefused(
                408,
                f"not answered: expected the whole body within {self._settings.body_seconds:g} seconds, got a part.",
                "too_slow",
            ) from error
        self.until = time.monotonic() + self._settings.request_seconds
        return found

    async def _read(self, most: int) -> bytes:
        found = bytearray()
        while True:
            message = await self.request.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            found += message.get("body", b"")
            if len(found) > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return bytes(found)

    async def waited(self, awaited: Awaitable[T]) -> T:
        """The result, if the client stays and time lasts.

        Raises:
            Gone: the client is.
            RequestRefused: there is no time left (503).
        """
        task, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait(
                {task, gone}, timeout=max(0.0, self.until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if gone.done():
                raise Gone
            raise overloaded(f"expected an answer within {self._settings.request_seconds:g} seconds, got none")
        finally:
            for one in (task, gone):
                one.cancel()

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


def _too_large(most: int) -> RequestRefused:
    return RequestRefused(413, f"not answered: expected a body of at most {most} bytes, got more.", "too_large")
