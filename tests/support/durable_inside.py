"""Tests of the job store in a Durable Object that run inside workerd: what the kits do not ask.

Not collected here: ``tests/backends/test_cloudflare_durable.py`` has them run there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from asman.app import create_app
from asman.config import Config
from asman.errors import ConfigError, Conflict, StorageFull, Unavailable
from asman.job import State, encode_job
from asman.matching import Capacity
from asman.operations.work import claim
from asman.testing import make_job, rich_job
from asman_cloudflare import Platform
from asman_cloudflare.directory import D1Directory
from asman_cloudflare.durable import DurableJobStore

TABLES = "SELECT count(*) FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'"


class Counted:
    """The object's SQL, and what each statement read and wrote, in rows."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.sql = self
        self.cursors: list[Any] = []

    def exec(self, *told: Any) -> Any:
        cursor = self._storage.sql.exec(*told)
        self.cursors.append(cursor)
        return cursor

    def transactionSync(self, run: Callable[[], None]) -> None:
        self._storage.transactionSync(run)

    def take(self) -> tuple[int, int, int]:
        """Statements, rows read, rows written."""
        taken, self.cursors = self.cursors, []
        return len(taken), sum(c.rowsRead for c in taken), sum(c.rowsWritten for c in taken)


class State_:
    def __init__(self, storage: Any) -> None:
        self.storage = storage


@pytest.fixture(autouse=True)
def _empty(state: Any) -> Iterator[None]:
    """Each test begins as a new object does."""
    _drop_everything(state)
    yield
    _drop_everything(state)


def _drop_everything(state: Any) -> None:
    rows = state.storage.sql.exec("SELECT name FROM sqlite_master WHERE type = 'table'").raw().toArray().to_py()
    for (name,) in rows:
        if not name.startswith(("_cf", "sqlite_")):
            state.storage.sql.exec(f"DROP TABLE {name}")


def _tables(state: Any) -> int:
    rows = state.storage.sql.exec(TABLES).raw().toArray().to_py()
    return int(rows[0][0])


@asynccontextmanager
async def _opened(storage: Any) -> AsyncIterator[DurableJobStore]:
    async with DurableJobStore(State_(storage)) as store:
        yield store


async def test_fifty_claims_at_once_get_fifty_jobs(env: Any, state: Any) -> None:
    config = Config(backend="durable://", blobs="memory:")
    app = create_app(config, [Platform(env, state)], discover=False)
    await app.startup()
    client = app.test_client()
    sent = [
        client.post("/q/claims", json={"definition": {"image": "alpine:3.19.1", "command": f"echo {n}"}})
        for n in range(50)
    ]
    assert [answer.status_code for answer in await asyncio.gather(*sent)] == [200] * 50
    services = app.extensions["asman"]
    free = Capacity(cores=8.0)
    taken = await asyncio.gather(*(claim(services, "claims", f"w{n}", free, 1) for n in range(50)))
    while missing := [n for n, got in enumerate(taken) if not got]:
        again = await asyncio.gather(*(claim(services, "claims", f"w{n}", free, 1) for n in missing))
        for n, got in zip(missing, again, strict=True):
            taken[n] = got
    assert len({job.job_id for got in taken for job, _ in got}) == 50
    stored = await services.jobs.list("claims", states=[State.RUNNING])
    assert {job.worker for job in stored} == {f"w{n}" for n in range(50)}
    await app.shutdown()


async def test_of_fifty_stores_that_claim_one_job_each_gets_another(state: Any) -> None:
    async with _opened(state.storage) as first:
        for n in range(50):
            await first.save(make_job("q", queued_at=float(n)), expected=0)

        async def take(worker: str) -> str:
            async with _opened(state.storage) as store:
                while True:
                    for job in await store.list("q", states=[State.QUEUED], limit=3):
                        await asyncio.sleep(0)
                        running = replace(job, version=2, state=State.RUNNING, worker=worker, lease_until=1.0)
                        try:
                            await store.save(running, expected=1)
                        except Conflict:
                            continue
                        return job.job_id

        assert len(set(await asyncio.gather(*(take(f"w{n}") for n in range(50))))) == 50
        assert {state for state, _ in await first.counts("q")} == {State.RUNNING}


