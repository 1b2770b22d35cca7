"""How the work grows, by counting it: calls of the store, frames made, bytes sent. Counts do not depend on the machine.

A submit, a claim and a report cost the same at ten and at ten thousand queued jobs; an event is written down once,
whoever watches; nobody who is slow or many makes it dearer for the others.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asman import messages
from asman.hookspecs import hookimpl
from asman.maintenance import sweep
from asman.memory import MemoryBlobStore, MemoryJobStore, MemoryNotifier
from in_process import GatedSocket, InProcess, hello, in_process

Q = "growth"
METHODS = (
    "load",
    "save",
    "document",
    "delete",
    "in_namespace",
    "find",
    "due",
    "counts",
    "list",
    "append_log",
    "read_log",
)


class Counting:
    """A plugin: the memory stores, with every call and every record they hand out counted."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.records = 0
        self.published = 0
        self.published_bytes = 0
        self.jobs = MemoryJobStore()
        for name in METHODS:
            setattr(self.jobs, name, self._counted(name, getattr(self.jobs, name)))
        self.notifier = MemoryNotifier()
        publish = self.notifier.publish

        async def count(topic: str, data: bytes) -> None:
            self.published += 1
            self.published_bytes += len(data)
            await publish(topic, data)

        self.notifier.publish = count  # type: ignore[method-assign]

    def _counted(self, name: str, method: Any) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            answer = await method(*args, **options)
            self.records += len(answer) if isinstance(answer, (list, dict)) else 0
            return answer

        return call

    @hookimpl
    def asman_job_store(self, url: str, config: object) -> MemoryJobStore:
        return self.jobs

    @hookimpl
    def asman_blob_store(self, url: str, config: object) -> MemoryBlobStore:
        return MemoryBlobStore()

    @hookimpl
    def asman_notifier(self, url: str, config: object) -> MemoryNotifier:
        return self.notifier

    def taken(self) -> tuple[dict[str, int], int]:
        """Calls and records since the last time."""
        taken = dict(self.calls), self.records
        self.calls.clear()
        self.records = 0
        return taken


@asynccontextmanager
async def filled(queued: int) -> AsyncIterator[tuple[InProcess, Counting]]:
    """An app whose queue holds this many jobs, all of one shape."""
    counting = Counting()
    async with in_process(plugins=[counting]) as served:
        for n in range(queued):
            await served.submit(Q, hello(f"waits {n}", requirements={"cpus": 1}))
            served.clock.advance(0.001)
        served.clock.advance(10)
        counting.taken()
        yield served, counting


async def _costs(queued: int) -> dict[str, tuple[dict[str, int], int]]:
    """What each act costs beside a queue of this length."""
    costs = {}
    async with filled(queued) as (served, counting), served.watch(Q):
        counting.taken()
        job_id = await served.submit(Q, hello("mine", requirements={"cpus": 1}))
        costs["submit"] = counting.taken()
        await served.submit(Q, hello("mine", requirements={"cpus": 1}))
        costs["submit again"] = counting.taken()
        await served.submit(Q, hello("named", requirements={"cpus": 1}), control={"namespace": "n"})
        costs["submit in a namespace"] = counting.taken()
        async with served.worker(Q, jobs=0) as worker:
            costs["register"] = counting.taken()
            await worker.ready(1)
            given = await worker.hear("Assign")
            await worker.settle()
            costs["claim"] = counting.taken()
            await worker.say("Renew", {"jobs": {given["jobId"]: 1}})
            await worker.hear("Renewed")
            costs["renew"] = counting.taken()
            await worker.log(given, "a line", seq=0)
            await worker.settle()
            costs["a line"] = counting.taken()
            await worker.finish(given)
            await worker.settle()
            costs["finish"] = counting.taken()
        counting.taken()
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        costs["cancel"] = counting.taken()
        await served.get(f"/j/{given['jobId']}")
        costs["look up"] = counting.taken()
        await served.client.get(f"/q/{Q}/metrics")
        costs["metrics"] = counting.taken()
        await served.get(f"/q/{Q}/scale?needs=cpu&cpus_per_worker=4")
        costs["scale"] = counting.taken()
        await sweep(served.services)
        costs["sweep"] = counting.taken()
    return costs


async def test_every_act_costs_the_same_at_ten_and_at_ten_thousand_queued_jobs() -> None:
    few, many = await _costs(50), await _costs(10_000)
    for act, (calls, records) in few.items():
        assert many[act][0] == calls, act
        assert many[act][1] == records, f"{act}: {records} records at 50 jobs, {many[act][1]} at 10,000"
    assert sum(few["submit"][0].values()) <= 2
    assert few["submit"][1] == 0
    assert sum(few["claim"][0].values()) <= 8
    assert sum(few["finish"][0].values()) <= 8


async def test_a_claim_reads_as_many_records_as_it_wants_and_not_the_queue() -> None:
    async with filled(500) as (served, counting):
        async with served.worker(Q, jobs=1, cpus=1) as worker:
            await worker.hear("Assign")
            await worker.settle()
        assert counting.taken()[1] <= 2 * (1 + 16 + 1 + 1), "a few heads beyond what is wanted, and the counters"


