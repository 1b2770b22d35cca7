"""One store per queue: a job is found without its queue, and read by another queue's object. On SQLite."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from asman.errors import Conflict, Unavailable
from asman.testing import fresh_id, make_job
from asman_cloudflare.listed import ListedJobStore, answer_peer
from asman_sqlite.jobs import SqliteJobStore


class ListedStore(ListedJobStore, SqliteJobStore):
    def __init__(self, path: Path, own: str, directory: Entries, peers: dict[str, ListedStore]) -> None:
        async def ask(queue: str, told: str) -> bytes | None:
            return await answer_peer(peers[queue], told)

        SqliteJobStore.__init__(self, path, inline=True)
        ListedJobStore.__init__(self, own=own, directory=directory, peer=ask)


class Entries:
    """A directory in memory, whose answers can be held back, or refused."""

    def __init__(self) -> None:
        self.entries: dict[str, set[str]] = defaultdict(set)
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False
        self.asked: list[str] = []

    async def _turn(self, what: str) -> None:
        self.asked.append(what)
        await self.gate.wait()
        if self.fails:
            raise Unavailable("the directory is away")

    async def add(self, job_id: str, queue: str) -> None:
        await self._turn("add")
        self.entries[job_id].add(queue)

    async def remove(self, job_id: str, queue: str) -> None:
        await self._turn("remove")
        self.entries[job_id].discard(queue)

    async def queues(self, job_id: str, limit: int) -> list[str]:
        await self._turn("queues")
        return sorted(self.entries[job_id])[:limit]


@asynccontextmanager
async def objects(folder: Path, *queues: str) -> AsyncIterator[tuple[Entries, dict[str, ListedStore]]]:
    directory, stores = Entries(), dict[str, ListedStore]()
    async with AsyncExitStack() as stack:
        for queue in queues:
            made = ListedStore(folder / f"{queue}.db", queue, directory, stores)
            stores[queue] = await stack.enter_async_context(made)
        yield directory, stores


async def test_any_object_finds_a_job_of_all_queues_oldest_first(tmp_path: Path) -> None:
    job_id = fresh_id()
    async with objects(tmp_path, "a", "b", "c", "any") as (_, stores):
        jobs = [make_job(queue, job_id, queued_at=at) for queue, at in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
        for job in jobs:
            await stores[job.queue].save(job, expected=0, documents={"definition": job.queue.encode()})
        for store in stores.values():
            assert await store.find(job_id) == [jobs[1], jobs[2], jobs[0]]
            assert await store.find(job_id, limit=1) == [jobs[1]]
            assert await store.load("b", job_id) == jobs[1]
            assert await store.document("c", job_id, "definition") == b"c"
            assert await store.document("c", job_id, "result") is None
        assert await stores["any"].find(fresh_id()) == []


async def test_log_of_another_queue_is_read_as_its_own_object_reads_it(tmp_path: Path) -> None:
    async with objects(tmp_path, "a", "any") as (_, stores):
        job = make_job("a")
        await stores["a"].save(job, expected=0)
        lines = ['["é\\u0000",1]'.encode(), b'["b",2,true]', b'["c",3]']
        await stores["a"].append_log("a", job.job_id, attempt=2, half="run", lines=lines)
        for since in (0, 1, 3):
            own = await stores["a"].read_log("a", job.job_id, half="run", since=since, max_bytes=20)
            assert await stores["any"].read_log("a", job.job_id, half="run", since=since, max_bytes=20) == own
        assert (await stores["any"].read_log("a", fresh_id(), half="run")).total == 0


async def test_an_object_writes_its_own_queue_only(tmp_path: Path) -> None:
    async with objects(tmp_path, "a", "b") as (directory, stores):
        job = make_job("a")
        with pytest.raises(Unavailable, match="written by the object of that queue"):
            await stores["b"].save(job, expected=0)
        with pytest.raises(Unavailable):
            await stores["b"].delete("a", job.job_id, expected=1)
        with pytest.raises(Unavailable):
            await stores["b"].append_log("a", job.job_id, attempt=1, half="run", lines=[b"[]"])
        with pytest.raises(Unavailable):
            await stores["b"].drop_log("a", job.job_id)
        assert directory.asked == []


async def test_an_entry_is_written_once_and_removed_with_the_record(tmp_path: Path) -> None:
    async with objects(tmp_path, "a") as (directory, stores):
        job = make_job("a")
        await stores["a"].save(job, expected=0)
        await stores["a"].save(replace(job, version=2), expected=1)
        assert directory.asked == ["add"]
        with pytest.raises(Conflict):
            await stores["a"].delete("a", job.job_id, expected=1)
        assert directory.entries[job.job_id] == {"a"}
        await stores["a"].delete("a", job.job_id, expected=2)
        assert directory.entries[job.job_id] == set()


async def test_a_stale_entry_does_no_harm(tmp_path: Path) -> None:
    async with objects(tmp_path, "a", "any") as (directory, stores):
        job_id = fresh_id()
        directory.entries[job_id] = {"a"}
        for store in stores.values():
            assert await store.find(job_id) == []


async def test_without_the_directory_nothing_new_is_stored_and_what_is_there_goes_on(tmp_path: Path) -> None:
    async with objects(tmp_path, "a") as (directory, stores):
        job, other = make_job("a"), make_job("a")
        await stores["a"].save(job, expected=0)
        directory.fails = True
        with pytest.raises(Unavailable, match="the directory is away"):
            await stores["a"].save(other, expected=0)
        assert await stores["a"].load("a", other.job_id) is None
        await stores["a"].save(replace(job, version=2), expected=1)
        await stores["a"].delete("a", job.job_id, expected=2)
        assert await stores["a"].load("a", job.job_id) is None


async def test_a_removal_under_way_does_not_take_the_entry_of_a_record_that_came_back(tmp_path: Path) -> None:
    async with objects(tmp_path, "a", "any") as (directory, stores):
        job = make_job("a")
        await stores["a"].save(job, expected=0)
        directory.gate.clear()
        gone = asyncio.create_task(stores["a"].delete("a", job.job_id, expected=1))
        await asyncio.sleep(0)
        back = asyncio.create_task(stores["a"].save(job, expected=0))
        await asyncio.sleep(0)
        directory.gate.set()
        await asyncio.gather(gone, back)
        assert await stores["any"].find(job.job_id) == [job]


async def test_a_save_that_waits_for_its_entry_is_not_overtaken_by_a_delete(tmp_path: Path) -> None:
    async with objects(tmp_path, "a", "any") as (directory, stores):
        job = make_job("a")
        await stores["a"].save(job, expected=0)
        directory.gate.clear()
        again = asyncio.create_task(stores["a"].save(job, expected=0))
        await asyncio.sleep(0)
        gone = asyncio.create_task(stores["a"].delete("a", job.job_id, expected=1))
        await asyncio.sleep(0)
        directory.gate.set()
        saved, _ = await asyncio.gather(again, gone, return_exceptions=True)
        assert isinstance(saved, Conflict)
        found = await stores["any"].find(job.job_id)
        assert found == [job for job in [await stores["a"].load("a", job.job_id)] if job]
        assert not stores["a"]._turns, "no lock is kept for a job that nobody waits for"


async def test_without_a_peer_other_queues_cannot_be_read(tmp_path: Path) -> None:
    directory = Entries()
    job_id = fresh_id()
    directory.entries[job_id] = {"b"}
    store = ListedStore(tmp_path / "a.db", "a", directory, {})
    store._peer = None
    async with store:
        with pytest.raises(Unavailable, match="kept by another object"):
            await store.find(job_id)
