"""The app of one Durable Object: its alarm, and what the Worker and other objects ask of it. The stores are real, in
memory; the object's storage, which sets alarms, is the runtime's and stood in for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asman import operations as ops
from asman.errors import Unavailable
from asman.hookspecs import hookimpl
from asman.job import State
from asman.matching import Capacity
from asman.memory import MemoryBlobStore, MemoryJobStore
from asman.services import Services
from asman.testing import FakeClock
from asman_edge.objects import Alarm, ObjectHost

ENVIRON = {"ASMAN_EXPIRE_AFTER": "100s", "ASMAN_LEASE": "20s", "ASMAN_SWEEP": "1s", "ASMAN_MAX_ATTEMPTS": "3"}


@dataclass
class Object:
    """What stays when the host is put away. Units: seconds since the clock's beginning."""

    clock: FakeClock = field(default_factory=FakeClock)
    jobs: MemoryJobStore = field(default_factory=MemoryJobStore)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    alarms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def setAlarm(self, at: float) -> None:
        self.alarms.append(round(at / 1000 - self.began, 3))

    @hookimpl
    def asman_job_store(self) -> Any:
        return self.jobs

    @hookimpl
    def asman_blob_store(self) -> Any:
        return self.blobs


@asynccontextmanager
async def opened(of: Object, *, looks_after: bool = True) -> AsyncIterator[tuple[ObjectHost, Services]]:
    told = json.dumps({"flags": {"backend": "memory"}, "environ": ENVIRON})
    host = ObjectHost(told, bytes, Alarm(of) if looks_after else None, of, clock=of.clock)
    await host.start()
    try:
        yield host, host._services
    finally:
        await host.stop()


async def submit(services: Services, number: int = 1) -> str:
    submission = ops.read_submission(services, {"definition": {"image": "a", "command": str(number)}})
    return (await ops.submit(services, "q", submission)).job.job_id


async def claim(services: Services) -> None:
    assert len(await ops.claim(services, "q", "w", Capacity(), 1)) == 1


async def state_of(services: Services, job_id: str) -> State | None:
    job = await services.jobs.load("q", job_id)
    return None if job is None else job.state


async def test_an_object_is_woken_when_its_first_record_is_due() -> None:
    one = Object()
    async with opened(one) as (_, services):
        await submit(services)
        one.clock.advance(10)
        await submit(services, 2)
        assert one.alarms == [100]
        await claim(services)
        assert one.alarms == [100, 30]


async def test_a_lease_that_lapsed_is_rescued_by_the_alarm_and_the_next_is_set() -> None:
    one = Object()
    async with opened(one) as (host, services):
        job_id = await submit(services)
        await claim(services)
        one.clock.advance(20)
        await host.sweep()
        assert await state_of(services, job_id) is State.QUEUED
        assert one.alarms == [100, 20, 100]


async def test_alarms_far_apart_are_no_pause_of_the_server() -> None:
    one = Object()
    async with opened(one) as (host, services):
        job_id = await submit(services)
        for _ in range(2):
            await claim(services)
            one.clock.advance(20)
            await host.sweep()
            assert await state_of(services, job_id) is State.QUEUED


async def test_an_object_that_begins_gives_every_lease_a_new_term() -> None:
    one = Object()
    async with opened(one) as (_, services):
        job_id = await submit(services)
        await claim(services)
    one.clock.advance(19)
    async with opened(one) as (host, services):
        assert one.alarms[-1] == 20, "what the store holds sets the alarm"
        one.clock.advance(1)
        await host.sweep()
        assert await state_of(services, job_id) is State.RUNNING
        assert one.alarms[-1] == 21, "looked at again soon"
        one.clock.advance(19)
        await host.sweep()
        assert await state_of(services, job_id) is State.QUEUED


async def test_an_object_without_jobs_asks_for_no_alarm() -> None:
    one = Object()
    async with opened(one) as (host, _):
        await host.sweep()
    assert one.alarms == []


async def test_an_object_whose_jobs_others_look_after_does_nothing_by_itself() -> None:
    one = Object()
    async with opened(one, looks_after=False) as (host, services):
        job_id = await submit(services)
        await claim(services)
        one.clock.advance(50)
        await host.sweep()
        assert await state_of(services, job_id) is State.RUNNING
    assert one.alarms == []


async def test_blobs_are_removed_when_asked_and_not_by_the_alarm() -> None:
    one = Object()
    async with opened(one) as (host, services):
        await ops.store_blob(services, "name", _pieces(b"data"))
        one.clock.advance(100 + 61)
        await host.sweep()
        assert await services.blobs.stat("name") is not None
        await host.prune()
        assert await services.blobs.stat("name") is None


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class KnowsOverdue(MemoryJobStore):
    async def overdue(self, before: float, *, limit: int = 100) -> list[str]:
        return sorted({job.queue for job in await self.due(before, limit=limit)})


async def test_queues_that_no_alarm_looked_after_are_named() -> None:
    one = Object(jobs=KnowsOverdue())
    async with opened(one, looks_after=False) as (host, services):
        await submit(services)
        one.clock.advance(100 + 59)
        assert json.loads(await host.overdue()) == []
        one.clock.advance(2)
        assert json.loads(await host.overdue()) == ["q"]
    async with opened(Object(), looks_after=False) as (host, _):
        assert json.loads(await host.overdue()) == [], "a store that cannot tell"


async def test_other_objects_ask_for_what_is_kept_here() -> None:
    async with opened(Object()) as (host, services):
        job_id = await submit(services)
        question = {"ask": "load", "queue": "q", "job_id": job_id}
        assert json.loads(await host.ask(json.dumps(question)))["job_id"] == job_id
        assert await host.ask(json.dumps({**question, "job_id": "f" * 64})) is None


class HostsBytes:
    def to_bytes(self) -> bytes:
        return b"told"


async def test_what_another_object_tells_is_heard_here() -> None:
    heard: list[bytes] = []
    async with opened(Object()) as (host, services):
        await services.notifier.subscribe("queue:q", heard.append)
        await host.hear("queue:q", HostsBytes())
    assert heard == [b"told"]


class FailsOnce(MemoryJobStore):
    fails = True

    async def due(self, before: float, *, limit: int = 100) -> list[Any]:
        if self.fails:
            self.fails = False
            raise Unavailable("it is away")
        return await super().due(before, limit=limit)


async def test_a_start_that_fails_is_tried_again() -> None:
    one = Object(jobs=FailsOnce())
    told = json.dumps({"flags": {"backend": "memory"}, "environ": ENVIRON})
    host = ObjectHost(told, bytes, Alarm(one), one, clock=one.clock)
    try:
        await host.start()
    except Unavailable:
        await host.start()
    assert host._services.clock() == one.clock()
    await host.stop()
