"""The job store in a Durable Object's own SQLite: ``durable://``, one queue's jobs in that queue's object.

Requests and statements are those of ``asman_sqlite``; this is how the object's database runs them. It has no BEGIN and
no COMMIT: a callback is the transaction. Values cross the border in it and nowhere else: blobs arrive as ArrayBuffer,
whole numbers without their point, NULL as something that is not None.

Durability: the runtime holds back every message that leaves the object (an answer, a frame, a call to another service)
until what was written before it is confirmed on disk in several places, and ends the object if that fails. So who
hears that a job was saved hears it when it is, and nothing here waits for that: the writes of callers that are under
way together are confirmed together.

A queue that is only asked about leaves nothing behind: the tables are made with the first record.

Source: developers.cloudflare.com/durable-objects/api/sqlite-storage-api (``exec``, ``transactionSync``, output gate).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from asman.errors import AsmanError, ConfigError, StorageFull, Unavailable
from asman.job import Job
from asman_cloudflare.listed import Directory, ListedJobStore, Peer
from asman_sqlite.requests import Transaction
from asman_sqlite.schema import MIGRATIONS, STATEMENTS

__all__ = ["DurableJobStore", "SqlTransaction"]

_FULL = ("SQLITE_FULL", "SQLITE_TOOBIG", "exceeded its storage", "storage limit")
_RETURNING = {name: f"{sql} RETURNING id" for name, sql in STATEMENTS.items() if sql.startswith("INSERT")}

T = TypeVar("T")


class _Rows:
    def __init__(self, rows: list[Any], null: Any) -> None:
        for row in rows:
            for place, value in enumerate(row):
                if isinstance(value, memoryview):
                    row[place] = value.tobytes()
                elif value is null:
                    row[place] = None
        self._rows = deque(rows)

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchall(self) -> list[Any]:
        return [*self._rows]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


class SqlTransaction(Transaction):
    """Shape: ``sql`` is ``state.storage.sql``."""

    __slots__ = ("_ffi", "_sql")
    blob_bytes = 1_900_000  # a row has 2 MB, its other columns included

    def __init__(self, sql: Any, ffi: Any) -> None:
        super().__init__()
        self._sql, self._ffi = sql, ffi

    def execute(self, name: str, *values: Any) -> _Rows:
        return self.run(STATEMENTS[name], *values)

    def insert(self, name: str, *values: Any) -> int:
        row = self.run(_RETURNING[name], *values).fetchone()
        return int(row[0]) if row else 0

    def run(self, statement: str, *values: Any) -> _Rows:
        cursor = self._sql.exec(statement, *map(self._bound, values))
        return _Rows(cursor.raw().toArray().to_py(), self._ffi.jsnull)

    def _bound(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return self._ffi.to_js(value)
        return self._ffi.jsnull if value is None else value


class _Database:
    """The object's storage, for requests that run at once. Errors: Unavailable; StorageFull."""

    def __init__(self, storage: Any) -> None:
        from pyodide import ffi

        self._storage, self._ffi = storage, ffi
        self._is_open = self._is_made = False

    def open(self) -> None:
        """Errors: ConfigError when a newer release wrote this; nothing is changed."""
        present = self._told(lambda: _schema_version(self._transaction()))
        if present > len(MIGRATIONS):
            raise ConfigError(
                f"this object's storage has schema {present}, written by a newer asman; this release knows up to"
                f" {len(MIGRATIONS)}",
                hint="Deploy the newer release again.",
            )
        self._is_made = present == len(MIGRATIONS)
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def read(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        return self._told(lambda: work(self._transaction())) if self._is_made else self._within(work, keep=False)

    def write(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        answer = self._within(work, keep=True)
        self._is_made = True
        return answer

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the job store is closed")

    def _transaction(self) -> SqlTransaction:
        return SqlTransaction(self._storage.sql, self._ffi)

    def _within(self, work: Callable[[Transaction], T], *, keep: bool) -> T:
        """A transaction that brings the tables up first. Not to ``keep`` it undoes that too."""
        answers: list[T] = []
        ended: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(self._once(work))
                if not keep:
                    raise _Undo
            except BaseException as error:
                ended.append(error)
                raise

        try:
            self._storage.transactionSync(run)
        except BaseException as error:  # the same or, come through JavaScript, one that stands for it
            cause = ended[0] if ended else error
            if isinstance(cause, _Undo):
                return answers[0]
            if isinstance(cause, self._ffi.JsException):
                raise _storage_error(cause) from cause
            raise cause from None
        return answers[0]

    def _once(self, work: Callable[[Transaction], T]) -> T:
        transaction = self._transaction()
        if not self._is_made:
            _migrate(transaction)
        answer = work(transaction)
        transaction.write_counters()
        return answer

    def _told(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except self._ffi.JsException as error:
            raise _storage_error(error) from error


class _Undo(Exception):
    """Nothing of the transaction is to be kept."""


class _Lane:
    def __init__(self, do: Callable[[Callable[[Transaction], Any]], Any]) -> None:
        self._do = do

    async def ask(self, work: Callable[[Transaction], T], size_bytes: int = 0) -> T:
        answer: T = self._do(work)
        return answer


class DurableJobStore(ListedJobStore):
    """Jobs, documents and logs of one object. Source: ``abc.JobStore``, ``abc.LogStore`` and ``abc.SupportsScan``.

    Shape:  ``state`` is the Durable Object's; ``own``, ``directory`` and ``peer`` as for ``ListedJobStore``. ``wake``
            is told when a stored record is due, in the same turn: an alarm that it sets is stored with the record.
    Errors: ConfigError when opening what a newer release wrote; Unavailable when the object's storage fails;
            StorageFull.
    """

    def __init__(
        self,
        state: Any,
        *,
        own: str = "",
        directory: Directory | None = None,
        peer: Peer | None = None,
        wake: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(own=own, directory=directory, peer=peer)
        self._wake = wake
        self._database = _Database(state.storage)
        self._writer, self._reader = _Lane(self._database.write), _Lane(self._database.read)

    async def __aenter__(self) -> Self:
        self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        await super().save(job, expected=expected, documents=documents)
        if self._wake is not None:
            self._wake(job.due_at)

    @property
    def durability(self) -> str:
        return "disk"


def _schema_version(transaction: SqlTransaction) -> int:
    """0 if there are no tables yet. There is no PRAGMA user_version here."""
    if not transaction.run("SELECT 1 FROM sqlite_master WHERE name = 'asman_schema'").fetchone():
        return 0
    return int(transaction.run("SELECT version FROM asman_schema").fetchone()[0])


def _migrate(transaction: SqlTransaction) -> None:
    for statements in MIGRATIONS[_schema_version(transaction) :]:
        for statement in statements:
            transaction.run(statement)
    transaction.run("CREATE TABLE IF NOT EXISTS asman_schema (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)")
    transaction.run("INSERT OR REPLACE INTO asman_schema (id, version) VALUES (1, ?)", len(MIGRATIONS))


def _storage_error(error: Exception) -> AsmanError:
    said = str(error)
    if any(words in said for words in _FULL):
        return StorageFull(f"the storage of this queue's object takes no more: {said}; nothing was stored")
    return Unavailable(f"the storage of this queue's object does not answer: {said}; repeat the request")
