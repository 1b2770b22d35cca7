"""Job stores that hold one queue each, and the list by which a job is found without its queue.

Each queue has a store of its own, which only that queue's object writes. Where a job id alone is asked for, or a job of
another queue is read (a copy), a *directory* names the queues that hold the id and the object of that queue, a *peer*,
is asked for the record. So any object answers such a question, and none keeps anything of another's.

An entry is written before the record is first stored and removed after it is deleted: an entry without a record does no
harm, a record without an entry would not be found. Both are done in turn for one job, so that a removal which is under
way cannot take away the entry of a record that has come back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from asman.abc import JobStore, LogHalf, LogSlice, LogStore
from asman.errors import AsmanError, Unavailable, clip
from asman.job import Job, decode_job, encode_job
from asman_sqlite.store import LaneJobStore

__all__ = ["Directory", "ListedJobStore", "Peer", "answer_peer"]

_log = logging.getLogger(__name__)

_QUEUES_ASKED = 100
"""So many queues are asked for a job at most; the limit of an answer cannot tell which of them hold the oldest."""

Peer = Callable[[str, str], Awaitable[bytes | None]]
"""Ask the object of a queue (first) a question (second), which it answers with ``answer_peer``. None: not there."""


class Directory(Protocol):
    """Which queues hold a job. All of it may be repeated. Errors: Unavailable."""

    async def add(self, job_id: str, queue: str) -> None: ...

    async def remove(self, job_id: str, queue: str) -> None: ...

    async def queues(self, job_id: str, limit: int) -> list[str]: ...


class ListedJobStore(LaneJobStore):
    """A store for one queue, ``own``, beside others. Without a directory it is all there is.

    Errors: Unavailable for a write to another queue: it would be where nobody looks for it.
    """

    def __init__(self, *, own: str = "", directory: Directory | None = None, peer: Peer | None = None) -> None:
        self._own, self._directory, self._peer = own, directory, peer
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        if self._is_elsewhere(queue):
            record = await self._ask(queue, {"ask": "load", "job_id": job_id})
            return None if record is None else decode_job(record)
        return await super().load(queue, job_id)

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        if self._is_elsewhere(queue):
            return await self._ask(queue, {"ask": "document", "job_id": job_id, "name": name})
        return await super().document(queue, job_id, name)

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        if self._is_elsewhere(queue):
            question = {"ask": "log", "job_id": job_id, "half": half, "since": since, "max_bytes": max_bytes}
            return _decode_slice(await self._ask(queue, question))
        return await super().read_log(queue, job_id, half=half, since=since, max_bytes=max_bytes)

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        found = await super().find(job_id, limit=limit)
        if self._directory is None:
            return found
        others = [queue for queue in await self._directory.queues(job_id, _QUEUES_ASKED) if self._is_elsewhere(queue)]
        loaded = await asyncio.gather(*(self.load(queue, job_id) for queue in others))
        found += [job for job in loaded if job is not None]
        return sorted(found, key=lambda job: (job.queued_at, job.queue))[:limit]

    def _is_elsewhere(self, queue: str) -> bool:
        return self._directory is not None and queue != self._own

    async def _ask(self, queue: str, question: Mapping[str, object]) -> bytes | None:
        if self._peer is None:
            raise Unavailable(f"queue {clip(queue)} is kept by another object, and none can be reached from here")
        return await self._peer(queue, json.dumps({**question, "queue": queue}))

    # --- writing -----------------------------------------------------------------------------------------------------

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        self._refuse_elsewhere(job.queue)
        if expected or self._directory is None:
            return await super().save(job, expected=expected, documents=documents)
        async with self._turn(job.job_id):
            await self._directory.add(job.job_id, job.queue)
            return await super().save(job, expected=expected, documents=documents)

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        self._refuse_elsewhere(queue)
        async with self._turn(job_id):
            await super().delete(queue, job_id, expected=expected)
            if self._directory is not None:
                try:
                    await self._directory.remove(job_id, queue)
                except AsmanError as error:
                    _log.warning("the directory keeps a job that was deleted", extra={"job": job_id, "error": error})

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        self._refuse_elsewhere(queue)
        return await super().append_log(queue, job_id, attempt=attempt, half=half, lines=lines)

    async def drop_log(self, queue: str, job_id: str) -> None:
        self._refuse_elsewhere(queue)
        await super().drop_log(queue, job_id)

    def _refuse_elsewhere(self, queue: str) -> None:
        if self._is_elsewhere(queue):
            raise Unavailable(f"jobs of queue {clip(queue)} are written by the object of that queue, which this is not")

    def _turn(self, job_id: str) -> asyncio.Lock:
        return self._turns.setdefault(job_id, asyncio.Lock())


# --- the other side --------------------------------------------------------------------------------------------------


async def answer_peer(store: JobStore, told: str) -> bytes | None:
    """What the object of a queue answers to a peer's question. Only reads. Errors: as the store's."""
    question = json.loads(told)
    queue, job_id = question["queue"], question["job_id"]
    if question["ask"] == "document":
        return await store.document(queue, job_id, question["name"])
    if question["ask"] == "log":
        assert isinstance(store, LogStore)
        asked = {name: question[name] for name in ("half", "since", "max_bytes")}
        return _encode_slice(await store.read_log(queue, job_id, **asked))
    job = await store.load(queue, job_id)
    return None if job is None else encode_job(job)


def _encode_slice(part: LogSlice) -> bytes:
    lines = [line.decode() for line in part.lines]
    return json.dumps({"attempt": part.attempt, "start": part.start, "total": part.total, "lines": lines}).encode()


def _decode_slice(data: bytes | None) -> LogSlice:
    if data is None:
        return LogSlice(attempt=0, start=0, lines=(), total=0)
    told = json.loads(data)
    lines = tuple(line.encode() for line in told["lines"])
    return LogSlice(attempt=told["attempt"], start=told["start"], lines=lines, total=told["total"])
