"""The SQLite job store takes the whole exam; what it promises beyond that: full disks, locks, two processes."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asman.errors import Conflict, StorageFull, Unavailable
from asman.job import State
from asman.testing import JobStoreKit, make_job
from asman_sqlite import jobs
from asman_sqlite.jobs import SqliteJobStore


class TestSqliteJobStore(JobStoreKit):
    durable = True
    shared = True

    async def open_store(self) -> SqliteJobStore:
        return SqliteJobStore(self.folder / "jobs.db")


async def test_full_disk_is_said_as_such_and_nothing_is_changed(tmp_path: Path) -> None:
    async with SqliteJobStore(tmp_path / "jobs.db", max_bytes=512 << 10) as store:
        jobs_to_save = [make_job("q", queued_at=float(number)) for number in range(1_000)]
        saves = [store.save(job, expected=0, documents={"definition": b"x" * 8_000}) for job in jobs_to_save]
        results = await asyncio.gather(*saves, return_exceptions=True)
        refused = [result for result in results if result is not None]
        assert all(isinstance(result, StorageFull) for result in refused)
        assert "nothing was stored" in str(refused[0])
        kept = [job for job, result in zip(jobs_to_save, results, strict=True) if result is None]
        assert 10 < len(kept) < 100
        assert await store.list("q", states=[State.QUEUED]) == kept
        assert sum((await store.counts("q")).values()) == len(kept)
        for job in kept[:5]:
            await store.delete("q", job.job_id, expected=1)
        await store.save(make_job("q"), expected=0, documents={"definition": b"x" * 8_000})


async def test_full_disk_fails_only_the_writers_that_do_not_fit(tmp_path: Path) -> None:
    async with SqliteJobStore(tmp_path / "jobs.db", max_bytes=512 << 10) as store:
        large = [make_job("q") for _ in range(10)]
        small = [make_job("q") for _ in range(10)]
        saves = [store.save(j, expected=0, documents={"definition": b"x" * 600_000}) for j in large]
        saves += [store.save(j, expected=0) for j in small]
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(r) for r in results[:10]] == [StorageFull] * 10
        assert results[10:] == [None] * 10
        assert {j.job_id for j in await store.list("q", states=[State.QUEUED])} == {j.job_id for j in small}


async def test_lock_held_by_another_process_for_long_is_unavailable_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_BUSY_MS", 100)
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        job = make_job("q")
        with pytest.raises(Unavailable) as caught:
            await store.save(job, expected=0)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await store.load("q", job.job_id) is None, "reading does not wait for a writer"
        other.execute("ROLLBACK")
        other.close()
        await store.save(job, expected=0)


async def test_lock_held_by_another_process_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        save = asyncio.create_task(store.save(make_job("q"), expected=0))
        await store.counts("q")
        assert not save.done()
        other.execute("COMMIT")
        other.close()
        await asyncio.wait_for(save, 10)


async def test_damaged_file_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        made = [make_job("q") for _ in range(200)]
        await asyncio.gather(*(store.save(j, expected=0) for j in made))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    async with SqliteJobStore(path) as store:
        with pytest.raises(Unavailable) as caught:
            await store.load("q", made[0].job_id)
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
        with pytest.raises(Unavailable):
            await store.save(make_job("q"), expected=0)


async def test_closed_store_refuses(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    async with store:
        pass
    with pytest.raises(Unavailable, match="closed"):
        await store.load("q", "x")
    with pytest.raises(Unavailable, match="closed"):
        await store.save(make_job("q"), expected=0)


OTHER_PROCESS = """
import asyncio, sys
from dataclasses import replace
from asman.errors import Conflict
from asman_sqlite.jobs import SqliteJobStore

async def main(path, name, rounds):
    won = 0
    async with SqliteJobStore(path) as store:
        for _ in range(rounds):
            job = await store.load("q", "shared")
            try:
                await store.save(replace(job, version=job.version + 1, attempt=job.attempt + 1), expected=job.version)
                won += 1
            except Conflict:
                pass
    print(won)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_two_processes_never_both_win_a_version(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        await store.save(make_job("q", "shared"), expected=0)
        others = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", OTHER_PROCESS, str(path), str(n), "60", stdout=asyncio.subprocess.PIPE
            )
            for n in range(2)
        ]
        outputs = await asyncio.wait_for(asyncio.gather(*(other.communicate() for other in others)), 60)
        won = sum(int(out) for out, _ in outputs)
        job = await store.load("q", "shared")
        assert job is not None
        assert (job.version, job.attempt) == (won + 1, won)
        assert won >= 60


async def test_refused_save_in_a_batch_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    async with SqliteJobStore(tmp_path / "jobs.db") as store:
        job = make_job("q")
        await store.save(job, expected=0)
        others = [make_job("q") for _ in range(20)]
        saves = [store.save(o, expected=0) for o in others]
        stale = [store.save(replace(job, version=9), expected=8, documents={"result": b"x"}) for _ in range(20)]
        results = await asyncio.gather(
            *(s for pair in zip(saves, stale, strict=True) for s in pair), return_exceptions=True
        )
        assert results[::2] == [None] * 20
        assert all(isinstance(r, Conflict) for r in results[1::2])
        assert await store.document("q", job.job_id, "result") is None
        assert sum((await store.counts("q")).values()) == 21
