"""The queue: what goes together, in which order, and that nothing is lost whatever happens."""

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from safety_modules.serving.batcher import Batcher, Job
from safety_modules.serving.errors import RequestRefused


class Recorder:
    """Answers each job with its own work, and notes the batches; waits for `go` before the first."""

    def __init__(self, fails=()):
        self.batches, self.go, self.fails = [], threading.Event(), fails

    def __call__(self, jobs):
        self.go.wait(30)
        self.batches.append([job.work for job in jobs])
        for job in jobs:
            if job.work in self.fails:
                raise ValueError(job.work)
            job.finish(job.work)


def run(scenario, **options):
    """Runs a scenario with a batcher; gives what was run in which batches."""
    given = {"size": 4, "cost": 1000, "wait": 0.0, "most": 100} | options
    recorder = given.pop("recorder", None) or Recorder()

    async def main():
        batcher = Batcher(recorder, **given)
        batcher.start()
        try:
            await scenario(batcher, recorder)
        finally:
            recorder.go.set()
            await batcher.stop()

    asyncio.run(main())
    return recorder.batches


async def first_runs(batcher, recorder):
    """A job that keeps the thread busy until `go`, so that what follows waits in the queue."""
    job = Job("first", "first")
    batcher.submit(job)
    while len(batcher):
        await asyncio.sleep(0.001)
    return job


def queued(batcher, *keys_and_works, cost=1):
    jobs = [Job(key, work, cost) for key, work in keys_and_works]
    for job in jobs:
        batcher.submit(job)
    return jobs


def test_equal_keys_go_together_the_oldest_first_up_to_the_size():
    async def scenario(batcher, recorder):
        await first_runs(batcher, recorder)
        jobs = queued(batcher, *(("b" if n == 1 else "a", n) for n in range(7)))
        recorder.go.set()
        assert await asyncio.gather(*(job.done for job in jobs)) == [*range(7)]
        assert [job.batch for job in jobs] == [4, 1, 4, 4, 4, 2, 2]

    assert run(scenario) == [["first"], [0, 2, 3, 4], [1], [5, 6]]


def test_a_batch_costs_no_more_than_it_may_its_widest_job_counting_for_all():
    async def scenario(batcher, recorder):
        await first_runs(batcher, recorder)
        jobs = [*queued(batcher, ("a", 0), ("a", 1), cost=10), *queued(batcher, ("a", 2), cost=60)]
        jobs += queued(batcher, ("a", 3), cost=500)
        recorder.go.set()
        await asyncio.gather(*(job.done for job in jobs))

    assert run(scenario, cost=100) == [["first"], [0, 1], [2], [3]]


def test_one_that_fails_as_a_whole_tells_everybody_in_it_and_the_next_one_runs():
    async def scenario(batcher, recorder):
        await first_runs(batcher, recorder)
        jobs = queued(batcher, ("a", 1), ("a", "bad"), ("a", 2), ("b", 3))
        recorder.go.set()
        found = await asyncio.gather(*(job.done for job in jobs), return_exceptions=True)
        assert found[0] == 1 and found[3] == 3
        assert all(isinstance(one, ValueError) for one in found[1:3])
        assert batcher.working

    run(scenario, recorder=Recorder(fails=["bad"]))


def test_a_job_that_nobody_waits_for_is_not_run():
    async def scenario(batcher, recorder):
        await first_runs(batcher, recorder)
        jobs = queued(batcher, ("a", 0), ("a", 1), ("a", 2))
        jobs[0].drop()
        jobs[2].drop()
        recorder.go.set()
        assert await jobs[1].done == 1

    assert run(scenario) == [["first"], [1]]


def test_a_full_queue_says_so():
    async def scenario(batcher, recorder):
        await first_runs(batcher, recorder)
        queued(batcher, ("a", 0), ("a", 1))
        with pytest.raises(RequestRefused, match="at most 2 requests") as error:
            queued(batcher, ("a", 2))
        assert error.value.status == 503

    run(scenario, most=2)


def test_a_lone_job_waits_for_company_and_no_longer_than_it_may():
    async def scenario(batcher, recorder):
        recorder.go.set()
        jobs = queued(batcher, ("a", 0))
        await asyncio.sleep(0)
        jobs += queued(batcher, ("a", 1))
        await asyncio.wait_for(asyncio.gather(*(job.done for job in jobs)), 20)

    assert run(scenario, wait=0.2) == [[0, 1]]


def test_what_waits_when_the_server_is_stopped_is_told_to_come_back():
    async def main():
        recorder = Recorder()
        batcher = Batcher(recorder, 4, 100, 0.0, 10)
        batcher.start()
        await first_runs(batcher, recorder)
        (job,) = queued(batcher, ("a", 0))
        recorder.go.set()
        await batcher.stop()
        with pytest.raises(RequestRefused, match="being stopped"):
            await job.done
        assert not batcher.working

    asyncio.run(main())
