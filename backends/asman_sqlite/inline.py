"""Requests that run at once, where there are no threads: Python compiled to wasm, on a server's edge or in a browser.

An ``InlineLane`` has a connection of Python's own ``sqlite3`` and holds the event loop while it works, some tenths of a
millisecond. So there is no queue and nothing to bound: a request is done before the next one is made. Two lanes may
share a connection.

A file there is often one in memory. Whoever can copy it to a safer place gives ``persist``.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from asman.errors import Unavailable
from asman_sqlite.requests import Transaction
from asman_sqlite.writer import Request

__all__ = ["InlineLane"]

T = TypeVar("T")


class InlineLane:
    """Shape: ``connect`` and ``serve`` as for ``ThreadLane``; ``persist`` as for ``SqliteJobStore``."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        serve: Callable[[sqlite3.Connection, list[Request[Any]]], None],
        persist: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._connect = connect
        self._serve = serve
        self._persist = persist
        self._connection: sqlite3.Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect; what connecting raises is raised here."""
        self._connection = self._connect()

    async def close(self) -> None:
        """Wait for what is being persisted."""
        connection, self._connection = self._connection, None
        if under_way := [task for task in (self._running, self._next) if task is not None]:
            await asyncio.wait(under_way)
        if connection is not None:
            connection.close()

    async def ask(self, work: Callable[[Transaction], T], size_bytes: int = 0) -> T:
        """Do this now. What it raises is raised here. Errors: Unavailable, also when it could not be persisted."""
        if self._connection is None:
            raise Unavailable("the job store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = Request(work=work, future=future, size_bytes=size_bytes)
        self._serve(self._connection, [request])
        if self._persist is not None and request.error is None:
            await self._persisted()
        request.settle()
        return await future

    async def _persisted(self) -> None:
        """One call is made at a time; it counts for those whose change was there when it began."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._persist_after(self._running))
        try:
            await asyncio.shield(self._next)
        except Exception as error:
            raise Unavailable(f"the job database could not be put in its safe place: {error}; repeat it") from error

    async def _persist_after(self, before: asyncio.Task[None] | None) -> None:
        assert self._persist is not None
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await self._persist()
