from __future__ import annotations

import asyncio
import dataclasses

import pytest

from asman import operations as ops
from asman.errors import Conflict, TransitionRefused
from asman.hookspecs import hookimpl
from asman.job import Job, State, absent
from asman.messages import decode_event
from asman.state import Cancelled, Unlisted
from core import QUEUE, core


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
