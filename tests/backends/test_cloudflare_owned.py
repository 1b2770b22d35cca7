"""The layer of a queue's object: the exam of a job store with it on top, what it need not ask, and other writers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asman.errors import Conflict, StorageFull, Unavailable
from asman.job import Job, Requirements, State
from asman.memory import MemoryJobStore
from asman.testing import JobStoreKit, fresh_id, make_job
from asman_cloudflare.owned import OwnedJobStore
from asman_sqlite.jobs import SqliteJobStore
from core import Clock

NEEDS = (Requirements(), Requirements(cores=2, tags=("a",)))


class TestOverMemory(JobStoreKit):
    async def open_store(self) -> OwnedJobStore:
        return OwnedJobStore(MemoryJobStore(), self.queue)


class TestOverSqlite(JobStoreKit):
    durable = True

    async def open_store(self) -> OwnedJobStore:
        return OwnedJobStore(SqliteJobStore(self.folder / "jobs.db"), self.queue)


# --- what it need not ask ---------------------------------------------------------------------------------------------


class Counting(MemoryJobStore):
    """Shape: ``asked`` are the calls so far; ``fault`` is raised by the next save, which is done all the same.

    Units:  ``slow`` in turns of the loop that the answer to a load takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self.slow = 0

    async def load(self, queue: str, job_id: str) -> Job | None:
        self.asked.append("load")
        await asyncio.sleep(0)
        found = await super().load(queue, job_id)
        for _ in range(self.slow):
            await asyncio.sleep(0)
        return found

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        self.asked.append("save")
        await asyncio.sleep(0)
        await super().save(job, expected=expected, documents=documents)
        await asyncio.sleep(0)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        self.asked.append("document")
        return await super().document(queue, job_id, name)

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        self.asked.append("counts")
        await asyncio.sleep(0)
        return await super().counts(queue)

    async def list(self, queue: str, **asked: Any) -> list[Job]:  # type: ignore[override]
        self.asked.append("list")
        await asyncio.sleep(0)
        return await super().list(queue, **asked)


async def claim_one(store: OwnedJobStore, queue: str, taken: list[tuple[str, int]]) -> Job | None:
    """As the operations claim: a shape that has queued jobs, its first job, a save."""
    for shape in [shape for state, shape in await store.counts(queue) if state is State.QUEUED]:
        for job in await store.list(queue, states=(State.QUEUED,), shape=shape, limit=17):
            claimed = replace(job, version=job.version + 1, state=State.RUNNING, attempt=job.attempt + 1)
            try:
                await store.save(claimed, expected=job.version)
            except Conflict:
                continue
            taken.append((claimed.job_id, claimed.attempt))
            return claimed
    return None


async def finish(store: OwnedJobStore, job: Job) -> Job:
    done = replace(job, version=job.version + 1, state=State.FINISHED)
    await store.save(done, expected=job.version, documents={"result": b"r"})
    return done


async def test_a_submit_a_claim_and_a_finish_ask_the_store_once_each() -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    assert await store.counts("q") == {}
    inner.asked.clear()
    for number in range(40):
        job = make_job("q", queued_at=float(number), requirements=NEEDS[number % 2])
        await store.save(job, expected=0, documents={"definition": b"d"})
        claimed = await claim_one(store, "q", [])
        assert claimed is not None
        assert await store.document("q", claimed.job_id, "definition") == b"d"
        assert await store.load("q", claimed.job_id) == claimed
        done = await finish(store, claimed)
        assert [await store.document("q", done.job_id, name) for name in ("definition", "result")] == [b"d", b"r"]
    assert inner.asked == ["save"] * 120


async def test_a_long_queue_is_read_by_many_jobs_at_a_time() -> None:
    inner = Counting()
    for number in range(1_000):
        await inner.save(make_job("q", queued_at=float(number)), expected=0)
    inner.asked.clear()
    store, taken = OwnedJobStore(inner, "q"), list[tuple[str, int]]()
    given = [await claim_one(store, "q", taken) for _ in range(1_000)]
    assert [job.queued_at for job in given if job] == [float(number) for number in range(1_000)]
    assert inner.asked.count("save") == 1_000
    assert len(inner.asked) < 1_040


async def test_many_claims_at_once_get_as_many_jobs() -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    await asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(50)))
    taken: list[tuple[str, int]] = []
    await asyncio.gather(*(claim_one(store, "q", taken) for _ in range(50)))
    while await claim_one(store, "q", taken):
        pass
    assert len(set(taken)) == len(taken) == 50
    assert await store.counts("q") == await inner.counts("q")


