"""Stores in SQLite where there are no threads: ``sqlite:///path`` for jobs and for blobs.

A plugin for hosts that have files: a browser keeps them in its private file system. Jobs are in the tables of
``asman_sqlite``; blobs are rows of pieces, because such a host cannot make a new file while Python waits. All calls
happen at once, in the one thread there is: each takes a fraction of a millisecond, and nobody else uses the files.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Self

from asman.abc import BlobInfo
from asman.config import Config
from asman.errors import (
    AsmanError,
    BlobNotFound,
    Conflict,
    HashMismatch,
    LimitExceeded,
    StorageFull,
    Unavailable,
    clip,
)
from asman.hookspecs import hookimpl
from asman_edge.host import Host
from asman_sqlite.jobs import SqliteJobStore

__all__ = ["Kept", "KeptBlobStore", "begin"]

_PREFIX = "sqlite:///"
_PIECE_BYTES = 256 << 10


def begin(told: str, flush: Callable[[], object]) -> Host:
    """A host whose stores are here. Shape: ``told`` as for ``asman_edge.host``; ``flush`` as for ``Kept``."""
    from pyodide.ffi import to_js

    return Host(told, to_js, [Kept(flush)])


class Kept:
    """The hooks. Shape: ``flush`` brings what was written to the disk; called before anybody hears of a stored job."""

    def __init__(self, flush: Callable[[], object]) -> None:
        self._flush = flush

    async def _persist(self) -> None:
        self._flush()

    @hookimpl
    def asman_job_store(self, url: str, config: Config) -> SqliteJobStore | None:
        if not url.startswith(_PREFIX):
            return None
        return SqliteJobStore(url.removeprefix(_PREFIX), inline=True, persist=self._persist)

    @hookimpl
    def asman_blob_store(self, url: str, config: Config) -> KeptBlobStore | None:
        return KeptBlobStore(url.removeprefix(_PREFIX)) if url.startswith(_PREFIX) else None


# --- blobs -----------------------------------------------------------------------------------------------------------

_TABLES = """
CREATE TABLE IF NOT EXISTS blob (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE, size_bytes INTEGER, sha256 TEXT, expires_at REAL
);
CREATE INDEX IF NOT EXISTS blob_expiry ON blob (expires_at) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS piece (blob INTEGER, start INTEGER, data BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS piece_place ON piece (blob, start);
"""


class KeptBlobStore:
    """Blobs in one SQLite file. Source: ``abc.BlobStore``.

    Shape:  a blob without a key is one that still comes in; such leftovers are removed when the store is opened.
    Errors: Unavailable when SQLite fails; StorageFull when the file cannot grow.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        with _told():
            self._opened = connection = sqlite3.connect(self._path, isolation_level=None)
            for setting in (
                "page_size = 65536",
                "auto_vacuum = INCREMENTAL",
                "journal_mode = WAL",
                "synchronous = FULL",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
            connection.executescript(_TABLES)
            for (number,) in connection.execute("SELECT number FROM blob WHERE key IS NULL").fetchall():
                self._drop(number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._opened = self._opened, None
        if connection is not None:
            connection.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise Unavailable("the blob store is closed")
        return self._opened

    async def put(
        self,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        expires_at: float,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> BlobInfo:
        with _told():
            number = self._connection.execute("INSERT INTO blob DEFAULT VALUES").lastrowid
            assert number is not None
        try:
            digest, size_bytes = await self._take_in(number, key, chunks, max_bytes)
            if sha256 not in (None, digest):
                raise HashMismatch(f"the bytes for blob {clip(key)} have the sha256 {digest}, not {clip(sha256)}")
            with self._transaction():
                kept = self._publish(number, key, size_bytes, digest, expires_at)
        except BaseException:
            with _told():
                self._drop(number)
            raise
        return BlobInfo(key=key, size_bytes=size_bytes, sha256=digest, expires_at=kept)

    async def _take_in(
        self, number: int, key: str, chunks: AsyncIterable[bytes], max_bytes: int | None
    ) -> tuple[str, int]:
        """Store what comes in pieces of at least so many bytes (but the last); gives its sha256 and size."""
        total, size_bytes, gathered = hashlib.sha256(), 0, bytearray()

        def store() -> None:
            with _told():
                values = (number, size_bytes - len(gathered), bytes(gathered))
                self._connection.execute("INSERT INTO piece VALUES (?, ?, ?)", values)
            gathered.clear()

        async with aclosing(_parts(chunks)) as parts:
            async for part in parts:
                size_bytes += len(part)
                if max_bytes is not None and size_bytes > max_bytes:
                    raise LimitExceeded(
                        f"blob {clip(key)} is larger than {max_bytes} bytes, which is all that is allowed"
                    )
                total.update(part)
                gathered += part
                if len(gathered) >= _PIECE_BYTES:
                    store()
        if gathered:
            store()
        return total.hexdigest(), size_bytes

    def _publish(self, number: int, key: str, size_bytes: int, digest: str, expires_at: float) -> float:
        """Give it its name, or see that what has it is the same. Gives the expiry. Errors: Conflict."""
        found = self._row(key)
        if found is None:
            values = (key, size_bytes, digest, expires_at, number)
            told = "UPDATE blob SET key = ?, size_bytes = ?, sha256 = ?, expires_at = ? WHERE number = ?"
            self._connection.execute(told, values)
            return expires_at
        if found[2] != digest:
            raise Conflict(f"blob {clip(key)} exists with other bytes")
        self._remove(number)
        later = max(expires_at, found[3])
        self._connection.execute("UPDATE blob SET expires_at = ? WHERE number = ?", (later, found[0]))
        return later

    def _row(self, key: str) -> tuple[int, int, str, float] | None:
        asked = "SELECT number, size_bytes, sha256, expires_at FROM blob WHERE key = ?"
        row: tuple[int, int, str, float] | None = self._connection.execute(asked, (key,)).fetchone()
        return row

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        with _told():
            found = self._row(key)
        if found is None:
            raise BlobNotFound(f"there is no blob {clip(key)}")
        number, size_bytes = found[:2]
        return self._read(number, key, max(start, 0), size_bytes if stop is None else min(stop, size_bytes))

    async def _read(self, number: int, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        asked = "SELECT start, data FROM piece WHERE blob = ? AND start <= ? ORDER BY start DESC LIMIT 1"
        while start < stop:
            with _told():
                row = self._connection.execute(asked, (number, start)).fetchone()
            if row is None:
                raise BlobNotFound(f"blob {clip(key)} was removed while it was read")
            piece = row[1][start - row[0] : stop - row[0]]
            for at in range(0, len(piece), 1 << 20):
                yield piece[at : at + (1 << 20)]
            start += len(piece)

    async def stat(self, key: str) -> BlobInfo | None:
        with _told():
            found = self._row(key)
        if found is None:
            return None
        return BlobInfo(key=key, size_bytes=found[1], sha256=found[2], expires_at=found[3])

    async def extend(self, key: str, expires_at: float) -> None:
        with _told():
            told = "UPDATE blob SET expires_at = max(expires_at, ?) WHERE key = ?"
            self._connection.execute(told, (expires_at, key))

    async def delete(self, key: str) -> None:
        with _told():
            found = self._row(key)
            if found is not None:
                self._drop(found[0])

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        asked = "SELECT number FROM blob WHERE key IS NOT NULL AND expires_at < ? ORDER BY expires_at LIMIT ?"
        with _told():
            numbers = self._connection.execute(asked, (before, limit)).fetchall()
            for (number,) in numbers:
                self._drop(number)
        return len(numbers)

    def _drop(self, number: int) -> None:
        with self._transaction():
            self._remove(number)
        self._connection.executescript("PRAGMA incremental_vacuum")  # execute() would take one step of it

    def _remove(self, number: int) -> None:
        self._connection.execute("DELETE FROM piece WHERE blob = ?", (number,))
        self._connection.execute("DELETE FROM blob WHERE number = ?", (number,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


async def _parts(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Of chunks of any size, parts that are no larger than a piece."""
    async for chunk in chunks:
        for at in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[at : at + _PIECE_BYTES]


@contextmanager
def _told() -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except sqlite3.Error as error:
        made: AsmanError = Unavailable(f"the blob database does not answer: {error}; repeat the request")
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            made = StorageFull("the blob database cannot grow; nothing was stored")
        raise made from error
