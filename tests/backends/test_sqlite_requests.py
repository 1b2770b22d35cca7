"""The seam of the SQLite backend: its requests run on any connection that gives rows and numbers of new rows.

The exam is in ``test_sqlite_jobs.py``; this holds what a driver of another kind may rely on.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from asman.errors import Conflict
from asman.job import State
from asman.testing import rich_job
from asman_sqlite import schema
from asman_sqlite.requests import Transaction
from asman_sqlite.store import LaneJobStore
from fresh_python import run_fresh

T = TypeVar("T")


class ListedRows:
    """Rows as lists, read to the end before they are given; numbers without a fraction may come as integers."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = deque([int(v) if isinstance(v, float) and v == int(v) else v for v in row] for row in rows)

    def fetchone(self) -> list[Any] | None:
        return self._rows.popleft() if self._rows else None

    def fetchall(self) -> list[Any]:
        return [*self._rows]

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._rows)


class OtherTransaction(Transaction):
    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection

    def execute(self, name: str, *values: Any) -> ListedRows:
        assert all(v is None or isinstance(v, (str, bytes, float, int)) for v in values), (name, values)
        return ListedRows(self.connection.execute(schema.STATEMENTS[name], values))

    def insert(self, name: str, *values: Any) -> int:
        row = self.connection.execute(f"{schema.STATEMENTS[name]} RETURNING id", values).fetchone()
        return row[0] if row else 0


class OtherStore(LaneJobStore):
    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        schema.migrate(self.connection, ":memory:")
        self._writer = self._reader = self

    async def ask(self, work: Callable[[Transaction], T], size_bytes: int = 0) -> T:
        transaction = OtherTransaction(self.connection)
        answer = work(transaction)
        transaction.write_counters()
        return answer


@pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 35), reason="this connection needs RETURNING: SQLite 3.35")
async def test_requests_run_on_a_connection_of_another_kind() -> None:
    store = OtherStore()
    jobs = [rich_job("q", queued_at=float(n), state=State.QUEUED) for n in range(3)]
    for job in jobs:
        await store.save(job, expected=0, documents={"definition": b"d"})
    with pytest.raises(Conflict):
        await store.save(jobs[0], expected=0)
    assert await store.list("q", states=[State.QUEUED, State.RUNNING]) == jobs
    assert await store.in_namespace("q", "名前") == jobs
    assert await store.document("q", jobs[1].job_id, "definition") == b"d"
    assert await store.append_log("q", jobs[0].job_id, attempt=1, half="run", lines=[b"[]"] * 3) == 3
    assert (await store.read_log("q", jobs[0].job_id, half="run", since=1)).lines == (b"[]", b"[]")
    assert await store.find(jobs[2].job_id) == [jobs[2]]
    assert (await store.scan(limit=2))[0] == jobs[:2]
    for job in jobs:
        await store.delete("q", job.job_id, expected=job.version)
    assert await store.counts(None) == {}


def test_counters_are_written_once_however_many_changes_there_were() -> None:
    wrote: list[tuple[Any, ...]] = []

    class Noting(OtherTransaction):
        def execute(self, name: str, *values: Any) -> ListedRows:
            wrote.append((name, *values))
            return super().execute(name, *values)

    connection = sqlite3.connect(":memory:")
    schema.migrate(connection, ":memory:")
    transaction = Noting(connection)
    for by in (+1, +1, -1):
        transaction.count("q", 0, "s", by)
    transaction.count("q", 1, "s", +1)
    transaction.count("q", 1, "s", -1)
    transaction.write_counters()
    assert wrote == [("count", "q", 0, "s", 1), ("count", "", 0, "s", 1)]


@pytest.mark.parametrize("module", ["requests", "logs", "schema", "store"])
def test_requests_need_no_driver_and_no_thread(module: str) -> None:
    code = f"""
import sys
before = set(sys.modules)
import asman_sqlite.{module}
print(*sorted(m for m in set(sys.modules) - before if m in ("sqlite3", "threading", "asyncio", "asman_sqlite.writer")))
"""
    assert run_fresh(code).strip() == ""
