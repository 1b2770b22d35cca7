"""What the methods of the store ask of a database: the mapping between records and rows.

Each function is one request: it runs at once, within a transaction that its caller begins and ends. A write checks
first and changes after, so that a refusal (``Conflict``) leaves no trace. Which database answers is not known here: a
``Transaction`` runs statements of ``schema.STATEMENTS`` by name, on whatever synchronous SQLite connection it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol

from asman.errors import Conflict, clip
from asman.job import Job, State, decode_job
from asman_sqlite.schema import STATE_NUMBERS

__all__ = [
    "Rows",
    "Transaction",
    "counts",
    "delete",
    "document",
    "due",
    "find",
    "in_namespace",
    "insert",
    "listing",
    "load",
    "scan",
    "update",
]

_STATES = {number: state for state, number in STATE_NUMBERS.items()}
_PLACE = itemgetter(0, 1)

_Row = tuple[float, str, bytes]
_Counted = tuple[str, int, str]


class Rows(Protocol):
    """What a statement answered, each row a sequence of values; blobs are bytes. Read within the request."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(ABC):
    """What a request works with.

    Shape:  ``counted`` are the changes of counters, written once before the commit.
    Units:  ``blob_bytes`` is what one row can hold.
    """

    __slots__ = ("counted",)
    blob_bytes = 1_000_000_000

    def __init__(self) -> None:
        self.counted: dict[_Counted, int] = {}

    @abstractmethod
    def execute(self, name: str, *values: Any) -> Rows:
        """Run a statement. Shape: values are text, bytes, float, int up to 2**53, or None."""

    @abstractmethod
    def insert(self, name: str, *values: Any) -> int:
        """Run an INSERT into a table with row numbers: the number of the row made, 0 if none was made."""

    def count(self, queue_name: str, state: int, shape: str, by: int) -> None:
        for key in ((queue_name, state, shape), ("", state, shape)):
            self.counted[key] = self.counted.get(key, 0) + by

    def write_counters(self) -> None:
        for key, by in self.counted.items():
            if by:
                self.execute("count", *key, by)
            if by < 0:
                self.execute("drop_zero", *key)


# --- reading ----------------------------------------------------------------------------------------------------------


def _decoded(rows: Iterable[tuple[bytes]]) -> list[Job]:
    return [decode_job(record) for (record,) in rows]


def _in_order(limit: int, *runs: Iterable[_Row]) -> list[Job]:
    """Merge runs that are each sorted by (queued_at, job_id); only what is wanted is decoded."""
    return [decode_job(record) for _, _, record in islice(merge(*runs, key=_PLACE), limit)]


def find(tx: Transaction, *, job_id: str, limit: int) -> list[Job]:
    return _decoded(tx.execute("find", job_id, limit))


def due(tx: Transaction, *, before: float, limit: int) -> list[Job]:
    return _decoded(tx.execute("due", before, limit))


def load(tx: Transaction, *, queue: str, job_id: str) -> Job | None:
    row = tx.execute("load", queue, job_id).fetchone()
    return decode_job(row[0]) if row else None


def document(tx: Transaction, *, queue: str, job_id: str, name: str) -> bytes | None:
    row = tx.execute("document", queue, job_id, name).fetchone()
    return row[0] if row else None


def in_namespace(tx: Transaction, *, queue: str, namespace: str, limit: int) -> list[Job]:
    runs = [tx.execute(name, queue, namespace, limit) for name in ("in_namespace", "in_memberships")]
    return _in_order(limit, *runs)


def scan(tx: Transaction, *, after: int, limit: int) -> tuple[list[Job], str]:
    """By row number, which a record keeps for life: a save moves no record behind the cursor."""
    rows = tx.execute("scan", after, limit).fetchall()
    return [decode_job(record) for _, record in rows], str(rows[-1][0]) if len(rows) == limit else ""


def counts(tx: Transaction, *, queue: str) -> dict[tuple[State, str], int]:
    return {(_STATES[state], shape): n for state, shape, n in tx.execute("counts", queue)}


def listing(
    tx: Transaction, *, queue: str, numbers: list[int], shape: str | None, limit: int, after: tuple[float, str]
) -> list[Job]:
    narrowed = () if shape is None else (shape,)
    name = "list" if shape is None else "list_shape"
    # One query per state, each in index order, merged while reading: a single query over several states would sort.
    return _in_order(limit, *(tx.execute(name, queue, number, *narrowed, *after, limit) for number in numbers))


# --- writing ----------------------------------------------------------------------------------------------------------


def _columns(job: Job, record: bytes) -> tuple[Any, ...]:
    names = job.namespace_names if job.is_active else []
    return (
        job.version,
        STATE_NUMBERS[job.state],
        job.requirements.shape,
        job.queued_at,
        job.due_at,
        names[0] if names else None,
        max(len(names) - 1, 0),
        record,
    )


def insert(tx: Transaction, *, job: Job, record: bytes, expected: int, documents: dict[str, bytes | None]) -> None:
    columns = _columns(job, record)
    number = tx.insert("insert", job.queue, job.job_id, *columns)
    if not number:
        raise _stale(job.job_id, expected)
    _write_beside(tx, number, job, documents, had_others=False)
    _count(tx, job.queue, columns[1], columns[2], +1)


def update(tx: Transaction, *, job: Job, record: bytes, expected: int, documents: dict[str, bytes | None]) -> None:
    row = tx.execute("stored", job.queue, job.job_id).fetchone()
    if row is None or row[1] != expected:
        raise _stale(job.job_id, expected, row[1] if row else 0)
    number, _, state, shape, others, queued_at, namespace = row
    columns = _columns(job, record)
    if (state, shape, queued_at, namespace) == (*columns[1:4], columns[5]):
        tx.execute("renew", columns[0], columns[4], columns[6], record, number)
    else:
        tx.execute("update", *columns, number)
    _write_beside(tx, number, job, documents, had_others=bool(others))
    if (state, shape) != columns[1:3]:
        _count(tx, job.queue, state, shape, -1)
        _count(tx, job.queue, columns[1], columns[2], +1)


def _write_beside(
    tx: Transaction, number: int, job: Job, documents: dict[str, bytes | None], *, had_others: bool
) -> None:
    """Documents, and the namespaces after the first."""
    if had_others:
        tx.execute("leave", number)
    if job.is_active:
        for name in job.namespace_names[1:]:
            tx.execute("join", job.queue, name, job.queued_at, job.job_id, number)
    for name, data in documents.items():
        if data is None:
            tx.execute("drop_document", number, name)
        else:
            tx.execute("write_document", number, name, data)


def delete(tx: Transaction, *, queue: str, job_id: str, expected: int) -> None:
    row = tx.execute("stored", queue, job_id).fetchone()
    if row is None:
        return
    number, version, state, shape, *_ = row
    if version != expected:
        raise _stale(job_id, expected, version)
    for name in ("delete", "leave", "drop_documents", "drop_halves", "drop_chunks"):
        tx.execute(name, number)
    _count(tx, queue, state, shape, -1)


def _stale(job_id: str, expected: int, stored: int | None = None) -> Conflict:
    is_now = "another version" if stored is None else f"version {stored}"
    return Conflict(f"job {clip(job_id)} has {is_now}, not {expected}: somebody else changed it first")


def _count(tx: Transaction, queue: str, state: int, shape: str, by: int) -> None:
    if _STATES[state] is not State.REMOVED:
        tx.count(queue, state, shape, by)
