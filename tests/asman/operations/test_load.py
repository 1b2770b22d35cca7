from __future__ import annotations

from asman import operations as ops
from asman.demand import Needs, demand
from core import QUEUE, core, definition

GPU = {"cpus": 1, "gpus": 1}


async def test_an_unknown_queue_waits_for_nothing_and_is_not_made() -> None:
    async with core() as c:
        load = await ops.queue_load(c.services, "nobody-knows-it")
        assert (dict(load.counts), dict(load.oldest_wait_s)) == ({}, {Needs.CPU: 0, Needs.GPU: 0})
        assert await c.services.jobs.counts(None) == {}


async def test_waits_are_those_of_the_oldest_job_of_each_kind_that_is_still_queued() -> None:
    async with core() as c:
        first = await c.submit(definition("first"))
        c.clock.tick(10)
        await c.submit(definition("gpu", requirements=GPU))
        c.clock.tick(5)
        await c.submit(definition("wide", requirements={"cpus": 3}))
        c.clock.tick(2)
        load = await ops.queue_load(c.services, QUEUE)
        assert load.oldest_wait_s == {Needs.CPU: 17, Needs.GPU: 7}
        assert demand(load.counts).backlog == 3
        await c.run(first)
        assert (await ops.queue_load(c.services, QUEUE)).oldest_wait_s == {Needs.CPU: 2, Needs.GPU: 7}
        assert (await ops.queue_load(c.services, QUEUE, Needs.GPU)).oldest_wait_s == {Needs.GPU: 7}


async def test_counts_are_of_waiting_and_running_jobs() -> None:
    async with core() as c:
        for number in range(3):
            job = await c.submit(definition(str(number)))
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        whole = demand((await ops.queue_load(c.services, QUEUE)).counts)
        assert (whole.backlog, whole.running) == (2, 1)


async def test_more_shapes_than_are_read_at_a_time_are_all_looked_at() -> None:
    async with core() as c:
        for number in range(80):
            await c.submit(definition(str(number), requirements={"cpus": 1, "maxDuration": f"{200 - number}s"}))
            c.clock.tick(1)
        assert (await ops.queue_load(c.services, QUEUE)).oldest_wait_s[Needs.CPU] == 80


async def test_a_job_that_has_expired_does_not_wait() -> None:
    async with core() as c:
        await c.submit()
        c.clock.tick(31 * 86_400)
        assert (await ops.queue_load(c.services, QUEUE)).oldest_wait_s[Needs.CPU] == 0