async def test_a_record_that_is_known_to_be_newer_is_refused_without_a_try_and_then_read() -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    job = make_job("q")
    await store.save(job, expected=0)
    inner.asked.clear()
    with pytest.raises(Conflict):
        await store.save(job, expected=0)
    assert inner.asked == []
    assert await store.load("q", job.job_id) == job
    assert inner.asked == ["load"]


@pytest.mark.parametrize("fault", [Unavailable("it broke"), StorageFull("it is full"), OSError("a fault")])
async def test_after_an_error_nothing_is_taken_for_known(fault: Exception) -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    job = make_job("q")
    await store.save(job, expected=0, documents={"definition": b"d"})
    await store.counts("q")
    inner.fault = fault
    with pytest.raises(type(fault)):
        await store.save(replace(job, version=2, state=State.RUNNING), expected=1)
    found = await store.load("q", job.job_id)
    assert found is not None
    assert found.version == 2, "the store had done it"
    assert await store.counts("q") == {(State.RUNNING, job.requirements.shape): 1}
    assert await store.list("q", states=(State.QUEUED,), shape=job.requirements.shape) == []


async def test_what_another_writer_did_is_seen_after_a_while_or_a_conflict() -> None:
    inner, clock = Counting(), Clock()
    store = OwnedJobStore(inner, "q", trust_s=30.0, clock=clock)
    mine = make_job("q", queued_at=1.0)
    await store.save(mine, expected=0)
    shape = mine.requirements.shape
    assert await store.list("q", states=(State.QUEUED,), shape=shape, limit=17) == [mine]
    theirs = make_job("q", queued_at=0.0)
    await inner.save(theirs, expected=0)
    assert await store.list("q", states=(State.QUEUED,), shape=shape, limit=17) == [mine]
    clock.tick(31.0)
    assert await store.list("q", states=(State.QUEUED,), shape=shape, limit=17) == [theirs, mine]
    assert await store.counts("q") == {(State.QUEUED, shape): 2}
    await inner.save(replace(mine, version=2, state=State.RUNNING), expected=1)
    with pytest.raises(Conflict):
        await store.save(replace(mine, version=2, state=State.FINISHED), expected=1)
    assert await store.list("q", states=(State.QUEUED,), shape=shape, limit=17) == [theirs]


@pytest.mark.parametrize("turns", range(8))
async def test_a_read_and_a_write_at_once_leave_what_is_stored(turns: int) -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    job = make_job("q")
    await inner.save(job, expected=0)
    inner.slow = turns
    later = replace(job, version=2, state=State.RUNNING)
    await asyncio.gather(store.load("q", job.job_id), store.save(later, expected=1, documents={"result": b"r"}))
    assert await store.load("q", job.job_id) == later
    reading = asyncio.create_task(store.load("q", job.job_id))
    await store.delete("q", job.job_id, expected=2)
    await reading
    assert await store.load("q", job.job_id) is None


