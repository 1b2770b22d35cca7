"""PostgreSQL is killed, frozen, read-only, full or out of connections: callers are told, and the store recovers.

Each trouble is made on a server of these tests' own. A store that was open before is the one that works after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from asman.errors import StorageFull, Unavailable
from asman.job import Job, State
from asman.testing import make_job
from asman_postgres import database
from asman_postgres.jobs import PostgresJobStore
from asman_postgres.notifier import PostgresNotifier
from postgres_server import PostgresServer, why_no_postgres
from processes import eventually
from small_disk import small_disk

RECOVERED_S = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    missing = why_no_postgres()
    if missing is not None:
        pytest.skip(missing)
    with PostgresServer.private("deadlock_timeout = '100ms'", "recovery_init_sync_method = 'syncfs'") as made:
        yield made


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[PostgresJobStore]:
    async with PostgresJobStore(url_of(server)) as opened:
        yield opened


def url_of(server: PostgresServer) -> str:
    return f"{server.url}&schema=kit_{uuid4().hex[:12]}"


async def recovered(ask: Callable[[], Awaitable[object]], within_s: float = RECOVERED_S) -> float:
    """Ask until there is an answer, and say after how many seconds there was. Only Unavailable may come before."""
    began = time.monotonic()
    while True:
        try:
            await ask()
        except Unavailable:
            assert time.monotonic() - began < within_s, "it did not recover"
            await asyncio.sleep(0.02)
        else:
            return time.monotonic() - began


async def test_every_acknowledged_save_survives_a_killed_server_and_the_store_recovers(
    server: PostgresServer, store: PostgresJobStore
) -> None:
    acknowledged: set[str] = set()
    enough, ended = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            job = make_job("q", namespaces=(("a", 1.0), ("b", 1.0)))
            try:
                await store.save(job, expected=0, documents={"definition": job.job_id.encode()})
            except Unavailable:
                await asyncio.sleep(0.02)
                continue
            acknowledged.add(job.job_id)
            if len(acknowledged) > 200:
                enough.set()

    writers = [asyncio.create_task(write()) for _ in range(32)]
    for _ in range(3):
        enough.clear()
        await asyncio.wait_for(enough.wait(), 30)
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable) as told:
            await store.find("x")
        assert str(server.port) not in str(told.value), "callers are told an address"
        await asyncio.to_thread(server.start)
        assert await recovered(lambda: store.find("x")) < RECOVERED_S
    ended.set()
    await asyncio.gather(*writers)
    listed = await store.list("q", states=[State.QUEUED], limit=1_000_000)
    assert acknowledged <= {job.job_id for job in listed}
    assert sum((await store.counts("q")).values()) == len(listed), "counters and rows disagree"
    assert len(await store.in_namespace("q", "b", limit=1_000_000)) == len(listed)
    for job in listed[:: max(len(listed) // 50, 1)]:
        assert await store.document("q", job.job_id, "definition") == job.job_id.encode()


async def test_backend_that_hangs_is_left_behind(
    server: PostgresServer, store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ANSWER_S", 0.3)
    job = make_job("q")
    await store.save(job, expected=0)
    schema = store._database.schema
    holder = await asyncpg.connect(server.url)
    async with holder.transaction():
        await holder.execute(f"LOCK TABLE {schema}.jobs")
        with pytest.raises(Unavailable, match="does not answer"):
            await store.save(replace(job, version=2), expected=1)
        with pytest.raises(Unavailable):
            await store.load("q", job.job_id)
    await holder.close()
    await recovered(lambda: store.load("q", job.job_id))


async def test_server_that_is_frozen_is_unavailable_and_then_is_there_again(
    server: PostgresServer, store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes hang with their sockets open, as behind a cut cable."""
    monkeypatch.setattr(database, "_ANSWER_S", 0.3)
    monkeypatch.setattr(database, "_CONNECT_S", 0.3)
    pids = server.sql("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'client backend'")
    _signal(server, signal.SIGSTOP, pids)
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(store.find("x"), 5)
    finally:
        _signal(server, signal.SIGCONT, pids)
    await recovered(lambda: store.find("x"))


