"""The hook of the SQLite backend, and how its file is opened: made, refused, brought up to date."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import asman_sqlite
from asman.config import Config
from asman.errors import ConfigError
from asman.plugins import load_plugins, open_job_store
from asman.testing import make_job
from asman_sqlite import schema
from asman_sqlite.jobs import SqliteJobStore


@pytest.mark.parametrize(("url", "path"), [("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b%20?.db", "/a/b%20?.db")])
def test_url_names_the_file_as_it_is(url: str, path: str) -> None:
    store = asman_sqlite.asman_job_store(url, Config())
    assert store is not None
    assert store._path == Path(path)


def test_other_urls_are_left_to_others() -> None:
    for url in ("memory:", "sqlite:relative", "redis://x", "file:///x"):
        assert asman_sqlite.asman_job_store(url, Config()) is None


def test_listings_show_the_scheme_with_a_line_of_help() -> None:
    assert list(asman_sqlite.asman_schemes()) == ["sqlite"]


def test_installed_plugins_open_the_scheme() -> None:
    assert isinstance(open_job_store(load_plugins(), "sqlite:///x.db", Config()), SqliteJobStore)


def test_hook_module_does_not_load_the_driver() -> None:
    code = "import sys, asman_sqlite; sys.exit('sqlite3' in sys.modules or 'asman_sqlite.jobs' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_folders_of_the_file_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "jobs.db"
    async with SqliteJobStore(path):
        pass
    assert path.is_file()


async def test_file_uses_the_write_ahead_log_with_full_durability(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    async with store:
        for connection in (store._connect_writer(), store._connect_reader()):
            settings = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
            assert settings == ["wal", 2]
            connection.close()


async def test_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"has schema {len(schema.MIGRATIONS) + 1}, written by a newer asman"):
        async with SqliteJobStore(path):
            pass
    assert path.read_bytes() == before


async def test_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program's database"):
        async with SqliteJobStore(path):
            pass
    assert path.read_bytes() == before


async def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database, but long enough to be taken for the header of one" * 20)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is not a database"):
        async with SqliteJobStore(path):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", ["", ".", ":memory:"])
async def test_url_without_a_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        async with SqliteJobStore(path):
            pass


async def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot make"):
        async with SqliteJobStore(tmp_path / "file" / "jobs.db"):
            pass


def test_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    schema.migrate(connection, "jobs.db")
    broken = (*schema.MIGRATIONS, ("CREATE TABLE extra (id)", "CREATE TABLE jobs (id)"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        schema.migrate(connection, "jobs.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (len(broken) - 1,)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    monkeypatch.setattr(schema, "MIGRATIONS", (*broken[:-1], ("CREATE TABLE extra (id)",)))
    schema.migrate(connection, "jobs.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (len(broken),)
    connection.close()


async def test_many_servers_may_make_the_same_new_file_at_once(tmp_path: Path) -> None:
    async def one(number: int) -> None:
        async with SqliteJobStore(tmp_path / "jobs.db") as store:
            await store.save(make_job(f"q{number}"), expected=0)

    await asyncio.gather(*(one(number) for number in range(8)))
    async with SqliteJobStore(tmp_path / "jobs.db") as store:
        assert sum((await store.counts(None)).values()) == 8
