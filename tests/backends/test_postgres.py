"""The hooks of the PostgreSQL backend, and how a schema is opened: made, refused, brought up to date."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from uuid import uuid4

import asyncpg
import pytest

import asman_postgres
from asman.abc import KeepsTime, SupportsLeading, SupportsScan, TellsDurability
from asman.config import Config
from asman.errors import AsmanError, ConfigError, StorageFull, Unavailable
from asman.job import Job
from asman.plugins import load_plugins, open_job_store, open_notifier
from asman.testing import make_job
from asman_postgres import database, jobs, schema
from asman_postgres.database import Database, storage_error
from asman_postgres.jobs import PostgresJobStore
from asman_postgres.notifier import PostgresNotifier
from postgres_server import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A schema of the test's own, not made yet."""
    return f"{postgres_server.url}&schema=kit_{uuid4().hex[:12]}"


def schema_of(url: str) -> str:
    return url.rpartition("=")[2]


@pytest.mark.parametrize("address", ["postgresql://u@h/d", "postgres://h,g:5433/d?sslmode=require"])
def test_plugins_open_the_schemes(address: str) -> None:
    plugins = load_plugins([asman_postgres], discover=False)
    assert isinstance(open_job_store(plugins, address, Config()), PostgresJobStore)
    assert isinstance(open_notifier(plugins, address, Config()), PostgresNotifier)


def test_other_urls_are_left_to_others() -> None:
    for address in ("memory:", "postgres:", "mysql://h/d", "redis://h"):
        assert asman_postgres.asman_job_store(address, Config()) is None
        assert asman_postgres.asman_notifier(address, Config()) is None


def test_listings_show_the_scheme_with_a_line_of_help() -> None:
    assert list(asman_postgres.asman_schemes()) == ["postgresql"]


def test_hook_module_does_not_load_the_driver() -> None:
    code = "import sys, asman_postgres; sys.exit('asyncpg' in sys.modules or 'asman_postgres.jobs' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("asman_postgres.jobs", "asman_postgres.notifier", "asman_postgres.database"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for hook in (asman_postgres.asman_job_store, asman_postgres.asman_notifier):
        with pytest.raises(ConfigError, match=r'pip install "asman\[postgres\]"'):
            hook("postgresql://h/d", Config())


# --- the URL ----------------------------------------------------------------------------------------------------------


def test_name_of_a_database_never_holds_its_password() -> None:
    assert Database("postgresql://me:secret@host:5433/jobs?sslmode=disable").name == "postgresql://host:5433/jobs"
    assert Database("postgresql://me@/jobs?host=/run/pg&password=secret").name == "postgresql:///run/pg/jobs"


@pytest.mark.parametrize("name", ["", "UP", "a-b", 'a"b', "a" * 41, "1a"])
def test_schema_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="schema in the URL is"):
        Database(f"postgresql://h/d?schema={name}")


@pytest.mark.parametrize("number", ["0", "-1", "x", "", "10000"])
def test_number_of_connections_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(ConfigError, match="connections in the URL is"):
        Database(f"postgresql://h/d?connections={number}")


async def test_connections_are_no_more_than_the_url_says(url: str, postgres_server: PostgresServer) -> None:
    async with PostgresJobStore(f"{url}&application_name=counted&connections=3") as store:
        await asyncio.gather(*(store.find("x") for _ in range(50)))
        seen = postgres_server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'")
    assert 1 <= int(seen) <= 3


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_wrong_password_says_where_to_look_and_does_not_repeat_it(postgres_server: PostgresServer) -> None:
    postgres_server.sql("DROP ROLE IF EXISTS locked; CREATE ROLE locked LOGIN PASSWORD 'right'")
    address = f"postgresql://locked:not-this@127.0.0.1:{postgres_server.port}/postgres"
    with pytest.raises(ConfigError, match="password authentication failed") as refused:
        async with PostgresJobStore(address):
            pass
    assert "Check the user and the password" in refused.value.hint
    assert "not-this" not in f"{refused.value.message}{refused.value.hint}"


