"""Server-sent events: pieces of an answer while it is made, and a response that says when it is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi.responses import StreamingResponse


class EventStream(StreamingResponse):
    """Server-sent events; `over` is called once, however it ends."""

    def __init__(self, events: AsyncIterator[bytes], over: Callable[[], None], headers: Mapping[str, str]) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._over = over

    async def __call__(self, *arguments: Any) -> None:
        try:
            await super().__call__(*arguments)
        finally:
            self._over()


async def pieces_until(done: "asyncio.Future[Any]", pieces: "asyncio.Queue[str]", until: float) -> AsyncIterator[str]:
    """Pieces of an answer, till it is whole or time is up."""
    while True:
        while not pieces.empty():
            yield pieces.get_nowait()
        left = until - time.monotonic()
        if done.done() or left <= 0:
            return
        more = asyncio.ensure_future(pieces.get())
        try:
            await asyncio.wait({done, more}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if more.done():
                yield more.result()
        finally:
            more.cancel()
