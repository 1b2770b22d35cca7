from __future__ import annotations

import asyncio

from asman import operations as ops
from asman.job import Job
from core import QUEUE, Core, core
from in_process import Held


async def _running(c: Core, worker: str = "w1") -> Job:
    job = await ops.announce(c.services, QUEUE, (await c.submit()).job_id, worker)
    assert job is not None
    return job


def test_steps_before_the_container_are_the_build_half() -> None:
    assert {ops.half_of(step) for step in ops.BUILD_STEPS} == {"build"}
    assert ops.half_of("Running") == ops.half_of("something new") == "run"


async def test_cursors_count_the_lines_of_each_half() -> None:
    async with core() as c:
        job = await _running(c)
        await ops.keep_lines(c.services, job, "docker image pull", [["p1\n", 1]])
        await ops.keep_lines(c.services, job, "Running", [["a\n", 2], ["b\n", 3, True]])
        await ops.keep_lines(c.services, job, "Running", [["c\n", 4]])
        build = await ops.read_lines(c.services, job.job_id, "build", 0, QUEUE)
        run = await ops.read_lines(c.services, job.job_id, "run", 1, QUEUE)
        assert (build.lines, build.next) == ([["p1\n", 1]], 1)
        assert (run.lines, run.start, run.next, run.is_final) == ([["b\n", 3, True], ["c\n", 4]], 1, 3, False)
        assert (await ops.read_lines(c.services, job.job_id, "run", 3)).lines == []


async def test_a_new_attempt_starts_at_zero_and_old_cursors_do_not_skip_it() -> None:
    async with core() as c:
        job = await _running(c)
        await ops.keep_lines(c.services, job, "Running", [["old\n", 1]] * 5)
        c.clock.tick(31)
        await c.sweep()
        assert (await ops.read_lines(c.services, job.job_id, "run", 0)).lines == []
        second = await ops.announce(c.services, QUEUE, job.job_id, "w2")
        assert second is not None
        await ops.keep_lines(c.services, second, "Running", [["new\n", 2]])
        page = await ops.read_lines(c.services, job.job_id, "run", 5)
        assert (page.lines, page.attempt, page.next) == ([["new\n", 2]], 2, 1)


async def test_an_ended_job_is_final_and_an_unknown_one_is_not() -> None:
    async with core() as c:
        job = await _running(c)
        await ops.cancel(c.services, QUEUE, job.job_id, "*")
        assert (await ops.read_lines(c.services, job.job_id, "run", 0, QUEUE)).is_final
        unknown = await ops.read_lines(c.services, "0" * 64, "run", 7)
        assert (unknown.lines, unknown.start, unknown.next, unknown.is_final) == ([], 7, 0, False)


async def test_lines_that_are_being_kept_are_told_when_the_caller_is_cancelled() -> None:
    heard: list[bytes] = []
    async with core() as c:
        job = await c.submit()
        running = await ops.announce(c.services, QUEUE, job.job_id, "w1")
        assert running is not None
        await c.services.notifier.subscribe(ops.topic(QUEUE), heard.append)
        held = Held(c.services.logs, "append_log", answered=True)
        caller = asyncio.create_task(ops.keep_lines(c.services, running, "Running", [["a line", 1]]))
        await held.cancel(caller)
        assert [b"a line" in data for data in heard] == [True]