def _signal(server: PostgresServer, number: int, pids: str) -> None:
    server.signal(number)
    for pid in pids.split():
        with contextlib.suppress(ProcessLookupError):  # psql's own is gone
            os.kill(int(pid), number)


async def until_it_raises(ask: Callable[[], Awaitable[object]], times: int = 1_000) -> None:
    for _ in range(times):
        await ask()


async def test_read_only_server_refuses_writes_until_it_is_the_primary_again(
    server: PostgresServer, store: PostgresJobStore
) -> None:
    await store.save(make_job("q"), expected=0)
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    server.sql("SELECT pg_reload_conf()")
    try:
        with pytest.raises(Unavailable, match="is read-only"):  # the setting reaches a connection a moment later
            await until_it_raises(lambda: store.save(make_job("q"), expected=0))
    finally:
        server.sql("ALTER SYSTEM RESET default_transaction_read_only")
        server.sql("SELECT pg_reload_conf()")
    await recovered(lambda: store.save(make_job("q"), expected=0))


async def test_no_connection_left_is_unavailable_and_says_what_to_change(server: PostgresServer) -> None:
    server.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 2; GRANT CREATE ON DATABASE postgres TO few")
    url = f"{server.url_of('postgres', 'few')}&schema=kit_few"
    async with PostgresJobStore(url) as store:
        answers = await asyncio.gather(*(store.find("x") for _ in range(20)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert {type(error) for error in refused} == {Unavailable}
        assert "connections=" in getattr(refused[0], "hint", "")
        assert [] in answers, "the connections that it has are used"
        await recovered(lambda: store.find("x"))


async def test_two_who_wait_for_each_other_both_succeed(server: PostgresServer, store: PostgresJobStore) -> None:
    """The database ends one of them, and what it ended is repeated."""
    first, second = sorted((make_job("q") for _ in range(2)), key=lambda job: job.job_id)
    for job in (first, second):
        await store.save(job, expected=0)
    schema = store._database.schema
    other = await asyncpg.connect(server.url)
    async with other.transaction():
        lock = f"SELECT 1 FROM {schema}.jobs WHERE job_id = $1 FOR UPDATE"
        await other.execute(lock, second.job_id)
        saves = [asyncio.create_task(store.save(replace(j, version=2), expected=1)) for j in (first, second)]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await asyncio.to_thread(eventually, "the store waits", lambda: server.sql(waiting) != "0")
        with contextlib.suppress(asyncpg.DeadlockDetectedError):
            await other.execute(lock, first.job_id)
    await other.close()
    await asyncio.gather(*saves)
    loaded = [await store.load("q", job.job_id) for job in (first, second)]
    assert [job.version for job in loaded if job] == [2, 2]


async def test_full_disk_is_told_as_such_and_space_ends_it(server: PostgresServer, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    with small_disk(server.folder, 24 << 20) as disk:
        os.chown(disk, server.data.stat().st_uid, server.data.stat().st_gid)
        server.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        server.sql("CREATE DATABASE small TABLESPACE small")
        try:
            async with PostgresJobStore(server.url_of("small")) as store:
                saved: list[Job] = []

                async def save_one() -> None:
                    saved.append(make_job("q"))
                    await store.save(saved[-1], expected=0, documents={"definition": os.urandom(64 << 10)})

                with pytest.raises(StorageFull, match="disk is full"):
                    await until_it_raises(save_one)
                assert await store.load("q", saved[0].job_id) == saved[0], "reading goes on"
                assert await store.load("q", saved[-1].job_id) is None
                larger = ["mount", "-o", f"remount,size={64 << 20}", disk]
                await asyncio.to_thread(subprocess.run, larger, check=True)
                await store.save(saved[-1], expected=0, documents={"definition": os.urandom(64 << 10)})
                assert sum((await store.counts("q")).values()) == len(saved)
        finally:
            server.sql("DROP DATABASE small WITH (FORCE)")
            server.sql("DROP TABLESPACE small")


async def test_failover_loses_nothing_and_the_store_goes_on_with_the_new_primary() -> None:
    missing = why_no_postgres()
    if missing is not None:
        pytest.skip(missing)
    with PostgresServer.private() as primary, primary.standby() as standby:
        url = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
        async with PostgresJobStore(url) as store:
            jobs = [make_job("q", queued_at=float(number)) for number in range(100)]
            await asyncio.gather(*(store.save(job, expected=0) for job in jobs))
            primary.kill()
            with pytest.raises(Unavailable):
                await store.save(make_job("q"), expected=0)
            with pytest.raises(Unavailable):  # the standby answers, but must not be written to
                await store.load("q", jobs[0].job_id)
            standby.sql("SELECT pg_promote()")
            await recovered(lambda: store.load("q", jobs[0].job_id))
            assert await store.list("q", states=[State.QUEUED]) == jobs
            await store.save(replace(jobs[0], version=2, state=State.RUNNING), expected=1)


CLAIMER = """
import asyncio, sys
from dataclasses import replace
from asman.errors import Conflict
from asman.job import Job, State
from asman_postgres.jobs import PostgresJobStore

async def claim(store, job):
    try:
        await store.save(replace(job, version=2, state=State.RUNNING, worker=sys.argv[2]), expected=1)
    except Conflict:
        return
    print(job.job_id)

async def main():
    async with PostgresJobStore(sys.argv[1]) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        jobs = await store.list("q", states=[State.QUEUED])
        await asyncio.gather(*(claim(store, job) for job in (jobs if sys.argv[2] == "a" else jobs[::-1])))

asyncio.run(main())
"""


async def test_two_processes_never_claim_the_same_job(server: PostgresServer) -> None:
    url = url_of(server)
    async with PostgresJobStore(url) as store:
        jobs = [make_job("q", queued_at=float(number)) for number in range(500)]
        await asyncio.gather(*(store.save(job, expected=0) for job in jobs))
        claimed = await asyncio.to_thread(_claimed_by_two, url)
        assert not claimed["a"] & claimed["b"], "a job was claimed twice"
        assert claimed["a"] | claimed["b"] == {job.job_id for job in jobs}
        for job in await store.list("q", states=[State.RUNNING]):
            assert job.job_id in claimed[job.worker]
        assert list((await store.counts("q")).values()) == [500]


def _claimed_by_two(url: str) -> dict[str, set[str]]:
    children = {}
    for name in ("a", "b"):
        command = [sys.executable, "-c", CLAIMER, url, name]
        children[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for child in children.values():
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children.values():
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    return {name: set(child.communicate(timeout=60)[0].split()) for name, child in children.items()}


async def test_notifier_hears_again_after_the_server_was_killed(server: PostgresServer) -> None:
    heard: list[bytes] = []
    url = url_of(server)
    async with PostgresNotifier(url) as here, PostgresNotifier(url) as there:
        await here.subscribe("topic", heard.append)
        await there.publish("topic", b"before")
        await asyncio.to_thread(server.kill)
        await there.publish("topic", b"lost")
        gaps: list[bool] = []
        here.on_gap(lambda: gaps.append(True))
        await here.subscribe("second", heard.append)  # while there is no server
        await asyncio.to_thread(server.start)
        deadline = time.monotonic() + RECOVERED_S
        for topic, data in (("topic", b"after"), ("second", b"also")):
            while data not in heard:
                assert time.monotonic() < deadline, f"nothing was heard of {topic}"
                await there.publish(topic, data)
                await asyncio.sleep(0.05)
        assert b"lost" not in heard
        assert gaps == [True]


async def test_notifier_notices_a_connection_that_was_ended(server: PostgresServer) -> None:
    heard: list[bytes] = []
    url = url_of(server)
    async with PostgresNotifier(url) as notifier, PostgresNotifier(url) as other:
        await notifier.subscribe("topic", heard.append)
        pid = notifier._connection.get_server_pid()
        server.sql(f"SELECT pg_terminate_backend({pid})")
        deadline = time.monotonic() + RECOVERED_S
        while b"x" not in heard:
            assert time.monotonic() < deadline
            await other.publish("topic", b"x")
            await asyncio.sleep(0.02)