async def test_a_queue_that_is_only_asked_about_leaves_nothing(state: Any) -> None:
    async with _opened(state.storage) as store:
        assert await store.load("q", "0" * 64) is None
        assert await store.list("q", states=[State.QUEUED]) == []
        assert await store.counts(None) == {}
        assert (await store.read_log("q", "0" * 64, half="run")).total == 0
        with pytest.raises(Conflict):
            await store.save(make_job("q", version=2), expected=1)
        assert _tables(state) == 0
        job = make_job("q")
        await store.save(job, expected=0)
        assert _tables(state) > 5
        assert await store.load("q", job.job_id) == job


async def test_two_stores_opened_before_the_tables_were_made_agree(state: Any) -> None:
    async with _opened(state.storage) as one, _opened(state.storage) as two:
        job, other = make_job("q"), make_job("q")
        await one.save(job, expected=0)
        assert await two.load("q", job.job_id) == job
        await two.save(other, expected=0)
        assert sum((await one.counts("q")).values()) == 2


async def test_a_record_is_told_when_it_is_due_in_the_turn_in_which_it_is_stored(state: Any) -> None:
    """So that the object and its alarm cannot be parted by an end in between: no other task comes in first."""
    told: list[object] = []
    async with DurableJobStore(state, wake=told.append) as store:
        other = asyncio.ensure_future(asyncio.sleep(0))
        other.add_done_callback(lambda _: told.append("another turn"))
        job = make_job("q")
        await store.save(job, expected=0)
        assert told == [job.due_at]
        with pytest.raises(Conflict):
            await store.save(job, expected=0)
        assert told.count(job.due_at) == 1
        await other


async def test_storage_of_a_newer_release_is_refused_and_left_alone(state: Any) -> None:
    async with _opened(state.storage) as store:
        job = make_job("q")
        await store.save(job, expected=0)
    state.storage.sql.exec("UPDATE asman_schema SET version = 99")
    with pytest.raises(ConfigError, match="has schema 99, written by a newer asman"):
        async with _opened(state.storage):
            pass
    assert _tables(state) > 5


