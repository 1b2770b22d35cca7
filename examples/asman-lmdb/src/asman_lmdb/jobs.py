"""The job store: each method hands one function of ``records`` or ``logs`` to the environment's threads."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from asman.abc import LogHalf, LogSlice
from asman.job import Job, State
from asman_lmdb import keys, logs, records
from asman_lmdb.environment import Environment

__all__ = ["LmdbJobStore"]


class LmdbJobStore:
    """Jobs, documents and logs in one folder. Source: ``abc.JobStore``, ``LogStore``, ``SupportsScan``."""

    def __init__(self, path: str | Path, *, size_bytes: int = 16 << 30) -> None:
        self._path = Path(path)
        self._size_bytes = size_bytes

    async def __aenter__(self) -> Self:
        self._env = await asyncio.to_thread(Environment, self._path, self._size_bytes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._env.close)

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        return await self._env.read(lambda txn: records.load(txn, queue, job_id))

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        await self._env.write(partial(records.save, job=job, expected=expected, documents=documents))

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        return await self._env.read(lambda txn: records.document(txn, queue, job_id, name))

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        await self._env.write(lambda txn: records.delete(txn, queue, job_id, expected=expected))

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return await self._env.read(lambda txn: records.in_namespace(txn, queue, namespace, limit))

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return await self._env.read(lambda txn: records.find(txn, job_id, limit))

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return await self._env.read(lambda txn: records.due(txn, before, limit))

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        return await self._env.read(lambda txn: records.counts(txn, queue))

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        return await self._env.read(lambda txn: records.scan(txn, cursor, limit))

    # --- logs --------------------------------------------------------------------------------------------------------

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        work = partial(logs.append, queue=queue, job_id=job_id, attempt=attempt, half=half, lines=list(lines))
        return await self._env.write(work)

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        work = partial(logs.read, queue=queue, job_id=job_id, half=half, since=since, max_bytes=max_bytes)
        return await self._env.read(work)

    async def drop_log(self, queue: str, job_id: str) -> None:
        await self._env.write(lambda txn: records.drop_log(txn, keys.place(queue, job_id)))

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        work = partial(records.list_jobs, queue=queue, states=states, shape=shape, limit=limit, after=after)
        return await self._env.read(work)
