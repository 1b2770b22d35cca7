from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asman import operations as ops
from asman.documents import blobs_behind
from asman.errors import BadMessage, LeaseLost, Unavailable
from asman.job import Job, Outcome, Reason, State
from asman.matching import Capacity
from core import QUEUE, Core, core, definition, finished
from in_process import Held

ROOM = Capacity(cores=8, memory_bytes=8 << 30, gpus=0)


async def _claim(c: Core, worker: str = "w1", limit: int = 1, room: Capacity = ROOM) -> list[str]:
    return [job.job_id for job, _ in await ops.claim(c.services, QUEUE, worker, room, limit)]


async def test_the_longest_waiting_job_is_given_first() -> None:
    async with core() as c:
        ids = []
        for number in range(5):
            ids.append((await c.submit(definition(str(number)))).job_id)
            c.clock.tick(1)
        assert await _claim(c, limit=3) == ids[:3]
        assert await _claim(c, limit=9) == ids[3:]


async def test_a_claim_brings_the_definition_and_raises_the_attempt() -> None:
    async with core() as c:
        await c.submit(definition("echo one"))
        ((job, raw),) = await ops.claim(c.services, QUEUE, "w1", ROOM, 1)
        assert (raw, job.attempt, job.worker, job.state) == (definition("echo one"), 1, "w1", State.RUNNING)
        assert job.lease_until == c.clock() + c.services.config.lease_s


async def test_jobs_that_do_not_fit_are_passed_over_and_do_not_block() -> None:
    async with core() as c:
        await c.submit(definition("big", requirements={"cpus": 64}))
        c.clock.tick(1)
        small = await c.submit(definition("small"))
        assert await _claim(c) == [small.job_id]


async def test_what_is_given_together_fits_together() -> None:
    async with core() as c:
        for number in range(4):
            await c.submit(definition(str(number), requirements={"cpus": 3}))
        assert len(await _claim(c, limit=4)) == 2


async def test_tags_and_gpus_are_needed_in_full() -> None:
    async with core() as c:
        await c.submit(definition("t", tags=["gpu", "lab"]))
        await c.submit(definition("g", requirements={"gpus": 2}))
        assert await _claim(c, limit=2, room=Capacity(cores=8, gpus=1, tags=frozenset(("gpu",)))) == []
        full = Capacity(cores=8, gpus=2, tags=frozenset(("gpu", "lab", "more")))
        assert len(await _claim(c, limit=2, room=full)) == 2


async def test_many_workers_at_once_never_get_the_same_job() -> None:
    async with core() as c:
        for number in range(40):
            await c.submit(definition(str(number)))
        reserved: set[str] = set()
        claims = (ops.claim(c.services, QUEUE, f"w{n}", ROOM, 4, reserved) for n in range(10))
        given = [job.job_id for taken in await asyncio.gather(*claims) for job, _ in taken]
        assert len(given) == len(set(given)) == 40
        assert reserved == set()


async def test_many_workers_at_once_each_get_a_job_from_a_store_that_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with core() as c:
        for number in range(60):
            await c.submit(definition(str(number)))
        at_once = c.services.jobs.list

        async def slow(*args: Any, **asked: Any) -> list[Job]:
            await asyncio.sleep(0.001)
            return await at_once(*args, **asked)

        monkeypatch.setattr(c.services.jobs, "list", slow)
        reserved: set[str] = set()
        claims = (ops.claim(c.services, QUEUE, f"w{n}", ROOM, 1, reserved) for n in range(50))
        given = [job.job_id for taken in await asyncio.gather(*claims) for job, _ in taken]
        assert len(given) == len(set(given)) == 50
        assert reserved == set()


async def test_a_renewed_lease_is_longer_and_a_stranger_cannot_renew() -> None:
    async with core() as c:
        (job_id,) = [(await c.submit()).job_id]
        await _claim(c)
        c.clock.tick(20)
        kept, lost = await ops.renew(c.services, QUEUE, "w1", {job_id: 1})
        assert (kept, lost) == ({job_id: 1}, [])
        assert await ops.renew(c.services, QUEUE, "w2", {job_id: 1}) == ({}, [job_id])
        assert await ops.renew(c.services, QUEUE, "w1", {job_id: 2, "0" * 64: 1}) == ({}, [job_id, "0" * 64])