@pytest.mark.parametrize("watchers", [1, 50])
async def test_an_event_is_written_down_once_whoever_watches(watchers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with filled(5) as (served, counting):
        async with _watched(served, watchers) as peers:
            records: Counter[str] = Counter()
            written = messages.job_record

            def counted(job: Any) -> dict[str, Any]:
                records[job.job_id] += 1
                return written(job)

            monkeypatch.setattr(messages, "job_record", counted)
            counting.published = 0
            job_id = await served.submit(Q, hello("new"))
            frames = []
            for peer in peers:
                await peer.hear_job(job_id)
                frames.append(peer.heard[-1])
            assert records == {job_id: 1}
            assert counting.published == 1
            assert len({id(frame) for frame in frames}) == 1, "all were sent the very same text"


@asynccontextmanager
async def _watched(served: InProcess, watchers: int) -> AsyncIterator[list[Any]]:
    async with asyncio.TaskGroup() as tasks:
        leave, there, peers = asyncio.Event(), asyncio.Event(), []

        async def watch() -> None:
            async with served.watch(Q) as peer:
                peers.append(peer)
                if len(peers) == watchers:
                    there.set()
                await leave.wait()

        for _ in range(watchers):
            tasks.create_task(watch())
        await there.wait()
        try:
            yield peers
        finally:
            leave.set()


async def _bytes_per_event(queued: int) -> int:
    async with filled(queued) as (served, _), served.watch(Q) as client:
        before = len(client.heard)
        job_id = await served.submit(Q, hello("new"))
        async with served.worker(Q, "w1", jobs=0, cpus=1) as worker:
            await worker.settle()
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        await client.hear_job(job_id, "Finished")
        return sum(len(text) for text in client.heard[before:])


async def test_the_bytes_of_an_event_do_not_grow_with_the_queue() -> None:
    assert await _bytes_per_event(5) == await _bytes_per_event(2_000)


async def test_a_connection_costs_one_list_for_all_that_come_at_the_same_time() -> None:
    async with filled(100) as (served, counting):
        counting.taken()
        async with _watched(served, 30):
            calls, records = counting.taken()
            assert calls["list"] == 1
            assert records == 100


async def test_events_that_nobody_hears_are_not_written_down() -> None:
    async with filled(0) as (served, counting):
        counting.published = 0
        job_id = await served.submit(Q)
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        assert counting.published == 0


async def test_many_waiting_workers_are_not_all_woken_for_one_job() -> None:
    """Each job that comes costs one claim, not one for each idle worker."""
    async with filled(0) as (served, counting):
        async with asyncio.TaskGroup() as tasks:
            leave, ready, given = asyncio.Event(), asyncio.Semaphore(0), asyncio.Queue[str]()

            async def idle(name: str) -> None:
                async with served.worker(Q, name, jobs=1) as worker:
                    await worker.settle()
                    ready.release()
                    hearing = asyncio.create_task(worker.hear("Assign", within_s=60))
                    leaving = asyncio.create_task(leave.wait())
                    await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if hearing.done():
                        given.put_nowait(name)
                    hearing.cancel()
                    await leave.wait()

            for n in range(20):
                tasks.create_task(idle(f"w{n}"))
            for _ in range(20):
                await ready.acquire()
            counting.taken()
            await served.submit(Q)
            async with asyncio.timeout(5):
                await given.get()
            for _ in range(50):
                await asyncio.sleep(0)
            calls, _ = counting.taken()
            assert calls["list"] <= 2, "one worker looked"
            assert given.empty()
            leave.set()


async def test_a_stalled_watcher_costs_the_others_nothing_in_frames_or_delay() -> None:
    async with filled(0) as (served, _):
        served.client.websocket_connection_class = GatedSocket
        async with served.watch(Q) as stalled, served.watch(Q) as lively:
            stalled.connection.gate.clear()
            for n in range(300):
                job_id = await served.submit(Q, hello(n))
                record = await lively.hear_job(job_id)
                assert record["state"] == "Queued"
            assert len([t for t in lively.heard if "JobStateUpdates" in t]) == 300
            stalled.connection.gate.set()
            await stalled.hear_job(job_id)
            await stalled.settle()
            seen = {i for t in stalled.heard if "JobState" in t for i in json.loads(t)["payload"]["state"]["jobs"]}
            assert len(seen) == 300


async def test_the_tasks_of_a_connection_are_few_and_end_with_it() -> None:
    async with filled(0) as (served, _):
        idle = len(asyncio.all_tasks())
        async with _watched(served, 20):
            per_client = (len(asyncio.all_tasks()) - idle) / 20
        for _ in range(20):
            await asyncio.sleep(0)
        assert per_client <= 7
        assert len(asyncio.all_tasks()) == idle
        assert served.hub.channels == ()


async def test_an_idle_queue_costs_no_task_and_no_timer() -> None:
    async with filled(0) as (served, _):
        loop: Any = asyncio.get_running_loop()
        tasks, timers = len(asyncio.all_tasks()), len(loop._scheduled)
        for n in range(50):
            await served.submit(f"queue-{n}")
        assert len(asyncio.all_tasks()) == tasks
        assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= timers
