"""A request and its answer as plain data: between a front and the replica that answers, which may be elsewhere."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

Headers = Sequence[tuple[bytes, bytes]]
_ENDING: set["asyncio.Task[None]"] = set()
"""Requests nobody waits for any more; a loop itself holds its tasks only weakly."""


@dataclass(frozen=True)
class Asked:
    """A request, whole."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""


@dataclass(frozen=True)
class Note:
    """What whoever answered knows of a request: for the log, and for the metrics (see `Exchange`)."""

    about: dict[str, Any] = field(default_factory=dict)
    counted: list[tuple[str, tuple[str, ...], float]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A part of an answer.

    Attributes:
        body: bytes of it.
        status, headers: with the first part.
        note: with the last.
    """

    body: bytes
    status: int = 0
    headers: Headers = ()
    note: Note | None = None


async def relayed(app: ASGIApp, asked: Asked) -> AsyncIterator[Part]:
    """What an application answers; closed early, it is told that the client is gone."""
    state: dict[str, Any] = {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # uvicorn's, so that streams end as they do behind it
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*asked.headers],
        "state": state,
    }
    bodies = [asked.body]
    gone = asyncio.Event()
    said: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def answer() -> None:
        try:
            await app(scope, receive, said.put)
        finally:
            said.put_nowait(None)

    task = asyncio.ensure_future(answer())
    start: dict[str, Any] = {}
    try:
        while (message := await said.get()) is not None:
            if message["type"] == "http.response.start":
                start = {"status": message["status"], "headers": message["headers"]}
            elif message.get("more_body", False):
                yield Part(message["body"], **start)
                start = {}
            else:
                await task
                exchange = state.get("exchange")
                note = Note() if exchange is None else Note(exchange.about, exchange.counted)
                yield Part(message.get("body", b""), **start, note=note)
                return
        await task
    finally:
        gone.set()
        if not task.done():
            _ENDING.add(task)
            task.add_done_callback(_ENDING.discard)