async def test_a_lapsed_lease_puts_the_job_back_and_the_next_attempt_fences_the_first() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c, "w1")
        c.clock.tick(31)
        await c.sweep()
        assert (await c.load(job)).state is State.QUEUED  # type: ignore[union-attr]
        await _claim(c, "w2")
        with pytest.raises(LeaseLost):
            await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
        done = await ops.report(c.services, QUEUE, job.job_id, "w2", 2, finished("w2"))
        assert (done.after.result_worker, done.after.attempt) == ("w2", 2)


async def test_a_late_report_counts_while_nobody_else_has_the_job() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c, "w1")
        c.clock.tick(31)
        await c.sweep()
        done = await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
        assert (done.after.state, done.after.outcome) == (State.FINISHED, Outcome.SUCCEEDED)


async def test_a_worker_that_comes_back_in_time_takes_its_job_up_again() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c, "w1")
        c.clock.tick(31)
        await c.sweep()
        kept, _ = await ops.renew(c.services, QUEUE, "w1", {job.job_id: 1})
        assert kept == {job.job_id: 1}
        back = await c.load(job)
        assert back is not None
        assert (back.state, back.attempt, back.lost) == (State.RUNNING, 1, 0)


async def test_three_lost_attempts_end_the_job() -> None:
    async with core() as c:
        job = await c.submit()
        for _ in range(3):
            await _claim(c)
            c.clock.tick(31)
            await c.sweep()
        ended = await c.load(job)
        assert ended is not None
        assert (ended.reason, ended.outcome) == (Reason.WORKER_LOST, Outcome.WORKER_LOST)
        assert [a.end for a in ended.history] == ["lost"] * 3


async def test_jobs_handed_back_wait_again_at_once_and_do_not_count_as_lost() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c)
        assert await ops.release(c.services, QUEUE, "w1", {job.job_id: 1, "0" * 64: 1}) == [job.job_id]
        waiting = await c.load(job)
        assert waiting is not None
        assert (waiting.state, waiting.lost) == (State.QUEUED, 0)


async def test_a_worker_that_lost_its_memory_loses_the_attempt_at_once() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c)
        await ops.give_back(c.services, QUEUE, job.job_id)
        waiting = await c.load(job)
        assert waiting is not None
        assert (waiting.state, waiting.lost) == (State.QUEUED, 1)


async def test_a_closed_connection_shortens_the_lease_and_never_lengthens_it() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c)
        await ops.shorten_lease(c.services, QUEUE, "w1", {job.job_id: 1})
        grace_s = c.services.config.reconnect_grace_s
        assert (await c.load(job)).lease_until == c.clock() + grace_s  # type: ignore[union-attr]
        c.clock.tick(10)
        await ops.shorten_lease(c.services, QUEUE, "w1", {job.job_id: 1})
        assert (await c.load(job)).lease_until == c.clock() + grace_s - 10  # type: ignore[union-attr]


async def test_the_same_report_again_changes_nothing_and_another_one_is_refused() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c)
        first = await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
        again = await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
        assert again.after == first.after
        with pytest.raises(LeaseLost):
            await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1", reason="Error"))


@pytest.mark.parametrize("reason", [None, "Cancelled", "Deleted", "WorkerLost", "nonsense"])
async def test_a_worker_reports_only_what_workers_report(reason: str | None) -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c)
        with pytest.raises(BadMessage, match="Success, Error or TimedOut"):
            await ops.report(c.services, QUEUE, job.job_id, "w1", 1, {"reason": reason})
        assert (await c.load(job)).state is State.RUNNING  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ({"reason": "Success", "result": {"StatusCode": 0}}, Outcome.SUCCEEDED),
        ({"reason": "Success", "result": {"StatusCode": 3}}, Outcome.FAILED),
        ({"reason": "Success", "outcome": "out_of_memory", "result": {"StatusCode": 137}}, Outcome.OUT_OF_MEMORY),
        ({"reason": "Success", "outcome": "failed", "result": {"StatusCode": 0}}, Outcome.SUCCEEDED),
        ({"reason": "TimedOut", "result": {"StatusCode": 137}}, Outcome.TIMED_OUT),
        ({"reason": "Error", "result": {}}, Outcome.ERROR),
    ],
)
def test_the_outcome_tells_the_truth(value: dict[str, object], outcome: Outcome) -> None:
    assert ops.outcome_of(value) is outcome


