"""Group commit, by counting: what a save costs does not grow, and commits are shared by who waits together."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from asman.errors import Unavailable
from asman.job import State
from asman.testing import make_job
from asman_sqlite.jobs import SqliteJobStore
from asman_sqlite.requests import Transaction
from asman_sqlite.writer import ThreadLane, commit_together, storage_error

BATCH = 512


class Statements:
    """Counts what the writer runs, by its first word."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def __call__(self, sql: str) -> None:
        self.counted[sql.split()[0]] += 1

    def take(self) -> Counter[str]:
        taken, self.counted = self.counted, Counter()
        return taken


async def test_statements_per_save_are_the_same_in_a_long_queue(tmp_path: Path) -> None:
    statements = Statements()
    costs = []
    async with SqliteJobStore(tmp_path / "jobs.db", trace=statements) as store:
        for queued in (10, 5_000):
            await asyncio.gather(*(store.save(make_job("q", queued_at=float(n)), expected=0) for n in range(queued)))
            statements.take()
            job = make_job("q")
            await store.save(job, expected=0, documents={"definition": b"d"})
            submit = statements.take()
            await store.save(replace(job, version=2, state=State.RUNNING, lease_until=1.0), expected=1)
            claim = statements.take()
            await store.save(replace(job, version=3, state=State.RUNNING, lease_until=2.0), expected=2)
            renew = statements.take()
            await store.save(replace(job, version=4, state=State.FINISHED), expected=3, documents={"result": b"r"})
            costs.append((submit, claim, renew, statements.take()))
    assert costs[0] == costs[1]
    submit, claim, renew, finish = costs[0]
    # The row, the document, two counters; a claim reads the row, changes it and moves two counters (one may end).
    assert submit == {"BEGIN": 1, "INSERT": 4, "COMMIT": 1}
    assert claim == {"BEGIN": 1, "SELECT": 1, "UPDATE": 1, "INSERT": 4, "DELETE": 2, "COMMIT": 1}
    assert renew == {"BEGIN": 1, "SELECT": 1, "UPDATE": 1, "COMMIT": 1}
    assert finish == {"BEGIN": 1, "SELECT": 1, "UPDATE": 1, "INSERT": 5, "DELETE": 2, "COMMIT": 1}


@pytest.mark.parametrize("waiting", [1, 64, 500, 2_000])
async def test_savers_who_wait_together_share_commits(tmp_path: Path, waiting: int) -> None:
    statements = Statements()
    async with SqliteJobStore(tmp_path / "jobs.db", trace=statements) as store:
        await asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(waiting)))
    counted = statements.take()
    assert counted["COMMIT"] <= math.ceil(waiting / BATCH) + 1
    assert counted["BEGIN"] == counted["COMMIT"]
    assert counted["INSERT"] <= waiting + 2 * counted["COMMIT"], "counters are written once per commit"


async def test_refused_save_writes_nothing(tmp_path: Path) -> None:
    statements = Statements()
    async with SqliteJobStore(tmp_path / "jobs.db", trace=statements) as store:
        job = make_job("q")
        await store.save(job, expected=0)
        statements.take()
        saves = [store.save(replace(job, version=5), expected=4, documents={"result": b"r"}) for _ in range(8)]
        await asyncio.gather(*saves, return_exceptions=True)
        assert set(statements.take()) <= {"BEGIN", "SELECT", "COMMIT"}


def make_lane(path: Path, **limits: int) -> ThreadLane:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    return ThreadLane("test", connect, commit_together, **limits)


async def test_full_waiting_line_is_refused_at_once_and_recovers(tmp_path: Path) -> None:
    lane = make_lane(tmp_path / "x.db", limit=5)
    await lane.open()
    busy = threading.Event()
    waiting = [asyncio.create_task(lane.ask(lambda tx: busy.wait(10))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="5 requests with 0 bytes wait for the disk; at most 5"):
        await lane.ask(lambda tx: None)
    busy.set()
    assert await asyncio.gather(*waiting) == [True] * 5
    assert await lane.ask(lambda tx: "served") == "served"
    await lane.close()


async def test_waiting_bytes_are_bounded_but_one_large_request_passes(tmp_path: Path) -> None:
    lane = make_lane(tmp_path / "x.db", limit_bytes=100)
    await lane.open()
    assert await lane.ask(lambda tx: "alone", size_bytes=1_000) == "alone"
    busy = threading.Event()
    waiting = asyncio.create_task(lane.ask(lambda tx: busy.wait(10), size_bytes=60))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="1 requests with 60 bytes"):
        await lane.ask(lambda tx: None, size_bytes=60)
    busy.set()
    await waiting
    await lane.close()


async def test_answers_come_only_after_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    lane = make_lane(path)
    await lane.open()
    await lane.ask(lambda tx: tx.connection.execute("CREATE TABLE t (n)"))
    reader = sqlite3.connect(path, isolation_level=None)
    for number in range(50):
        await lane.ask(lambda tx, n=number: tx.connection.execute("INSERT INTO t VALUES (?)", (n,)).rowcount)
        assert reader.execute("SELECT max(n) FROM t").fetchone() == (number,)
    reader.close()
    await lane.close()


async def test_request_that_breaks_is_the_only_one_that_fails(tmp_path: Path) -> None:
    def breaks(tx: Transaction) -> None:
        tx.connection.execute("INSERT INTO t VALUES (-1)")
        raise ZeroDivisionError

    lane = make_lane(tmp_path / "x.db")
    await lane.open()
    await lane.ask(lambda tx: tx.connection.execute("CREATE TABLE t (n)"))
    works = [lane.ask(lambda tx, n=n: tx.connection.execute("INSERT INTO t VALUES (?)", (n,))) for n in range(10)]
    results = await asyncio.gather(*works[:5], lane.ask(breaks), *works[5:], return_exceptions=True)
    assert [type(r) for r in results if isinstance(r, Exception)] == [ZeroDivisionError]
    stored = await lane.ask(lambda tx: tx.connection.execute("SELECT n FROM t ORDER BY n").fetchall())
    assert stored == [(n,) for n in range(10)]
    await lane.close()


async def test_close_serves_what_waits(tmp_path: Path) -> None:
    lane = make_lane(tmp_path / "x.db")
    await lane.open()
    waiting = [asyncio.create_task(lane.ask(lambda tx, n=n: n)) for n in range(1_000)]
    await asyncio.sleep(0)
    await lane.close()
    assert await asyncio.gather(*waiting) == list(range(1_000))
    assert not [t for t in threading.enumerate() if t.name.startswith("asman-sqlite-test")]


def test_bugs_are_not_dressed_up_as_outages() -> None:
    bug = ZeroDivisionError()
    assert storage_error(bug) is bug
    outage = storage_error(sqlite3.OperationalError("database is locked"))
    assert isinstance(outage, Unavailable)
    assert isinstance(outage.__cause__, sqlite3.OperationalError)