async def test_database_that_is_not_there_says_how_to_make_it(postgres_server: PostgresServer) -> None:
    with pytest.raises(ConfigError, match='database "absent" does not exist') as refused:
        async with PostgresJobStore(postgres_server.url_of("absent")):
            pass
    assert "createdb" in refused.value.hint


async def test_user_who_may_not_make_the_schema_is_told_what_to_grant(postgres_server: PostgresServer) -> None:
    postgres_server.sql("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN")
    with pytest.raises(ConfigError, match="permission denied") as refused:
        async with PostgresJobStore(postgres_server.url_of("postgres", "poor") + "&schema=forbidden"):
            pass
    assert "GRANT CREATE ON DATABASE" in refused.value.hint


async def test_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="does not answer"):
            async with PostgresJobStore(f"postgresql://u@127.0.0.1:{unheard.getsockname()[1]}/d"):
                pass


async def test_schema_of_a_newer_release_is_refused_and_left_alone(url: str, postgres_server: PostgresServer) -> None:
    async with PostgresJobStore(url):
        pass
    newer = len(schema.MIGRATIONS) + 1
    postgres_server.sql(f"UPDATE {schema_of(url)}.schema_version SET version = {newer}")
    with pytest.raises(ConfigError, match=f"has version {newer}, written by a newer asman"):
        async with PostgresJobStore(url):
            pass


async def test_tables_of_another_program_are_refused_and_left_alone(url: str, postgres_server: PostgresServer) -> None:
    name = schema_of(url)
    postgres_server.sql(f"CREATE SCHEMA {name}; CREATE TABLE {name}.photos (id integer)")
    with pytest.raises(ConfigError, match="another program's tables"):
        async with PostgresJobStore(url):
            pass
    assert postgres_server.sql(f"SELECT tablename FROM pg_tables WHERE schemaname = '{name}'") == "photos"


