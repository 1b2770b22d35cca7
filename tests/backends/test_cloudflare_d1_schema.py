"""No statement or trigger of the D1 backend scans a table or sorts, but for the few that ask all queues.

The planner is that of Python's own SQLite, on the same tables; D1 does not show its plans' cost otherwise.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from itertools import combinations

import pytest

from asman.job import State
from asman_cloudflare.d1_schema import MIGRATIONS, STATE_NUMBERS, STATEMENTS, listing, saving

NUMBERS = sorted(STATE_NUMBERS.values())
SUBSETS = [chosen for size in range(1, 5) for chosen in combinations(NUMBERS, size)]
LISTINGS = {
    f"listing {chosen} {with_shape}": listing(chosen, with_shape=with_shape)
    for chosen in SUBSETS
    for with_shape in (False, True)
}
COLUMNS = ("version", "state", "shape", "queued_at", "due_at", "namespace", "others", "record")
SAVINGS = {
    "save": saving(COLUMNS, with_documents=True),
    "save guarded": saving(("version", "record"), guards=("state", "shape", "queued_at"), with_documents=False),
}
ALL = {**STATEMENTS, **LISTINGS, **SAVINGS}

OF_ALL_QUEUES = {
    "version": "one row per release",
    "due": "asks each queue in turn for its most overdue records, and sorts those",
    "overdue": "asks each queue in turn",
    "counts_of_all": "sums up the counters of all queues",
}
"""Statements that may scan or sort, and what: nothing of them grows with a queue's length."""

SMALL = r"SCAN (CONSTANT ROW|queues|newest|begins|json_each|\(subquery-\d+\))|SCAN \d+ CONSTANT ROW"
"""Scans of what holds one row, or a row per queue."""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statements in MIGRATIONS:
        for sql in statements:
            made.execute(sql)
    yield made
    made.close()


def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    numbers = [int(n) for n in re.findall(r"\?(\d+)", sql)]
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * max(numbers, default=0))]


def worst(steps: list[str]) -> list[str]:
    bad = [step for step in steps if re.search(r"\bSCAN\b|TEMP B-TREE|AUTOMATIC", step)]
    return [step for step in bad if not re.search(SMALL, step)]


@pytest.mark.parametrize("name", sorted(set(ALL) - set(OF_ALL_QUEUES) - {"insert", "append_log"}))
def test_statement_neither_scans_nor_sorts(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, ALL[name])
    assert not worst(steps), f"{name}: {steps}"
    assert any("SEARCH" in step for step in steps), f"{name}: {steps}"


@pytest.mark.parametrize("name", OF_ALL_QUEUES)
def test_statement_about_all_queues_scans_no_jobs(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, STATEMENTS[name])
    assert not any(re.search(r"\bSCAN (jobs|j|log_rows|memberships)\b", step) for step in steps), steps


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("load", "PRIMARY KEY (job_id=? AND queue=?)"),
        ("find", "jobs_by_age (job_id=?)"),
        ("due_in", "jobs_by_due (queue=? AND due_at<?)"),
        ("due", "jobs_by_due (queue=? AND due_at<?)"),
        ("scan", "PRIMARY KEY ((job_id,queue)>(?,?))"),
        ("listing (0,) False", "jobs_by_state (queue=? AND state=? AND (queued_at,job_id)>(?,?))"),
        ("listing (0, 1) True", "jobs_by_shape (queue=? AND state=? AND shape=? AND (queued_at,job_id)>(?,?))"),
        ("in_namespace", "jobs_by_namespace (queue=? AND namespace=?)"),
        ("in_namespace", "memberships USING PRIMARY KEY (queue=? AND namespace=?)"),
        ("read_log", "(job_id=? AND queue=? AND attempt=? AND half=? AND first>?)"),
    ],
)
def test_statement_uses_every_column_of_its_index(connection: sqlite3.Connection, name: str, index: str) -> None:
    steps = [step.replace("m USING", "memberships USING") for step in plan(connection, ALL[name])]
    assert any(index in step for step in steps), steps


def triggers() -> list[str]:
    """Statements of the triggers, with what they get as values."""
    bodies = [re.split(r"\bBEGIN\b", sql)[1] for sql in MIGRATIONS[0] if sql.startswith("CREATE TRIGGER")]
    found = [part.strip() for body in bodies for part in body.rsplit("END", 1)[0].split(";") if part.strip()]
    return [re.sub(r"\b(new|old)\.\w+", "?1", sql) for sql in found]


@pytest.mark.parametrize("sql", triggers())
def test_a_trigger_neither_scans_nor_sorts(connection: sqlite3.Connection, sql: str) -> None:
    assert not worst(plan(connection, sql)), plan(connection, sql)


@pytest.mark.parametrize("is_reversed", [False, True])
def test_triggers_of_one_event_may_fire_in_any_order(is_reversed: bool) -> None:
    """SQLite promises no order, and has another one after it has read the schema again."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    triggers = [sql for sql in MIGRATIONS[0] if sql.startswith("CREATE TRIGGER")]
    for sql in [sql for sql in MIGRATIONS[0] if sql not in triggers] + (triggers[::-1] if is_reversed else triggers):
        made.execute(sql)
    columns = made.execute("PRAGMA table_info(jobs)").fetchall()
    row: dict[str, object] = {name: "" if kind == "TEXT" else 0 for _, name, kind, *_ in columns}
    row |= {"job_id": "j", "queue": "q", "shape": "one", "others": '["a", "b"]'}
    made.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
    for others, shape in (('["b", "c"]', "two"), (None, "two"), ('["c"]', "one"), ('["c", "a"]', "one")):
        made.execute("UPDATE jobs SET others = ?, shape = ?, queued_at = queued_at", (others, shape))
        found = [name for (name,) in made.execute("SELECT namespace FROM memberships ORDER BY namespace")]
        assert found == sorted(json.loads(others or "[]"))
        assert made.execute("SELECT shape, n FROM counters").fetchall() == [(shape, 1)]
    made.execute("DELETE FROM jobs")
    assert made.execute("SELECT count(*) FROM memberships").fetchone() == (0,)
    assert made.execute("SELECT count(*) FROM counters").fetchone() == (0,)


def test_the_check_itself_sees_scans_and_sorts(connection: sqlite3.Connection) -> None:
    assert worst(plan(connection, "SELECT record FROM jobs WHERE version = ?1"))
    assert worst(plan(connection, "SELECT record FROM jobs WHERE queue = ?1 AND state = ?1 ORDER BY record"))
    assert len(triggers()) > 12


def test_every_state_has_a_number() -> None:
    assert set(STATE_NUMBERS) == set(State) - {State.ABSENT}
    assert len(set(STATE_NUMBERS.values())) == len(STATE_NUMBERS)


def test_statements_keep_to_the_limits_of_d1() -> None:
    for sql in [*ALL.values(), *(sql for statements in MIGRATIONS for sql in statements)]:
        assert len(sql) < 100_000
        assert max(map(int, re.findall(r"\?(\d+)", sql)), default=0) <= 100