async def test_of_two_mirroring_workers_the_id_that_sorts_first_keeps_the_job() -> None:
    async with core() as c:
        job = await c.submit()
        assert await ops.announce(c.services, QUEUE, job.job_id, "worker-b") is not None
        assert await ops.announce(c.services, QUEUE, job.job_id, "worker-c") is None
        taken = await ops.announce(c.services, QUEUE, job.job_id, "worker-a")
        assert taken is not None
        assert (taken.worker, taken.attempt) == ("worker-a", 2)


async def test_a_mirroring_worker_never_takes_an_assigned_job() -> None:
    async with core() as c:
        job = await c.submit()
        await _claim(c, "worker-z")
        assert await ops.announce(c.services, QUEUE, job.job_id, "worker-a") is None


async def test_a_large_result_is_read_back_whole() -> None:
    async with core() as c:
        job = await c.run(await c.submit(), logs=[["x" * 100_000, 1]])
        result = await ops.find_result(c.services, job.job_id)
        assert result is not None
        assert result["finished"]["result"]["logs"] == [["x" * 100_000, 1]]


@pytest.mark.parametrize(("method", "answered"), [("save", True), ("document", False)])
async def test_what_a_cancelled_claim_took_is_handed_back_and_does_not_count_as_lost(
    method: str, answered: bool
) -> None:
    async with core() as c:
        jobs = []
        for number in range(3):
            jobs.append(await c.submit(definition(str(number))))
            c.clock.tick(1)
        held = Held(c.services.jobs, method, answered=answered)
        caller = asyncio.create_task(_claim(c, limit=2))
        await held.cancel(caller)
        for job, ends in zip(jobs, (["released"], ["released"], []), strict=True):
            now = await c.load(job)
            assert now is not None
            assert (now.state, now.lost, [past.end for past in now.history]) == (State.QUEUED, 0, ends)
        assert await _claim(c, "w2", limit=3) == [job.job_id for job in jobs]


async def test_a_claim_that_fails_hands_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs are claimed at once and the store goes away between the two saves."""
    async with core() as c:
        jobs = [await c.submit(definition(str(number))) for number in range(2)]
        store, saves = c.services.jobs, 0
        save = store.save

        async def away_once(job: Job, **how: Any) -> None:
            nonlocal saves
            saves += 1
            if saves == 1:
                raise Unavailable("the store is away")
            await asyncio.sleep(0.01)
            await save(job, **how)

        monkeypatch.setattr(store, "save", away_once)
        with pytest.raises(Unavailable):
            await _claim(c, limit=2)
        states = [(now.state, now.lost, now.attempt) for job in jobs if (now := await c.load(job)) is not None]
        assert sorted(states) == [(State.QUEUED, 0, 0), (State.QUEUED, 0, 1)]


async def test_a_report_that_is_being_stored_is_stored_whole_when_its_caller_is_cancelled() -> None:
    """What is behind the record lives as long as it does, also when the connection closes before that is written."""
    async with core() as c:
        job = await c.submit(definition("large", env={"A": "x" * 50_000}))
        ((claimed, _),) = await ops.claim(c.services, QUEUE, "w1", ROOM, 1)
        c.clock.tick(10 * 86_400)
        held = Held(c.services.jobs, "save", answered=True)
        reporting = ops.report(c.services, QUEUE, job.job_id, "w1", claimed.attempt, finished("w1"))
        caller = asyncio.create_task(reporting)
        await held.cancel(caller)
        now = await c.load(job)
        assert now is not None
        assert now.state is State.FINISHED
        (key,) = await blobs_behind(c.services, now)
        info = await c.services.blobs.stat(key)
        assert info is not None
        assert info.expires_at == now.expires_at
