"""No statement of the SQLite backend scans a table or sorts in a temporary tree; nothing runs that is not listed.

The planner is asked with tables that look large to it, because it likes to scan small ones.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from asman.job import State
from asman.testing import make_job
from asman_sqlite.jobs import SqliteJobStore
from asman_sqlite.schema import STATE_NUMBERS, STATEMENTS, migrate

ALLOWED_TO_SCAN = {"SCAN CONSTANT ROW"}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    migrate(made, ":memory:")
    yield made
    made.close()


def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    values = [1] * sql.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_neither_scans_nor_sorts(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, STATEMENTS[name])
    bad = [s for s in steps if re.search(r"\bSCAN\b|TEMP B-TREE|AUTOMATIC", s) and s not in ALLOWED_TO_SCAN]
    assert not bad, f"{name}: {steps}"
    if not STATEMENTS[name].startswith("INSERT"):
        assert any(s.startswith("SEARCH") for s in steps), f"{name}: {steps}"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("load", "jobs_by_name (job_id=? AND queue=?)"),
        ("find", "jobs_by_age (job_id=?)"),
        ("scan", "INTEGER PRIMARY KEY (rowid>?)"),
        ("due", "jobs_by_due (due_at<?)"),
        ("list", "jobs_by_state (queue=? AND state=? AND (queued_at,job_id)>(?,?))"),
        ("list_shape", "jobs_by_shape (queue=? AND state=? AND shape=? AND (queued_at,job_id)>(?,?))"),
        ("in_namespace", "jobs_by_namespace (queue=? AND namespace=?)"),
        ("chunks_after", "log_chunks_by_line (job=? AND half=? AND first>?)"),
    ],
)
def test_statement_uses_every_column_of_its_index(connection: sqlite3.Connection, name: str, index: str) -> None:
    assert any(index in step for step in plan(connection, STATEMENTS[name])), plan(connection, STATEMENTS[name])


def test_the_check_itself_sees_scans_and_sorts(connection: sqlite3.Connection) -> None:
    assert any("SCAN" in step for step in plan(connection, "SELECT record FROM jobs WHERE version = ?"))
    sorts = plan(connection, "SELECT record FROM jobs WHERE queue = ? AND state = ? ORDER BY due_at")
    assert any("TEMP B-TREE" in step for step in sorts)


def test_every_state_has_a_number() -> None:
    assert set(STATE_NUMBERS) == set(State) - {State.ABSENT}
    assert len(set(STATE_NUMBERS.values())) == len(STATE_NUMBERS)


async def test_the_writer_runs_nothing_that_is_not_listed(tmp_path: Path) -> None:
    seen: list[str] = []
    async with SqliteJobStore(tmp_path / "jobs.db", trace=seen.append) as store:
        job = make_job("q", namespaces=(("a", 1.0), ("b", 1.0)))
        await store.save(job, expected=0, documents={"definition": b"d"})
        await store.save(replace(job, version=2, state=State.RUNNING), expected=1, documents={"definition": None})
        await store.append_log("q", job.job_id, attempt=1, half="run", lines=[b"[]"])
        await store.append_log("q", job.job_id, attempt=2, half="run", lines=[b"[]"])
        await store.drop_log("q", job.job_id)
        await store.delete("q", job.job_id, expected=2)
    started = {re.split(r"[\s(]+", sql.strip())[0] for sql in seen}
    assert started <= {"BEGIN", "COMMIT", "SELECT", "INSERT", "UPDATE", "DELETE"}
    listed = {shape_of(sql) for sql in STATEMENTS.values()}
    unlisted = [sql for sql in seen if sql not in ("BEGIN IMMEDIATE", "COMMIT") and shape_of(sql) not in listed]
    assert not unlisted


def shape_of(sql: str) -> str:
    """The statement without its values: the tracer shows them in place of the question marks."""
    text = re.sub(
        r"x?'(?:[^']|'')*'|(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)|NULL(?! ?\))", "?", sql.replace("NOT NULL", "")
    )
    return " ".join(text.split())