async def test_a_request_that_breaks_leaves_nothing(state: Any) -> None:
    async with _opened(state.storage) as store:
        job = make_job("q")
        await store.save(job, expected=0)

        def breaks(tx: Any) -> None:
            tx.execute("delete", 1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store._writer.ask(breaks)
        assert await store.load("q", job.job_id) == job


async def test_what_no_row_can_hold_is_said_as_such_and_changes_nothing(state: Any) -> None:
    async with _opened(state.storage) as store:
        job = make_job("q")
        with pytest.raises(StorageFull, match="nothing was stored"):
            await store.save(job, expected=0, documents={"definition": b"x" * 3_000_000})
        assert await store.load("q", job.job_id) is None
        assert await store.counts(None) == {}


async def test_a_fault_of_the_storage_is_unavailable_with_its_words(state: Any) -> None:
    async with _opened(state.storage) as store:
        await store.save(make_job("q"), expected=0)
        state.storage.sql.exec("DROP TABLE jobs")
        with pytest.raises(Unavailable, match="no such table: jobs"):
            await store.load("q", "0" * 64)
        with pytest.raises(Unavailable, match="no such table: jobs"):
            await store.save(make_job("q"), expected=0)


async def test_texts_and_numbers_at_their_edges_come_back(state: Any) -> None:
    names = ("a\0b", "\0", "'\";--", "é" * 256, "🦀")
    async with _opened(state.storage) as store:
        job = rich_job(
            "q", namespaces=tuple((name, 0.1 + 0.2) for name in names), queued_at=1.7e9 + 1e-6, state=State.QUEUED
        )
        await store.save(job, expected=0)
        assert await store.load("q", job.job_id) == job
        for name in names:
            assert await store.in_namespace("q", name) == [job]
        assert await store.in_namespace("q", "a") == []
        assert await store.list("q", states=[job.state], after=(1.7e9 + 1e-6, job.job_id)) == []
        assert await store.list("q", states=[job.state], after=(1.7e9, "")) == [job]


async def test_what_a_job_costs_does_not_grow(state: Any) -> None:
    """Statements, rows read and rows written of each step, index entries included; docs/edge.md reckons with these."""
    storage = Counted(state.storage)
    costs = []
    async with _opened(storage) as store:
        for queued in (10, 300):
            for n in range(queued):
                await store.save(make_job("q", queued_at=float(n)), expected=0)
            job, cost = make_job("q"), {}
            steps: list[tuple[str, Any, dict[str, bytes | None]]] = [
                ("submit", job, {"definition": b"d"}),
                ("claim", replace(job, version=2, state=State.RUNNING, worker="w", lease_until=1.0), {}),
                ("renew", replace(job, version=3, state=State.RUNNING, worker="w", lease_until=2.0), {}),
                ("finish", replace(job, version=4, state=State.FINISHED), {"result": b"r"}),
            ]
            for name, record, documents in steps:
                storage.take()
                await store.save(record, expected=record.version - 1, documents=documents)
                cost[name] = storage.take()
            await store.append_log("q", job.job_id, attempt=1, half="run", lines=[b"[]"])
            cost["log"] = storage.take()
            await store.load("q", job.job_id)
            cost["load"] = storage.take()
            await store.delete("q", job.job_id, expected=4)
            cost["delete"] = storage.take()
            costs.append(cost)
    assert costs[0] == costs[1]
    assert costs[0] == {
        "submit": (4, 1, 10),
        "claim": (8, 4, 10),
        "renew": (2, 2, 2),
        "finish": (9, 4, 12),
        "log": (4, 1, 3),
        "load": (1, 1, 0),
        "delete": (10, 8, 9),
    }


async def test_the_directory_names_the_queues_of_a_job_and_makes_its_table(env: Any) -> None:
    directory = D1Directory(env.JOBS)
    assert await directory.queues("a" * 64, 10) == []
    for queue in ("one", "two", "one"):
        await directory.add("a" * 64, queue)
    await directory.add("b" * 64, "three")
    assert sorted(await directory.queues("a" * 64, 10)) == ["one", "two"]
    assert len(await directory.queues("a" * 64, 1)) == 1
    await directory.remove("a" * 64, "one")
    await directory.remove("a" * 64, "never")
    assert await directory.queues("a" * 64, 10) == ["two"]


async def test_a_job_is_in_the_directory_from_before_it_is_stored_until_it_is_deleted(env: Any, state: Any) -> None:
    store = Platform(env, state, "mine").asman_job_store("durable://JOBS", Config())
    assert store is not None
    directory, job = D1Directory(env.JOBS), make_job("mine")
    async with store:
        await store.save(job, expected=0)
        assert await directory.queues(job.job_id, 10) == ["mine"]
        assert await store.find(job.job_id) == [job]
        await store.delete("mine", job.job_id, expected=1)
        assert await directory.queues(job.job_id, 10) == []


async def test_a_directory_that_fails_is_unavailable_and_nothing_is_stored(state: Any) -> None:
    class Broken:
        def prepare(self, statement: str) -> Any:
            return state.storage.sql.exec("no SQL")  # raises as a binding does

    async with DurableJobStore(state, own="q", directory=D1Directory(Broken())) as store:
        job = make_job("q")
        with pytest.raises(Unavailable, match="directory of jobs does not answer"):
            await store.save(job, expected=0)
        assert await store.load("q", job.job_id) is None


async def test_a_peer_of_the_host_is_asked_for_what_another_object_keeps(env: Any, state: Any) -> None:
    job = make_job("theirs")
    asked: list[dict[str, Any]] = []

    async def ask(queue: str, question: str) -> bytes | None:
        asked.append(json.loads(question))
        answer = {"load": encode_job(job), "document": b"\0d"}.get(asked[-1]["ask"])
        return answer if asked[-1]["job_id"] == job.job_id else None

    store = Platform(env, state, "mine", ask).asman_job_store("durable://JOBS", Config())
    assert store is not None
    async with store:
        await D1Directory(env.JOBS).add(job.job_id, "theirs")
        assert await store.find(job.job_id) == [job]
        assert await store.document("theirs", job.job_id, "definition") == b"\0d"
        assert await store.load("theirs", "0" * 64) is None
        assert (await store.read_log("theirs", job.job_id, half="run", since=3)).total == 0
        assert {"ask": "log", "queue": "theirs", "since": 3}.items() <= asked[-1].items()