async def test_migration_that_fails_changes_nothing(
    url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresJobStore(url):
        pass
    present, name = len(schema.MIGRATIONS), schema_of(url)
    broken = (*schema.MIGRATIONS, ("CREATE TABLE extra (id integer)", "CREATE TABLE jobs (id integer)"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(asyncpg.DuplicateTableError):
        async with PostgresJobStore(url):
            pass
    assert postgres_server.sql(f"SELECT version FROM {name}.schema_version") == str(present)
    monkeypatch.setattr(schema, "MIGRATIONS", (*broken[:-1], ("CREATE TABLE extra (id integer)",)))
    async with PostgresJobStore(url):
        pass
    assert postgres_server.sql(f"SELECT version FROM {name}.schema_version") == str(present + 1)


async def test_many_servers_may_make_the_same_new_schema_at_once(url: str) -> None:
    async def one(number: int) -> None:
        async with PostgresJobStore(url) as store:
            await store.save(make_job(f"q{number}"), expected=0)

    await asyncio.gather(*(one(number) for number in range(6)))
    async with PostgresJobStore(url) as store:
        assert sum((await store.counts(None)).values()) == 6


async def test_two_schemas_of_one_database_are_two_stores(url: str) -> None:
    job = make_job("q")
    async with PostgresJobStore(url) as one, PostgresJobStore(f"{url}x") as other:
        await one.save(job, expected=0)
        assert await other.load("q", job.job_id) is None


# --- time, durability, scan, counters ---------------------------------------------------------------------------------


async def test_clock_is_the_databases_and_is_read_again(
    url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_KEEP_EVERY_S", 0.02)
    async with PostgresJobStore(url) as store:
        assert isinstance(store, KeepsTime)
        before = store.clock()
        there = float(postgres_server.sql("SELECT extract(epoch FROM clock_timestamp())"))
        assert before - 0.1 <= there <= store.clock() + 0.1
        store._offset_s += 500  # as after a failover to a server whose clock differs
        deadline = time.monotonic() + 10
        while abs(store.clock() - time.time()) > 100:
            assert time.monotonic() < deadline, "the clock was not read again"
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("setting", "durability"), [("on", "disk"), ("remote_apply", "disk"), ("off", "everysec")])
async def test_durability_is_what_the_server_promises(
    url: str, setting: str, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asman_postgres.jobs"):
        async with PostgresJobStore(f"{url}&synchronous_commit={setting}") as store:
            assert isinstance(store, TellsDurability)
            assert store.durability == durability
    assert bool(caplog.records) == (durability != "disk")


async def test_a_role_is_held_by_one_at_a_time_and_passes_on(url: str) -> None:
    async with PostgresJobStore(url) as one, PostgresJobStore(url) as two:
        assert isinstance(one, SupportsLeading)
        first = await one.lead("sweep", "one", 60.0)
        assert first is not None
        assert first > 1e9
        assert await two.lead("sweep", "two", 60.0) is None
        again = await one.lead("sweep", "one", 60.0)
        assert again is not None
        assert again < 5.0
        assert await two.lead("other", "two", 60.0) is not None
        assert await two.lead("sweep", "two", 0.0) is not None
        assert await one.lead("sweep", "one", 60.0) is None


async def test_scan_meets_every_record_and_ends(url: str) -> None:
    saved = [make_job(f"q{n % 3}", f"{n:064x}") for n in range(20)] + [make_job("q9", f"{0:064x}")]
    async with PostgresJobStore(url) as store:
        assert isinstance(store, SupportsScan)
        assert await store.scan() == ([], "")
        await asyncio.gather(*(store.save(job, expected=0) for job in saved))
        for limit in (1, 7, 21, 1000):
            seen: list[Job] = []
            cursor, is_first = "", True
            while cursor or is_first:
                found, cursor = await store.scan(cursor=cursor, limit=limit)
                seen, is_first = [*seen, *found], False
            assert seen == sorted(saved, key=lambda job: (job.job_id, job.queue))


async def test_counters_are_summed_up_before_they_are_many(
    url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_FOLD_EVERY", 20)
    rows = f"SELECT count(*) FROM {schema_of(url)}.counts"
    async with PostgresJobStore(url) as one, PostgresJobStore(url) as two:
        saved = [make_job("q") for _ in range(100)]
        for number, job in enumerate(saved):
            await (one, two)[number % 2].save(job, expected=0)
        assert await one.counts("q") == await two.counts(None)
        assert list((await one.counts("q")).values()) == [100]
        assert int(postgres_server.sql(rows)) <= 2 * 2 * 20, "what is read grows with what was written"
        for job in saved:
            await one.delete("q", job.job_id, expected=1)
        assert await one.counts(None) == {}
    async with PostgresJobStore(url):
        assert postgres_server.sql(rows) == "0", "a queue that is gone leaves rows behind"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.DiskFullError("x"), StorageFull),
        (asyncpg.TooManyConnectionsError("x"), Unavailable),
        (asyncpg.ReadOnlySQLTransactionError("x"), Unavailable),
        (asyncpg.SerializationError("x"), Unavailable),
        (asyncpg.CannotConnectNowError("x"), Unavailable),
        (asyncpg.AdminShutdownError("x"), Unavailable),
        (asyncpg.ConnectionDoesNotExistError("x"), Unavailable),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (ConnectionResetError("x"), Unavailable),
        (TimeoutError(), Unavailable),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_trouble_of_the_server_is_said_in_our_words(error: Exception, kind: type[AsmanError]) -> None:
    made = storage_error(error)
    assert type(made) is kind
    assert made.__cause__ is error


@pytest.mark.parametrize("error", [asyncpg.DataError("x"), asyncpg.UniqueViolationError("x"), KeyError("x")])
def test_anything_else_is_a_bug_and_stays_what_it_is(error: Exception) -> None:
    assert storage_error(error) is error


async def test_store_that_is_not_open_says_so() -> None:
    with pytest.raises(Unavailable, match="not open"):
        await PostgresJobStore("postgresql://h/d").find("x")


async def test_too_many_who_wait_for_a_connection_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_WAITING", 5)
    async with PostgresJobStore(url) as store:
        answers = await asyncio.gather(*(store.find("x") for _ in range(100)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {list, Unavailable}
        assert await store.find("x") == []
