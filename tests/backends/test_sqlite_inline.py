"""Requests without threads: the whole exam again, and when a caller hears of a change that is persisted."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from asman.errors import ConfigError, StorageFull, Unavailable
from asman.job import State
from asman.testing import JobStoreKit, make_job
from asman_sqlite.inline import InlineLane
from asman_sqlite.jobs import SqliteJobStore
from asman_sqlite.writer import commit_together
from fresh_python import EMSCRIPTEN, run_fresh


class TestInlineJobStore(JobStoreKit):
    durable = True
    shared = True

    async def open_store(self) -> SqliteJobStore:
        return SqliteJobStore(self.folder / "jobs.db", inline=True)


class Disk:
    """A safer place that takes its time, and may fail."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.gate, self.has_begun = asyncio.Event(), asyncio.Event()
        self.fault: Exception | None = None

    async def persist(self) -> None:
        self.begun += 1
        self.has_begun.set()
        await self.gate.wait()
        self.ended += 1
        if self.fault is not None:
            raise self.fault


def test_without_threads_it_is_the_choice_and_starts_none(tmp_path: Path) -> None:
    code = f"""{EMSCRIPTEN}
import asyncio, threading
def refused(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refused
import asman_sqlite
from asman.config import Config
from asman.testing.fixtures import make_job

async def use():
    async with asman_sqlite.asman_job_store("sqlite:///{tmp_path}/jobs.db", Config()) as store:
        job = make_job("q")
        await store.save(job, expected=0)
        print(await store.load("q", job.job_id) == job, store.durability)

asyncio.run(use())
"""
    assert run_fresh(code) == "True memory\n"


async def test_file_of_one_form_is_read_by_the_other(tmp_path: Path) -> None:
    path, job = tmp_path / "jobs.db", make_job("q")
    for version, inline in enumerate([False, True, False, True]):
        async with SqliteJobStore(path, inline=inline) as store:
            assert ((await store.load("q", job.job_id)) or replace(job, version=0)).version == version
            await store.save(replace(job, version=version + 1), expected=version)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete" if inline else "wal",)
        connection.close()


async def test_no_thread_is_started_and_an_answer_comes_at_once(tmp_path: Path) -> None:
    before = threading.active_count()
    async with SqliteJobStore(tmp_path / "jobs.db", inline=True) as store:
        save = store.save(make_job("q"), expected=0)
        with pytest.raises(StopIteration):
            save.send(None)
        assert threading.active_count() == before


async def test_full_disk_is_said_as_such_and_nothing_is_changed(tmp_path: Path) -> None:
    async with SqliteJobStore(tmp_path / "jobs.db", max_bytes=512 << 10, inline=True) as store:
        with pytest.raises(StorageFull):
            await store.save(make_job("q"), expected=0, documents={"definition": b"x" * 600_000})
        assert await store.counts(None) == {}
        await store.save(make_job("q"), expected=0)


async def test_caller_hears_of_a_change_when_it_is_persisted(tmp_path: Path) -> None:
    disk = Disk()
    async with SqliteJobStore(tmp_path / "jobs.db", inline=True, persist=disk.persist) as store:
        assert store.durability == "disk"
        save = asyncio.create_task(store.save(make_job("q"), expected=0))
        done, _ = await asyncio.wait([save], timeout=0.01)
        assert (disk.begun, disk.ended, len(done)) == (1, 0, 0)
        assert await store.list("q", states=[State.QUEUED]), "readers see it before"
        disk.gate.set()
        await save
        assert disk.ended == 1


async def test_callers_who_wait_together_share_what_begins_after_their_change(tmp_path: Path) -> None:
    disk = Disk()
    async with SqliteJobStore(tmp_path / "jobs.db", inline=True, persist=disk.persist) as store:
        first = asyncio.create_task(store.save(make_job("q"), expected=0))
        await disk.has_begun.wait()
        others = [asyncio.create_task(store.save(make_job("q"), expected=0)) for _ in range(50)]
        await asyncio.sleep(0)
        disk.gate.set()
        await asyncio.gather(first, *others)
        assert disk.begun == 2


async def test_change_that_could_not_be_persisted_is_unavailable_and_the_next_is_tried(tmp_path: Path) -> None:
    disk = Disk()
    disk.gate.set()
    disk.fault = OSError("quota")
    async with SqliteJobStore(tmp_path / "jobs.db", inline=True, persist=disk.persist) as store:
        with pytest.raises(Unavailable, match="safe place: quota"):
            await store.save(make_job("q"), expected=0)
        disk.fault = None
        await store.save(make_job("q"), expected=0)


async def test_close_waits_for_what_is_being_persisted(tmp_path: Path) -> None:
    disk = Disk()
    store = SqliteJobStore(tmp_path / "jobs.db", inline=True, persist=disk.persist)
    async with store:
        save = asyncio.create_task(store.save(make_job("q"), expected=0))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, disk.gate.set)
    assert disk.ended == 1
    await save
    with pytest.raises(Unavailable, match="closed"):
        await store.load("q", "x")


def test_persisting_is_for_requests_that_run_inline() -> None:
    with pytest.raises(ConfigError):
        SqliteJobStore("x.db", persist=Disk().persist)


async def test_request_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    lane = InlineLane(lambda: sqlite3.connect(tmp_path / "x.db", isolation_level=None), commit_together)
    await lane.open()
    await lane.ask(lambda tx: tx.connection.execute("CREATE TABLE t (n)"))  # type: ignore[attr-defined]

    def breaks(tx: object) -> None:
        tx.connection.execute("INSERT INTO t VALUES (1)")  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await lane.ask(breaks)
    assert await lane.ask(lambda tx: tx.connection.execute("SELECT * FROM t").fetchall()) == []  # type: ignore[attr-defined]
    await lane.close()
