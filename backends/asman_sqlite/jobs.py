"""The job store and log store on SQLite: what each method asks of the writer or the readers.

Owns the mapping between records and rows. Refuses nothing that ``abc.JobStore`` allows. Every function below with a
``Transaction`` runs in a lane's thread; a write checks first and changes after, so that a refusal leaves no trace.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from heapq import merge
from itertools import islice
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asman.abc import LogHalf, LogSlice
from asman.errors import ConfigError, Conflict, clip
from asman.job import Job, State, decode_job, encode_job
from asman_sqlite import logs
from asman_sqlite.schema import STATE_NUMBERS, check, migrate
from asman_sqlite.writer import Lane, Transaction, commit_together, read_together, storage_error

__all__ = ["SqliteJobStore"]

_OLDEST_SQLITE = (3, 24, 0)
_BUSY_MS = 5_000
_READERS = 2
_WAL_BYTES = 64 << 20
_BEFORE_ALL = (-1e308, "")
_STATES = {number: state for state, number in STATE_NUMBERS.items()}
_PLACE = itemgetter(0, 1)

_Row = tuple[float, str, bytes]


class SqliteJobStore:
    """Jobs, documents and logs in one file. Source: ``abc.JobStore``, ``abc.LogStore`` and ``abc.SupportsScan``.

    Shape:  ``trace`` is called with each statement of the writer, for tests and for the curious.
    Units:  ``max_bytes`` is what the file may grow to; None for as much as the disk has.
    Errors: ConfigError when opening something that is not ours; Unavailable when a lock is held too long, the
            queue before the disk is full, or the disk fails; StorageFull.
    """

    def __init__(
        self, path: str | Path, *, max_bytes: int | None = None, trace: Callable[[str], None] | None = None
    ) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._trace = trace
        self._writer = Lane("writer", self._connect_writer, commit_together)
        self._reader = Lane("reader", self._connect_reader, read_together, threads=_READERS)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
            await self._writer.open()
            await self._reader.open()
        except OSError as error:
            raise ConfigError(f"cannot make {self._path}: {error}") from error
        except sqlite3.Error as error:
            await self._close()
            raise _open_error(self._path, error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    # --- opening -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigError(f"this Python has SQLite {sqlite3.sqlite_version}; 3.24 or newer is needed")
        if str(self._path) in ("", ".", ":memory:"):
            raise ConfigError(f"the URL names no file ({clip(str(self._path))})", hint="Use sqlite:///path or memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect()
        try:
            check(connection, str(self._path))
            if not _turn_to_wal(connection):
                raise ConfigError(f"{self._path} is on a filesystem without shared memory; choose a local disk")
            migrate(connection, str(self._path))
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=_BUSY_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        for setting in ("synchronous = FULL", "cache_size = -16384", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {setting}")
        return connection

    def _connect_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA secure_delete = ON")  # what has expired is overwritten, not merely unlinked
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if self._max_bytes is not None:
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page_bytes)}")
        connection.set_trace_callback(self._trace)
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        return connection

    @property
    def durability(self) -> str:
        return "disk"

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        return await self._reader.ask(partial(_load, queue=queue, job_id=job_id))

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        record, written = encode_job(job), dict(documents or {})
        size_bytes = len(record) + sum(len(data) for data in written.values() if data is not None)
        change = _insert if expected == 0 else _update
        work = partial(change, job=job, record=record, expected=expected, documents=written)
        await self._writer.ask(work, size_bytes)

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        return await self._reader.ask(partial(_document, queue=queue, job_id=job_id, name=name))

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        await self._writer.ask(partial(_delete, queue=queue, job_id=job_id, expected=expected))

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(partial(_in_namespace, queue=queue, namespace=namespace, limit=limit))

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(lambda tx: _decoded(tx.execute("find", job_id, limit)))

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(lambda tx: _decoded(tx.execute("due", before, limit)))

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        return await self._reader.ask(partial(_scan, after=int(cursor or 0), limit=limit))

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        return await self._reader.ask(partial(_counts, queue="" if queue is None else queue))

    # --- logs --------------------------------------------------------------------------------------------------------

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        work = partial(logs.append, queue=queue, job_id=job_id, attempt=attempt, half=half, lines=list(lines))
        return await self._writer.ask(work, sum(map(len, lines)))

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        work = partial(logs.read, queue=queue, job_id=job_id, half=half, since=since, max_bytes=max_bytes)
        return await self._reader.ask(work)

    async def drop_log(self, queue: str, job_id: str) -> None:
        await self._writer.ask(partial(logs.drop, queue=queue, job_id=job_id))

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        numbers = sorted({STATE_NUMBERS[state] for state in states})
        work = partial(_list, queue=queue, numbers=numbers, shape=shape, limit=limit, after=after or _BEFORE_ALL)
        return await self._reader.ask(work)


def _turn_to_wal(connection: sqlite3.Connection) -> bool:
    """Turn the write-ahead log on, which the file then remembers.

    SQLite does not wait for another process that does the same at this moment, so this does.
    """
    for wait_s in (0.05, 0.2, 1.0, 2.0, None):
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if wait_s is None or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(wait_s)
            continue
        return bool(mode == "wal")
    raise AssertionError("unreachable")


def _open_error(path: Path, error: sqlite3.Error) -> Exception:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"{path} is not a database", hint="Choose another file with --data.")
    return storage_error(error)


# --- reading: in a reader's thread -----------------------------------------------------------------------------------


def _decoded(rows: Iterable[tuple[bytes]]) -> list[Job]:
    return [decode_job(record) for (record,) in rows]


def _in_order(limit: int, *runs: Iterable[_Row]) -> list[Job]:
    """Merge runs that are each sorted by (queued_at, job_id); only what is wanted is decoded."""
    return [decode_job(record) for _, _, record in islice(merge(*runs, key=_PLACE), limit)]


def _load(tx: Transaction, *, queue: str, job_id: str) -> Job | None:
    row = tx.execute("load", queue, job_id).fetchone()
    return decode_job(row[0]) if row else None


def _document(tx: Transaction, *, queue: str, job_id: str, name: str) -> bytes | None:
    row = tx.execute("document", queue, job_id, name).fetchone()
    return row[0] if row else None


def _in_namespace(tx: Transaction, *, queue: str, namespace: str, limit: int) -> list[Job]:
    runs = [tx.execute(name, queue, namespace, limit) for name in ("in_namespace", "in_memberships")]
    return _in_order(limit, *runs)


def _scan(tx: Transaction, *, after: int, limit: int) -> tuple[list[Job], str]:
    """By row number, which a record keeps for life: a save moves no record behind the cursor."""
    rows = tx.execute("scan", after, limit).fetchall()
    return [decode_job(record) for _, record in rows], str(rows[-1][0]) if len(rows) == limit else ""


def _counts(tx: Transaction, *, queue: str) -> dict[tuple[State, str], int]:
    return {(_STATES[state], shape): n for state, shape, n in tx.execute("counts", queue)}


def _list(
    tx: Transaction, *, queue: str, numbers: list[int], shape: str | None, limit: int, after: tuple[float, str]
) -> list[Job]:
    narrowed = () if shape is None else (shape,)
    name = "list" if shape is None else "list_shape"
    # One query per state, each in index order, merged while reading: a single query over several states would sort.
    return _in_order(limit, *(tx.execute(name, queue, number, *narrowed, *after, limit) for number in numbers))


# --- writing: in the writer's thread ---------------------------------------------------------------------------------


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


def _insert(tx: Transaction, *, job: Job, record: bytes, expected: int, documents: dict[str, bytes | None]) -> None:
    columns = _columns(job, record)
    made = tx.execute("insert", job.queue, job.job_id, *columns)
    if made.rowcount != 1:
        raise _stale(job.job_id, expected)
    _write_beside(tx, made.lastrowid or 0, job, documents, had_others=False)
    _count(tx, job.queue, columns[1], columns[2], +1)


def _update(tx: Transaction, *, job: Job, record: bytes, expected: int, documents: dict[str, bytes | None]) -> None:
    row = tx.execute("stored", job.queue, job.job_id).fetchone()
    if row is None or row[1] != expected:
        raise _stale(job.job_id, expected, row[1] if row else 0)
    number, _, state, shape, others = row
    columns = _columns(job, record)
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


def _delete(tx: Transaction, *, queue: str, job_id: str, expected: int) -> None:
    row = tx.execute("stored", queue, job_id).fetchone()
    if row is None:
        return
    number, version, state, shape, _ = row
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
