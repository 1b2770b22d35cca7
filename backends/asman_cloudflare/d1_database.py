"""A D1 binding told in Python: statements and values go in, rows come out, its errors are ours.

What crosses the border is converted here and nowhere else. Statements that are asked for while others are on their way
go together in the next round trip (``asman.batches``), as one transaction of D1; what is wrong with one of them does
not hurt the others. Every trip has a deadline.

Source: developers.cloudflare.com/d1/worker-api, .../d1/observability/debug-d1.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from asman.batches import Batches
from asman.errors import ConfigError, StorageFull, Unavailable
from asman_cloudflare.d1_schema import MIGRATIONS, STATEMENTS

__all__ = ["Database", "Row", "Statement", "Trip", "Value"]

Value = str | int | float | None

Statement = tuple[str, Sequence[Value]]
"""SQL and what is bound to it."""

Row = dict[str, Any]

_TRIP_S = 30.0
_TOGETHER = 40
"""Requests in one trip. D1 counts their statements: an invocation of a Worker may make 1,000."""
_READERS = 3
"""Trips of readers at once: of six that a Worker may have under way."""

_FULL = re.compile(r"SQLITE_FULL|database or disk is full|maximum DB size|SQLITE_TOOBIG|too big|row too big", re.I)
_REFUSED = re.compile(r"SQLITE_(ERROR|CONSTRAINT|TOOBIG|MISMATCH|RANGE|AUTH|NOLFS)")
"""Errors of a statement; all others are of the service, and might pass."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What one statement cost. Units: rows, as D1 counts and bills them."""

    sql: str
    rows_read: int
    rows_written: int


class _Refused(Exception):
    """D1 refuses a statement of a batch; nothing of the batch is done."""


class Database:
    """Shape: ``trace`` is told of each statement that was carried out, for tests and for the curious."""

    def __init__(self, binding: Any, *, trace: Callable[[Trip], None] | None = None) -> None:
        import js
        from pyodide import ffi

        self._binding = binding
        self._js, self._ffi = js, ffi
        self._trace = trace
        self._is_open = False
        self._writes: Batches[list[Statement], list[list[Row]]] = Batches(self._carry, lanes=1, size=_TOGETHER)
        self._reads: Batches[list[Statement], list[list[Row]]] = Batches(self._carry, lanes=_READERS, size=_TOGETHER)

    async def open(self) -> None:
        """Bring the database to this release; several objects may do so at once.

        Errors: ConfigError when a newer release wrote it, or when it holds something else; Unavailable.
        """
        present = await self._version()
        for made in range(present, len(MIGRATIONS)):
            try:
                await self._trip([(sql, ()) for sql in MIGRATIONS[made]])
            except _Refused as error:
                if await self._version() <= made:  # nobody else was quicker
                    raise ConfigError(
                        f"the D1 database cannot take asman's tables: {error}",
                        hint="Give it a D1 database of its own.",
                    ) from error
        if present > len(MIGRATIONS):
            raise ConfigError(
                f"the D1 database has schema {present}, written by a newer asman; this release knows {len(MIGRATIONS)}",
                hint="Deploy the newer release again, or name another D1 database.",
            )
        self._is_open = True

    async def _version(self) -> int:
        try:
            return int((await self._trip([(STATEMENTS["version"], ())]))[0][0]["version"] or 0)
        except _Refused as error:
            if "no such table" in str(error):
                return 0
            raise Unavailable(f"D1 cannot be read: {error}; repeat the request") from error

    async def close(self) -> None:
        self._is_open = False
        await self._reads.close()
        await self._writes.close()

    async def read(self, *statements: Statement) -> list[list[Row]]:
        """The rows of each statement, all from one moment. Errors: Unavailable."""
        return await self._ask(self._reads, statements)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """The rows of each statement; all are done, in order, or none is. Errors: StorageFull; Unavailable."""
        return await self._ask(self._writes, statements)

    async def _ask(
        self, lane: Batches[list[Statement], list[list[Row]]], statements: Sequence[Statement]
    ) -> list[list[Row]]:
        if not self._is_open:
            raise Unavailable("the job store is closed")
        size_bytes = sum(len(value) for _, values in statements for value in values if isinstance(value, str))
        try:
            return await lane.ask(list(statements), key=object(), size_bytes=size_bytes)
        except _Refused as error:
            if _FULL.search(str(error)):
                raise StorageFull(f"D1 has no room for it: {error}; nothing was stored") from error
            raise Unavailable(f"D1 refused a statement: {error}; nothing was stored") from error

    async def _carry(self, works: list[list[Statement]]) -> list[list[list[Row]]]:
        found = iter(await self._trip([statement for work in works for statement in work]))
        return [[next(found) for _ in work] for work in works]

    async def _trip(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Errors: _Refused; StorageFull; Unavailable."""
        prepared = [self._prepared(*statement) for statement in statements]
        given = self._ffi.to_js(prepared)
        try:
            async with self._within(_TRIP_S):
                answered = await self._binding.batch(given)
        except (self._ffi.JsException, TimeoutError, OSError) as error:
            raise _told(error) from error
        answers = json.loads(self._js.JSON.stringify(answered))
        if self._trace is not None:
            for (sql, _), answer in zip(statements, answers, strict=True):
                meta = answer["meta"]
                self._trace(Trip(sql, int(meta["rows_read"]), int(meta["rows_written"])))
        return [answer["results"] for answer in answers]

    def _prepared(self, sql: str, values: Sequence[Value]) -> Any:
        made = self._binding.prepare(sql)
        return made.bind(*(self._ffi.jsnull if value is None else value for value in values)) if values else made

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """``asyncio.timeout`` with a timer that goes when it is over.

        Pyodide's loop leaves a timer that is cancelled to run out, and a Worker may have 10,000 of them.
        """
        async with asyncio.timeout(None) as scope:
            late = self._ffi.create_proxy(lambda: scope.reschedule(0.0))
            timer = self._js.setTimeout(late, int(seconds * 1000))
            try:
                yield
            finally:
                self._js.clearTimeout(timer)
                late.destroy()


def _told(error: BaseException) -> Exception:
    """D1's error as one of ours."""
    if isinstance(error, TimeoutError):
        return Unavailable("D1 did not answer in time; repeat the request")
    said = str(getattr(error, "message", error))[:300]
    if _REFUSED.search(said):
        return _Refused(said)
    if _FULL.search(said):
        return StorageFull(f"D1 is full: {said}; nothing was stored")
    return Unavailable(f"D1 failed: {said}; repeat the request")
