"""A plugin whose stores break one promise each: ``broken:///FAULT/folder``. What the exam says of them is the test.

Job stores are the example package's with one method spoilt, as its author might have got it wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from asman.errors import Conflict
from asman.hookspecs import hookimpl
from asman.job import Job, State
from asman.memory import MemoryNotifier
from asman_filesystem.blobs import FileBlobStore
from asman_lmdb import keys, records
from asman_lmdb.jobs import LmdbJobStore

__all__ = ["FAULTS", "asman_blob_store", "asman_job_store", "asman_notifier"]

EVERY_STATE = [state for state in State if state is not State.ABSENT]


class SaveIgnoresExpected(LmdbJobStore):
    async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
        stored = await self.load(job.queue, job.job_id)
        await super().save(job, expected=stored.version if stored else 0, documents=documents)


class DocumentsBeforeTheComparison(LmdbJobStore):
    async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
        at = keys.place(job.queue, job.job_id)
        for name, data in (documents or {}).items():
            await self._env.write(lambda txn, n=name, d=data: txn.put(keys.document(at, n), d or b""))
        await super().save(job, expected=expected)


class SaveReturnsTooEarly(LmdbJobStore):
    """Gathers what is saved and writes it when it is closed."""

    async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
        self.__dict__.setdefault("late", []).append((job, expected, documents))

    async def __aexit__(self, *error: Any) -> None:
        for job, expected, documents in self.__dict__.get("late", []):
            with contextlib.suppress(Conflict):
                await super().save(job, expected=expected, documents=documents)
        await super().__aexit__(*error)


class RoundsTimes(LmdbJobStore):
    async def load(self, queue: str, job_id: str) -> Job | None:
        job = await super().load(queue, job_id)
        return job and _with(job, queued_at=float(int(job.queued_at)), lease_until=None)


class UnknownJobIsAKeyError(LmdbJobStore):
    async def load(self, queue: str, job_id: str) -> Job | None:
        job = await super().load(queue, job_id)
        if job is None:
            raise KeyError(job_id)
        return job


class ListIsById(LmdbJobStore):
    async def list(self, queue: str, **options: Any) -> Any:
        return sorted(await super().list(queue, **options), key=lambda job: job.job_id)


class ListShowsEveryState(LmdbJobStore):
    async def list(self, queue: str, *, states: Any, **options: Any) -> Any:
        return await super().list(queue, states=EVERY_STATE, **options)


class CursorIsInclusive(LmdbJobStore):
    async def list(self, queue: str, *, after: Any = None, **options: Any) -> Any:
        return await super().list(queue, after=(after[0], after[1][:-1]) if after else None, **options)


class DueIgnoresTheLimit(LmdbJobStore):
    async def due(self, before: float, *, limit: int = 100) -> Any:
        return await super().due(before, limit=10_000)


class DueExcludesTheMoment(LmdbJobStore):
    async def due(self, before: float, *, limit: int = 100) -> Any:
        return [job for job in await super().due(before, limit=limit) if job.due_at < before]


class CountsDrift(LmdbJobStore):
    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        job = await self.load(queue, job_id)
        await super().delete(queue, job_id, expected=expected)
        await self._env.write(lambda txn: records._count(txn, job, +1))


class FindsTheNewestFirst(LmdbJobStore):
    async def find(self, job_id: str, *, limit: int = 100) -> Any:
        return (await super().find(job_id, limit=limit))[::-1]


class NamespaceForgets(LmdbJobStore):
    """Only the first namespace of a job is indexed."""

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> Any:
        found = await super().in_namespace(queue, namespace, limit=limit)
        return [job for job in found if job.namespace_names[0] == namespace]


class DeleteIgnoresTheVersion(LmdbJobStore):
    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        job = await self.load(queue, job_id)
        await super().delete(queue, job_id, expected=job.version if job else 0)


class DeleteDoesNothing(LmdbJobStore):
    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        return None


class LostAfterReopen(LmdbJobStore):
    def __init__(self, path: Path) -> None:
        super().__init__(path / uuid.uuid4().hex)


class AppendsTwice(LmdbJobStore):
    async def append_log(self, queue: str, job_id: str, **options: Any) -> int:
        await super().append_log(queue, job_id, **options)
        return await super().append_log(queue, job_id, **options)


class TakesOlderAttempts(LmdbJobStore):
    async def append_log(self, queue: str, job_id: str, *, attempt: int, **options: Any) -> int:
        return await super().append_log(queue, job_id, attempt=max(attempt, 2), **options)


class NeverReturns(LmdbJobStore):
    async def counts(self, queue: str | None) -> Any:
        await asyncio.Event().wait()


class ReadsBeyondStop(FileBlobStore):
    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        return await super().get(key, start=start, stop=None if stop is None else stop + 1)


class PrunesForever(FileBlobStore):
    async def prune(self, before: float, *, limit: int = 1000) -> int:
        return limit


class OneTopicForAll(MemoryNotifier):
    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        await super().subscribe("", deliver)

    async def publish(self, topic: str, data: bytes) -> None:
        await super().publish("", data)


FAULTS: dict[str, type] = {
    kind.__name__: kind for kind in list(globals().values()) if isinstance(kind, type) and kind.__module__ == __name__
}


def _with(job: Job, **members: Any) -> Job:
    from dataclasses import replace

    return replace(job, **members)


def _opened(url: str, kind: type) -> Any:
    prefix, _, rest = url.partition(":///")
    fault, _, folder = rest.partition("/")
    found = FAULTS.get(fault) if prefix == "broken" else None
    if found is None or not issubclass(found, kind):
        return None
    return found() if kind is MemoryNotifier else found(Path("/", folder))


@hookimpl
def asman_job_store(url: str) -> Any:
    return _opened(url, LmdbJobStore)


@hookimpl
def asman_blob_store(url: str) -> Any:
    return _opened(url, FileBlobStore)


@hookimpl
def asman_notifier(url: str) -> Any:
    return _opened(url, MemoryNotifier)
