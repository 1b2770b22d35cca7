"""Threads that serve many waiting callers at once: one that writes, a few that read.

A ``ThreadLane`` is a thread with one connection. Callers put requests into its queue and wait; the thread takes what
has gathered, works through it, and wakes all callers with a single call into the event loop. There is no timer: the
commit that is running is the window in which the next batch gathers, so a lone request never waits for company.

Writing is group commit: one transaction for the batch, one fsync for all. A request refuses (``Conflict``) before it
writes anything, so that the others are not hurt; any other failure rolls the batch back, and each request is tried
again in a transaction of its own, so that only the guilty one fails.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from asman.errors import AsmanError, StorageFull, Unavailable
from asman_sqlite.requests import Transaction
from asman_sqlite.schema import STATEMENTS

__all__ = ["Request", "SqliteTransaction", "ThreadLane", "commit_together", "read_together", "storage_error"]

_BATCH = 512
_BATCH_BYTES = 8 << 20
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)

T = TypeVar("T")


class SqliteTransaction(Transaction):
    """On a connection of Python's own ``sqlite3``."""

    __slots__ = ("connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection

    def execute(self, name: str, *values: Any) -> sqlite3.Cursor:
        return self.connection.execute(STATEMENTS[name], values)

    def insert(self, name: str, *values: Any) -> int:
        made = self.connection.execute(STATEMENTS[name], values)
        return (made.lastrowid or 0) if made.rowcount == 1 else 0


@dataclass(slots=True, eq=False)
class Request(Generic[T]):
    """One call for a lane, and after it its answer or error. Units: ``size_bytes`` of what it carries."""

    work: Callable[[Transaction], T]
    future: asyncio.Future[T]
    size_bytes: int
    answer: T | None = None
    error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return  # the caller no longer waits
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.answer)  # type: ignore[arg-type]


class ThreadLane:
    """A thread with a connection, and the queue before it.

    Errors: Unavailable, at once, above ``limit`` waiting requests or ``limit_bytes`` of them.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        serve: Callable[[sqlite3.Connection, list[Request[Any]]], None],
        *,
        threads: int = 1,
        limit: int = 10_000,
        limit_bytes: int = 64 << 20,
    ) -> None:
        self._name = name
        self._connect = connect
        self._serve = serve
        self._threads = threads
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._queue: queue.SimpleQueue[Request[Any] | None] = queue.SimpleQueue()
        self._running: list[threading.Thread] = []
        self._waiting = 0
        self._waiting_bytes = 0
        self._is_closed = False

    async def open(self) -> None:
        """Connect and start; what connecting raises is raised here."""
        self._loop = asyncio.get_running_loop()
        for number in range(self._threads):
            connection = await asyncio.to_thread(self._connect)
            thread = threading.Thread(
                target=self._run, args=(connection,), name=f"asman-sqlite-{self._name}-{number}", daemon=True
            )
            self._running.append(thread)
            thread.start()

    async def close(self) -> None:
        """Serve what waits, then stop."""
        self._is_closed = True
        for _ in self._running:
            self._queue.put(None)
        for thread in self._running:
            await asyncio.to_thread(thread.join)

    async def ask(self, work: Callable[[Transaction], T], size_bytes: int = 0) -> T:
        """Have the thread do this, and wait for its answer. What it raises is raised here."""
        if self._is_closed:
            raise Unavailable("the job store is closed")
        if self._waiting >= self._limit or self._waiting_bytes + size_bytes > max(self._limit_bytes, size_bytes):
            raise Unavailable(
                f"{self._waiting} requests with {self._waiting_bytes} bytes wait for the disk; at most {self._limit}"
                f" with {self._limit_bytes} bytes may",
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        self._waiting_bytes += size_bytes
        self._queue.put(Request(work=work, future=future, size_bytes=size_bytes))
        return await future

    def _run(self, connection: sqlite3.Connection) -> None:
        """The thread: gather, serve, wake; until told to stop."""
        try:
            stop = False
            while not stop:
                batch, stop = self._gather()
                if not batch:
                    continue
                try:
                    self._serve(connection, batch)
                except BaseException as error:
                    for request in batch:
                        request.error = request.error or error
                try:
                    self._loop.call_soon_threadsafe(self._settle, batch)
                except RuntimeError:
                    return  # the loop is gone, and with it everybody who waited
        finally:
            connection.close()

    def _gather(self) -> tuple[list[Request[Any]], bool]:
        """Wait for a request, then take what else is there. True when it is time to stop."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch, size_bytes = [first], first.size_bytes
        while len(batch) < _BATCH and size_bytes < _BATCH_BYTES:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
            size_bytes += more.size_bytes
        return batch, False

    def _settle(self, batch: list[Request[Any]]) -> None:
        for request in batch:
            self._waiting -= 1
            self._waiting_bytes -= request.size_bytes
            request.settle()


def commit_together(connection: sqlite3.Connection, batch: list[Request[Any]]) -> None:
    """Do all requests in one transaction; if that fails, each in its own."""
    try:
        _commit(connection, batch)
    except Exception as error:
        if len(batch) == 1 or _is_busy(error):
            for request in batch:
                request.error = storage_error(error)
            return
        for request in batch:
            commit_together(connection, [request])


def _commit(connection: sqlite3.Connection, batch: list[Request[Any]]) -> None:
    transaction = SqliteTransaction(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for request in batch:
            _do(transaction, request)
        transaction.write_counters()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def read_together(connection: sqlite3.Connection, batch: list[Request[Any]]) -> None:
    """Answer all requests from one snapshot, taken after the last of them was asked."""
    transaction = SqliteTransaction(connection)
    connection.execute("BEGIN")
    try:
        for request in batch:
            try:
                _do(transaction, request)
            except sqlite3.Error as error:
                request.error = storage_error(error)
    finally:
        connection.execute("ROLLBACK")


def _do(transaction: SqliteTransaction, request: Request[Any]) -> None:
    request.error = request.answer = None
    try:
        request.answer = request.work(transaction)
    except AsmanError as refusal:
        request.error = refusal


def _is_busy(error: Exception) -> bool:
    """Another process holds the file: trying each request alone would wait as long again for every one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def storage_error(error: Exception) -> Exception:
    """The driver's error in our words; anything else is a bug and stays what it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    made: AsmanError
    if code in _FULL:
        made = StorageFull("the job database cannot grow: its disk (or its allowed size) is full; nothing was stored")
    else:
        made = Unavailable(f"the job database does not answer: {error}; repeat the request")
    made.__cause__ = error
    return made