@pytest.mark.parametrize("turns", range(8))
async def test_counts_asked_for_while_others_write_are_right(turns: int) -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    saving = [asyncio.create_task(store.save(make_job("q"), expected=0)) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    asked = {"states": (State.QUEUED,), "shape": NEEDS[0].shape, "limit": 17}
    await asyncio.gather(store.counts("q"), store.list("q", **asked), *saving)
    assert await store.counts("q") == await inner.counts("q")
    assert await store.list("q", **asked) == await inner.list("q", **asked)


async def test_a_record_that_shows_another_writer_makes_everything_unknown() -> None:
    inner = Counting()
    store = OwnedJobStore(inner, "q")
    job, other = make_job("q", queued_at=0.0), make_job("q", queued_at=1.0)
    asked = {"states": (State.QUEUED,), "shape": job.requirements.shape, "limit": 17}
    await store.counts("q")
    for each in (job, other):
        await store.save(each, expected=0)
    await inner.save(replace(job, version=2, state=State.RUNNING), expected=1)
    with pytest.raises(Conflict):
        await store.save(job, expected=0)
    assert await store.list("q", **asked) == [job, other]
    assert (await store.load("q", job.job_id)) != job
    assert await store.list("q", **asked) == [other]
    assert await store.counts("q") == await inner.counts("q")


async def test_memory_is_bounded() -> None:
    store = OwnedJobStore(MemoryJobStore(), "q", kept_bytes=100_000)
    for number in range(3_000):
        job = make_job("q", queued_at=float(number), requirements=Requirements(cores=float(number % 900 + 1)))
        await store.save(job, expected=0, documents={"definition": b"d" * 1000})
    assert store._shelf._bytes <= 100_000
    assert len(store._shelf._entries) < 50
    await store.counts("q")
    for shape in {shape for _, shape in await store.counts("q")}:
        assert len(await store.list("q", states=(State.QUEUED,), shape=shape, limit=5)) >= 3
    assert len(store._heads) <= 2048


async def test_other_queues_pass_through(tmp_path: Path) -> None:
    async with (
        OwnedJobStore(SqliteJobStore(tmp_path / "jobs.db"), "q") as store,
        SqliteJobStore(tmp_path / "jobs.db") as other,
    ):
        job = make_job("elsewhere")
        await store.save(job, expected=0)
        await other.save(replace(job, version=2), expected=1)
        found = await store.load("elsewhere", job.job_id)
        assert found is not None
        assert found.version == 2
        assert store.durability == "disk"


# --- a writer elsewhere -----------------------------------------------------------------------------------------------


class TwoOwners(RuleBasedStateMachine):
    """Two objects that both take themselves for the owner, over one store: the worst that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.inner = Counting()
        self.layers = [OwnedJobStore(self.inner, "q", trust_s=30.0, clock=self.clock) for _ in range(2)]
        self.taken: list[tuple[str, int]] = []
        self.running: dict[str, Job] = {}
        self.submitted: set[str] = set()
        self.finished: set[str] = set()
        self.made = 0

    def teardown(self) -> None:
        """Nothing is lost: in the end everything that was submitted is given out, by either of them."""
        self.clock.tick(31.0)
        left = {job_id for job_id in self.submitted if job_id not in self.running and job_id not in self.finished}
        for turn in range(3 * len(left) + 6):
            self.claim(turn % 2, 1)
        assert left <= self.running.keys()
        self.runner.close()

    @rule(at=st.integers(0, 1), need=st.sampled_from(NEEDS), queued_at=st.integers(0, 9))
    def submit(self, at: int, need: Requirements, queued_at: int) -> None:
        self.made += 1
        job = make_job("q", fresh_id(self.made), requirements=need, queued_at=float(queued_at))
        self.runner.run(self.layers[at].save(job, expected=0, documents={"definition": b"d"}))
        self.submitted.add(job.job_id)

    @rule(at=st.integers(0, 1), many=st.integers(1, 3))
    def claim(self, at: int, many: int) -> None:
        async def claims() -> list[Job | None]:
            return await asyncio.gather(*(claim_one(self.layers[(at + n) % 2], "q", self.taken) for n in range(many)))

        for job in self.runner.run(claims()):
            if job is not None:
                assert job.job_id not in self.running, "a job was given out twice"
                self.running[job.job_id] = job

    @rule(at=st.integers(0, 1), data=st.data(), is_over=st.booleans())
    def end(self, at: int, data: st.DataObject, is_over: bool) -> None:
        """A job is finished or queued again, through whichever of them: as a step does, until it is taken."""
        if not self.running:
            return
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        for _ in range(20):
            job = self.runner.run(self.layers[at].load("q", job_id))
            assert job is not None
            state = State.FINISHED if is_over else State.QUEUED
            try:
                after = replace(job, version=job.version + 1, state=state)
                self.runner.run(self.layers[at].save(after, expected=job.version))
                break
            except Conflict:
                continue
        else:
            raise AssertionError("a step was refused again and again")
        del self.running[job_id]
        if is_over:
            self.finished.add(job_id)

    @rule(at=st.integers(0, 1), data=st.data())
    def delete(self, at: int, data: st.DataObject) -> None:
        if not self.finished:
            return
        job_id = data.draw(st.sampled_from(sorted(self.finished)))
        kept = self.runner.run(self.inner.load("q", job_id))
        assert kept is not None
        self.runner.run(self.layers[at].delete("q", job_id, expected=kept.version))
        self.finished.discard(job_id)
        self.submitted.discard(job_id)

    @rule(seconds=st.sampled_from([1.0, 20.0, 31.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @invariant()
    def no_attempt_was_given_twice(self) -> None:
        assert len(set(self.taken)) == len(self.taken)


TestTwoOwners = TwoOwners.TestCase
TestTwoOwners.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


class OneOwner(TwoOwners):
    """The only writer: then what is remembered is always what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.layers[0]] * 2

    @invariant()
    def all_that_is_known_is_true(self) -> None:
        layer = self.layers[0]

        async def compare() -> None:
            counted = await self.inner.counts("q")
            assert await layer.counts("q") == counted
            for need in NEEDS:
                for limit in (1, 17):
                    asked = {"states": (State.QUEUED,), "shape": need.shape, "limit": limit}
                    assert await layer.list("q", **asked) == await self.inner.list("q", **asked)
            for job_id in self.submitted:
                assert await layer.load("q", job_id) == await self.inner.load("q", job_id)
                for name in ("definition", "result"):
                    kept = await self.inner.document("q", job_id, name)
                    assert await layer.document("q", job_id, name) == kept

        self.runner.run(compare())


TestOneOwner = OneOwner.TestCase
TestOneOwner.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
