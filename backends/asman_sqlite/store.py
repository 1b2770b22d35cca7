"""The job store and log store on any SQLite: which request each method makes, and of whom.

Owns no database: a subclass opens one and gives the two lanes to it. Refuses nothing that ``abc.JobStore`` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol, TypeVar

from asman.abc import LogHalf, LogSlice
from asman.job import Job, State, encode_job
from asman_sqlite import logs, requests
from asman_sqlite.requests import Transaction
from asman_sqlite.schema import STATE_NUMBERS

__all__ = ["Lane", "LaneJobStore"]

_BEFORE_ALL = (-1e308, "")

T = TypeVar("T")


class Lane(Protocol):
    """A way to a connection."""

    async def ask(self, work: Callable[[Transaction], T], size_bytes: int = 0) -> T:
        """Do this within a transaction: it is kept when this returns, or nothing of it is. What it raises is raised.

        Units:  ``size_bytes`` of what the work carries.
        Errors: Unavailable; StorageFull.
        """
        ...


class LaneJobStore:
    """Jobs, documents and logs. Source: ``abc.JobStore``, ``abc.LogStore`` and ``abc.SupportsScan``.

    What a reader's request sees is what the writer has committed.
    """

    _writer: Lane
    _reader: Lane

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        return await self._reader.ask(partial(requests.load, queue=queue, job_id=job_id))

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        record, written = encode_job(job), dict(documents or {})
        size_bytes = len(record) + sum(len(data) for data in written.values() if data is not None)
        change = requests.insert if expected == 0 else requests.update
        work = partial(change, job=job, record=record, expected=expected, documents=written)
        await self._writer.ask(work, size_bytes)

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        return await self._reader.ask(partial(requests.document, queue=queue, job_id=job_id, name=name))

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        await self._writer.ask(partial(requests.delete, queue=queue, job_id=job_id, expected=expected))

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(partial(requests.in_namespace, queue=queue, namespace=namespace, limit=limit))

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(partial(requests.find, job_id=job_id, limit=limit))

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return await self._reader.ask(partial(requests.due, before=before, limit=limit))

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        return await self._reader.ask(partial(requests.scan, after=int(cursor or 0), limit=limit))

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        return await self._reader.ask(partial(requests.counts, queue="" if queue is None else queue))

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
        work = partial(
            requests.listing, queue=queue, numbers=numbers, shape=shape, limit=limit, after=after or _BEFORE_ALL
        )
        return await self._reader.ask(work)
