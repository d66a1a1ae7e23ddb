"""Requests that can be answered together are: dynamic batching over an asyncio loop, one call at a time.

Own code, because nothing kept fits: Ray Serve's `@serve.batch` takes requests in the order they come, whether or not
they may share a call, and one process would need Ray as well; transformers' continuous batching takes text alone.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from safety_modules.serving.errors import RequestRefused, overloaded

PATIENCE = 5


class Job:
    """One request's place in the queue. Everything but `dropped` belongs to the loop.

    Args:
        key: jobs with an equal one may be answered in one call.
        work: for the caller's `run`.
        cost: prompt tokens.

    Attributes:
        done: the result, or an error.
        dropped: nobody waits for it any more; may be read from any thread, as the next two.
        finished: it has its result.
        told: a part of its answer is out.
        elsewhere: it is being answered beside the queue, and finished there.
        batch: how many were answered with it; 0 = not yet.
        waited: seconds in the queue.
    """

    def __init__(self, key: Hashable, work: Any, cost: int = 1) -> None:
        self.key, self.work, self.cost = key, work, cost
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.arrived = time.monotonic()
        self.dropped, self.finished, self.told, self.elsewhere = False, False, False, False
        self.batch, self.waited = 0, 0.0

    def finish(self, result: Any) -> None:
        """Hand over a result or an exception, from any thread; only the first counts."""
        self.finished = True
        self.loop.call_soon_threadsafe(self._finish, result)

    def _finish(self, result: Any) -> None:
        if self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
            self.done.exception()  # looked at: a client that is gone leaves no warning behind
        else:
            self.done.set_result(result)

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self.dropped = True
        self.done.cancel()


class Batcher:
    """A queue in front of one thread.

    Args:
        run: answers jobs of one key, in that thread; calls `finish` of each.
        size: jobs at a time.
        cost: of a batch: its jobs times the cost of the largest.
        wait: seconds from the arrival of the oldest job, and from the end of the last batch, that it waits for others;
            for those that are on their way (`expecting`) up to PATIENCE times as long.
        most: jobs that wait.
    """

    def __init__(self, run: Callable[[Sequence[Job]], None], size: int, cost: int, wait: float, most: int) -> None:
        self._run, self._size, self._cost, self._wait, self._most = run, size, cost, wait, most
        self._jobs: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "safety-modules-model")
        self._task: asyncio.Task[None] | None = None
        self._free, self._coming = 0.0, 0

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self) -> None:
        """Begin to answer; in a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Answer nothing more: what waits is told to come back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job in self._jobs:
            job.finish(overloaded("the server is being stopped"))
        self._jobs.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def working(self) -> bool:
        """Whether jobs will be answered."""
        return self._task is not None and not self._task.done()

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Inside this block a job is on its way: worth waiting for."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._arrived.set()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RequestRefused (503) where there is no room."""
        if len(self._jobs) >= self._most:
            raise overloaded(f"expected at most {self._most} requests at a time, got more")
        self._jobs.append(job)
        self._arrived.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next()
            now = time.monotonic()
            for job in batch:
                job.batch, job.waited = len(batch), now - job.arrived
            try:
                await loop.run_in_executor(self._thread, self._run, batch)
                left: Exception = RequestRefused(500, "not answered: the server failed. Send the request again.")
            except Exception as error:
                left = error
            for job in batch:  # whatever happened, none is forgotten
                if not job.elsewhere:
                    job.finish(left)
            self._free = time.monotonic()

    async def _next(self) -> list[Job]:
        """The oldest job that somebody waits for, and those that go with it."""
        while True:
            while self._jobs and self._jobs[0].dropped:
                self._jobs.popleft()
            self._arrived.clear()
            left = 0.0
            if self._jobs:
                together = self._together()
                wait = self._wait * (PATIENCE if self._coming else 1)
                left = max(self._jobs[0].arrived, self._free) + wait - time.monotonic()
                if left <= 0 or len(together) >= self._size:
                    self._jobs = deque(job for job in self._jobs if job not in together)
                    return together
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left or None)

    def _together(self) -> list[Job]:
        """The oldest and, in order, those behind it with the same key, as far as there is room."""
        first, *others = self._jobs
        found, widest = [first], first.cost
        for job in others:
            if len(found) == self._size:
                break
            if job.key == first.key and not job.dropped:
                wider = max(widest, job.cost)
                if wider * (len(found) + 1) <= self._cost:
                    found, widest = [*found, job], wider
        return found
