"""The job store and log store in one SQLite file: how it is opened, and who runs its requests.

Natively a thread writes and others read (``writer``). Where there are no threads each request runs at once
(``inline``); nothing else differs but the journal: the write-ahead log needs memory that connections share.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from asman.errors import ConfigError, clip
from asman_sqlite.inline import InlineLane
from asman_sqlite.schema import check, migrate
from asman_sqlite.store import LaneJobStore
from asman_sqlite.writer import ThreadLane, commit_together, read_together, storage_error

__all__ = ["SqliteJobStore"]

_OLDEST_SQLITE = (3, 24, 0)
_BUSY_MS = 5_000
_READERS = 2
_WAL_BYTES = 64 << 20
_HAS_THREADS = sys.platform != "emscripten"


class SqliteJobStore(LaneJobStore):
    """Jobs, documents and logs in one file.

    Shape:  ``trace`` is called with each statement of the writer, for tests and for the curious. ``inline`` runs
            requests at once, in the event loop; it is for one process, and the choice where there are no threads.
            ``persist`` is for files that live in memory: it is awaited after each commit, before the caller hears of
            it; callers that wait together share one call.
    Units:  ``max_bytes`` is what the file may grow to; None for as much as the disk has.
    Errors: ConfigError when opening something that is not ours; Unavailable when a lock is held too long, the
            queue before the disk is full, or the disk fails; StorageFull.
    """

    _writer: ThreadLane | InlineLane
    _reader: ThreadLane | InlineLane

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int | None = None,
        trace: Callable[[str], None] | None = None,
        inline: bool = not _HAS_THREADS,
        persist: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        if persist is not None and not inline:
            raise ConfigError("only a store that runs its requests inline can be given persist")
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._trace = trace
        self._is_inline = inline
        self._is_kept = _HAS_THREADS or persist is not None
        if inline:
            connect = cache(self._connect_writer)  # one for both: what was written is still in its cache
            self._writer = InlineLane(connect, commit_together, persist)
            self._reader = InlineLane(connect, read_together)
        else:
            self._writer = ThreadLane("writer", self._connect_writer, commit_together)
            self._reader = ThreadLane("reader", self._connect_reader, read_together, threads=_READERS)

    async def __aenter__(self) -> Self:
        try:
            if self._is_inline:
                self._prepare("delete")
            else:
                await asyncio.to_thread(self._prepare, "wal")
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

    def _prepare(self, journal: str) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigError(f"this Python has SQLite {sqlite3.sqlite_version}; 3.24 or newer is needed")
        if str(self._path) in ("", ".", ":memory:"):
            raise ConfigError(f"the URL names no file ({clip(str(self._path))})", hint="Use sqlite:///path or memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect()
        try:
            check(connection, str(self._path))
            if not _turn_to(journal, connection):
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
        return "disk" if self._is_kept else "memory"


def _turn_to(journal: str, connection: sqlite3.Connection) -> bool:
    """Choose how changes are kept until they are whole; whether it is the write-ahead log, the file remembers.

    SQLite does not wait for another process that does the same at this moment, so this does.
    """
    for wait_s in (0.05, 0.2, 1.0, 2.0, None):
        try:
            (mode,) = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        except sqlite3.OperationalError as error:
            if wait_s is None or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(wait_s)
            continue
        return bool(mode == journal)
    raise AssertionError("unreachable")


def _open_error(path: Path, error: sqlite3.Error) -> Exception:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"{path} is not a database", hint="Choose another file with --data.")
    return storage_error(error)
