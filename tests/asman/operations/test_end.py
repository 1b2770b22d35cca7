from __future__ import annotations

import pytest

from asman import operations as ops
from asman.documents import DEFINITION, RESULT
from asman.errors import BadName, JobNotFound, LeaseLost, TransitionRefused
from asman.job import Outcome, Reason, State
from core import QUEUE, core, finished


async def test_a_cancel_is_final_at_once_and_a_late_report_is_refused() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        done = await ops.cancel(c.services, QUEUE, job.job_id, "_", "enough")
        assert (done.state, done.reason, done.outcome) == (State.FINISHED, Reason.CANCELLED, Outcome.CANCELLED)
        assert done.message == "enough"
        with pytest.raises(LeaseLost):
            await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))


async def test_one_namespace_gives_up_and_the_others_keep_the_job() -> None:
    async with core() as c:
        for name in ("a", "b", "c"):
            job = await c.submit(control={"namespace": name})
        left = await ops.cancel(c.services, QUEUE, job.job_id, "b")
        assert (left.state, left.namespace_names) == (State.QUEUED, ["a", "c"])
        assert (await ops.cancel(c.services, QUEUE, job.job_id, "*")).reason is Reason.CANCELLED


async def test_a_namespace_that_does_not_hold_the_job_cannot_cancel_it() -> None:
    async with core() as c:
        job = await c.submit(control={"namespace": "a"})
        with pytest.raises(TransitionRefused):
            await ops.cancel(c.services, QUEUE, job.job_id, "_")
        assert await c.load(job) == job


async def test_a_finished_job_cannot_be_cancelled() -> None:
    async with core() as c:
        job = await c.run(await c.submit())
        with pytest.raises(TransitionRefused):
            await ops.cancel(c.services, QUEUE, job.job_id, "*")
        assert (await c.load(job)).reason is Reason.SUCCESS  # type: ignore[union-attr]


async def test_a_cancelled_job_runs_again_when_it_is_submitted_again() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.cancel(c.services, QUEUE, job.job_id, "*")
        again = await c.submit()
        assert (again.state, again.generation, again.message) == (State.QUEUED, 2, "")


async def test_a_delete_takes_definition_result_and_logs() -> None:
    async with core() as c:
        job = await c.submit()
        claimed = await ops.announce(c.services, QUEUE, job.job_id, "w1")
        assert claimed is not None
        await ops.keep_lines(c.services, claimed, "Running", [["x\n", 1]])
        await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
        await ops.delete(c.services, QUEUE, job.job_id)
        assert await c.services.jobs.document(QUEUE, job.job_id, DEFINITION) is None
        assert await c.services.jobs.document(QUEUE, job.job_id, RESULT) is None
        assert (await c.services.logs.read_log(QUEUE, job.job_id, half="run")).total == 0
        with pytest.raises(JobNotFound):
            await ops.get_job(c.services, QUEUE, job.job_id)


async def test_a_deleted_job_starts_anew_and_the_old_attempt_stays_fenced() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        await ops.delete(c.services, QUEUE, job.job_id)
        await c.submit()
        claimed = await ops.announce(c.services, QUEUE, job.job_id, "w2")
        assert claimed is not None
        assert claimed.attempt == 2
        with pytest.raises(LeaseLost):
            await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))


async def test_a_delete_by_one_of_several_namespaces_keeps_the_result() -> None:
    async with core() as c:
        await c.submit(control={"namespace": "a"})
        job = await c.run(await c.submit(control={"namespace": "b"}))
        left = await ops.delete(c.services, QUEUE, job.job_id, "a")
        assert (left.namespace_names, left.has_result) == (["b"], True)


@pytest.mark.parametrize("job_id", ["", "x", "../x", "0" * 63, "G" * 64])
async def test_an_id_that_cannot_be_one_is_refused(job_id: str) -> None:
    async with core() as c:
        with pytest.raises((BadName, JobNotFound)):
            await ops.cancel(c.services, QUEUE, job_id, "*")
