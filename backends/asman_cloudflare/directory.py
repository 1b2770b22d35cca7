"""Which queues hold a job, as one small table in D1: ``durable://BINDING`` names the database.

A row is a job id and a queue, written once per job and removed with it: one row each time, no index beside the table.
The table is made by who finds it missing.
"""

from __future__ import annotations

from typing import Any

from asman.errors import StorageFull, Unavailable

__all__ = ["D1Directory"]

_MAKE = """CREATE TABLE IF NOT EXISTS asman_directory
    (job_id TEXT NOT NULL, queue TEXT NOT NULL, PRIMARY KEY (job_id, queue)) WITHOUT ROWID"""
_ADD = "INSERT OR IGNORE INTO asman_directory (job_id, queue) VALUES (?, ?)"
_REMOVE = "DELETE FROM asman_directory WHERE job_id = ? AND queue = ?"
_QUEUES = "SELECT queue FROM asman_directory WHERE job_id = ? LIMIT ?"


class D1Directory:
    """Source: ``listed.Directory``. Shape: ``database`` is a D1 binding."""

    def __init__(self, database: Any) -> None:
        from pyodide import ffi

        self._database, self._ffi = database, ffi

    async def add(self, job_id: str, queue: str) -> None:
        await self._run(_ADD, job_id, queue)

    async def remove(self, job_id: str, queue: str) -> None:
        await self._run(_REMOVE, job_id, queue)

    async def queues(self, job_id: str, limit: int) -> list[str]:
        return [row["queue"] for row in await self._run(_QUEUES, job_id, limit)]

    async def _run(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        try:
            return await self._once(statement, *values)
        except self._ffi.JsException as error:
            if "no such table" not in str(error):
                raise _told(error) from error
        try:
            await self._once(_MAKE)
            return await self._once(statement, *values)
        except self._ffi.JsException as error:
            raise _told(error) from error

    async def _once(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        prepared = self._database.prepare(statement)
        answered = await (prepared.bind(*values) if values else prepared).all()
        rows: list[dict[str, Any]] = answered.results.to_py()
        return rows


def _told(error: Exception) -> Exception:
    if "SQLITE_FULL" in str(error) or "maximum DB size" in str(error):
        return StorageFull(f"the directory of jobs is full: {error}; nothing was stored")
    return Unavailable(f"the directory of jobs does not answer: {error}; repeat the request")
