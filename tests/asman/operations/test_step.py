from __future__ import annotations

import asyncio
import dataclasses

import pytest

from asman import operations as ops
from asman.errors import Conflict, TransitionRefused
from asman.hookspecs import hookimpl
from asman.job import Job, State, absent
from asman.messages import decode_event
from asman.state import Cancelled, Released, Unlisted
from core import QUEUE, core
from in_process import Held, in_process, turns


async def test_a_step_that_the_table_refuses_changes_nothing() -> None:
    async with core() as c:
        job = await c.submit()
        with pytest.raises(TransitionRefused):
            await ops.step(c.services, QUEUE, job.job_id, Unlisted(at=c.clock()))
        assert await c.load(job) == job


async def test_a_wrong_belief_about_the_record_costs_a_second_try_and_not_the_step() -> None:
    async with core() as c:
        job = await c.submit()
        event = Cancelled(at=c.clock(), namespace="_", listed_until=c.clock() + 60)
        stale = dataclasses.replace(job, version=job.version + 5)
        done = await ops.step(c.services, QUEUE, job.job_id, event, known=stale)
        assert (done.before.version, done.after.version) == (job.version, job.version + 1)


async def test_many_at_once_each_take_their_step() -> None:
    async with core() as c:
        names = [f"n{number}" for number in range(6)]
        await asyncio.gather(*(c.submit(control={"namespace": name}) for name in names))
        job = (await ops.list_jobs(c.services, QUEUE))[0]
        assert job.namespace_names == names


async def test_others_that_are_always_faster_end_in_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    async with core() as c:
        job = await c.submit()

        async def refuse(*args: object, **kwargs: object) -> None:
            raise Conflict("somebody was faster")

        monkeypatch.setattr(type(c.services.jobs), "save", refuse)
        event = Cancelled(at=c.clock(), namespace="_", listed_until=c.clock() + 60)
        with pytest.raises(Conflict, match="somebody was faster"):
            await ops.step(c.services, QUEUE, job.job_id, event)


async def test_a_change_is_told_once_and_names_the_job() -> None:
    heard: list[bytes] = []
    async with core() as c:
        await c.services.notifier.subscribe(ops.topic(QUEUE), heard.append)
        job = await c.submit()
        assert len(heard) == 1
        header, message = decode_event(heard[0])
        assert (header["job_id"], header["state"], header["shape"]) == (job.job_id, "Queued", job.requirements.shape)
        assert job.job_id.encode() in message


async def test_a_plugin_hears_of_the_step_and_its_failure_changes_nothing() -> None:
    seen: list[tuple[State, State]] = []

    class Plugin:
        @hookimpl
        def asman_job_changed(self, job: Job, before: Job) -> object:
            seen.append((before.state, job.state))

            async def fail() -> None:
                raise RuntimeError("a plugin's fault")

            return fail()

    async with core([Plugin()]) as c:
        job = await c.submit()
        assert seen == [(State.ABSENT, State.QUEUED)]
        assert await c.load(job) == job


def test_the_topic_of_a_queue_is_its_own() -> None:
    assert ops.topic("a") != ops.topic("b")
    assert absent("a", "x").state is State.ABSENT


@pytest.mark.parametrize(("service", "method"), [("jobs", "save"), ("logs", "drop_log"), ("notifier", "publish")])
async def test_a_step_that_is_under_way_is_finished_and_told_when_its_caller_is_cancelled(
    service: str, method: str
) -> None:
    seen: list[State] = []
    heard: list[bytes] = []

    class Plugin:
        @hookimpl
        def asman_job_changed(self, job: Job, before: Job) -> None:
            seen.append(job.state)

    async with core([Plugin()]) as c:
        job = await c.submit()
        assert await ops.announce(c.services, QUEUE, job.job_id, "w1") is not None
        await c.services.notifier.subscribe(ops.topic(QUEUE), heard.append)
        held = Held(getattr(c.services, service), method, answered=True)
        event = Released(at=c.clock(), worker="w1", attempt=1)
        caller = asyncio.create_task(ops.step(c.services, QUEUE, job.job_id, event))
        await held.cancel(caller)
        now = await c.load(job)
        assert now is not None
        assert (now.state, seen[-1]) == (State.QUEUED, State.QUEUED)
        assert [decode_event(data)[0]["state"] for data in heard] == ["Queued"]


async def test_a_step_that_is_not_being_saved_yet_is_not_taken_when_its_caller_is_cancelled() -> None:
    async with core() as c:
        job = await c.submit()
        held = Held(c.services.jobs, "load")
        event = Cancelled(at=c.clock(), namespace="_", listed_until=c.clock() + 60)
        caller = asyncio.create_task(ops.step(c.services, QUEUE, job.job_id, event))
        await held.reached()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        held.let_go()
        assert await c.load(job) == job


async def test_the_check_of_all_jobs_waits_for_a_step_that_is_kept_and_not_told_yet() -> None:
    async with in_process() as served:
        job_id = await served.submit(QUEUE)
        held = Held(served.services.jobs, "save", answered=True)
        cancelling = asyncio.create_task(ops.cancel(served.services, QUEUE, job_id, "*"))
        await held.reached()
        checking = asyncio.create_task(served.check())
        await turns()
        assert not checking.done()
        held.let_go()
        await cancelling
        await checking


async def test_the_check_of_all_jobs_shows_what_is_kept_and_was_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process() as served:
        job_id = await served.submit(QUEUE)
        await ops.cancel(served.services, QUEUE, job_id, "*")
        last = served.witness.steps.pop()
        monkeypatch.setattr("in_process.WAIT_S", 0.05)
        with pytest.raises(AssertionError, match=r"(?s)keeps.*version=2.*told last of.*version=1"):
            await served.check()
        served.witness.steps.append(last)
