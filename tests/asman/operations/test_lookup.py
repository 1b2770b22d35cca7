from __future__ import annotations

import pytest

from asman import operations as ops
from asman.errors import Expired, JobNotFound
from asman.matching import Capacity
from core import QUEUE, core, definition


async def test_unknown_expired_and_not_finished_are_three_answers() -> None:
    async with core() as c:
        job = await c.submit()
        with pytest.raises(JobNotFound):
            await ops.get_job(c.services, QUEUE, "0" * 64)
        assert await ops.find_result(c.services, job.job_id) is None
        c.clock.tick(31 * 86_400)
        with pytest.raises(Expired):
            await ops.get_job(c.services, QUEUE, job.job_id)
        await c.sweep()
        with pytest.raises(Expired):
            await ops.find_job(c.services, job.job_id)
        c.clock.tick(2 * 86_400)
        await c.sweep()
        with pytest.raises(JobNotFound):
            await ops.find_job(c.services, job.job_id)


async def test_a_look_up_without_a_queue_prefers_the_oldest_result() -> None:
    async with core() as c:
        await c.submit(queue="queue-that-waits-only")
        c.clock.tick(1)
        first = await c.run(await c.submit(queue="queue-with-the-older-result"))
        c.clock.tick(1)
        await c.run(await c.submit(queue="queue-with-the-newer-result"))
        assert (await ops.find_job(c.services, first.job_id)).queue == "queue-with-the-older-result"


async def test_a_result_says_which_attempt_and_worker_made_it() -> None:
    async with core() as c:
        job = await c.run(await c.submit(), worker="the-maker")
        result = await ops.find_result(c.services, job.job_id)
        assert result is not None
        assert (result["worker"], result["attempt"], result["finishedReason"]) == ("the-maker", 1, "Success")
        assert QUEUE not in str(result)


async def test_finished_jobs_leave_the_listing_and_their_result_stays() -> None:
    async with core() as c:
        job = await c.run(await c.submit())
        assert [j.job_id for j in await ops.list_jobs(c.services, QUEUE)] == [job.job_id]
        c.clock.tick(61)
        assert await ops.list_jobs(c.services, QUEUE) == []
        await c.sweep()
        assert await ops.find_result(c.services, job.job_id, QUEUE) is not None


async def test_cancelled_jobs_are_not_listed() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.cancel(c.services, QUEUE, job.job_id, "*")
        assert await ops.list_jobs(c.services, QUEUE) == []


async def test_why_names_the_rule_that_fails() -> None:
    async with core() as c:
        job = await c.submit(definition(requirements={"cpus": 4}, tags=["lab"]))
        small = Capacity(cores=1)
        told = await ops.why(
            c.services, QUEUE, job.job_id, [ops.Candidate(worker="w1", total=small, free=small, takes=1)]
        )
        failed = {rule["rule"] for rule in told["workers"][0]["rules"] if not rule["passed"]}
        assert failed == {"cpus", "tags"}
        assert told["reason"] == "no connected worker fits: cpus, tags"


async def test_why_knows_the_place_in_the_queue_and_an_empty_house() -> None:
    async with core() as c:
        for number in range(3):
            job = await c.submit(definition(str(number)))
            c.clock.tick(1)
        told = await ops.why(c.services, QUEUE, job.job_id, [])
        assert (told["position"], told["waitedSeconds"]) == (2, 1.0)
        assert "no worker is connected" in told["reason"]
        busy = ops.Candidate(worker="w1", total=Capacity(cores=2), free=Capacity(cores=0), takes=0)
        assert "busy" in (await ops.why(c.services, QUEUE, job.job_id, [busy]))["reason"]
