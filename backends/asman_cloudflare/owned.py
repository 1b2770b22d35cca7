"""A job store as seen by the object of a queue, which is the only writer of the queue's jobs: it need not ask again.

Everything is written through at once, and by the store's own rule: a save compares and swaps. What is remembered are
the queue's counters, the jobs that have waited longest, and the records and documents used last, in bounded memory. So
a submit, a claim and a finish cost the store one statement each.

Nothing here has to be true. If somebody else has written, a save is refused as ever; then all that is known goes, and
the caller, who decides anew after a Conflict, is told by the store. What is only read is believed for ``trust_s``. So
what somebody else submits is given out that much later, and nothing is given out twice.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from asman.abc import JobStore, LogHalf, LogSlice, LogStore, SupportsScan, TellsDurability
from asman.completion import to_the_end
from asman.errors import Conflict, clip
from asman.job import Job, State
from asman_cloudflare.heads import Heads

__all__ = ["OwnedJobStore", "Store", "SupportsWhole"]

_HEADS = 64
_RECORD_BYTES = 2 << 10
"""About what a record takes in memory."""

_Counts = dict[tuple[State, str], int]


class Store(JobStore, LogStore, SupportsScan, TellsDurability, Protocol):
    """What is remembered of."""

    async def __aenter__(self) -> Self: ...


@runtime_checkable
class SupportsWhole(Protocol):
    """A store that gives records with all their documents in one read."""

    async def whole(self, queue: str, job_id: str) -> tuple[Job, dict[str, bytes]] | None:
        """As ``load``."""
        ...

    async def heads(self, queue: str, shape: str, limit: int) -> list[tuple[Job, dict[str, bytes]]]:
        """As ``list`` of Queued."""
        ...


@dataclass(slots=True, eq=False)
class _Entry:
    """One job. Shape: ``is_whole``: it has no documents but these; None is one that it certainly has not."""

    job: Job
    learned_at: float
    documents: dict[str, bytes | None] = field(default_factory=dict)
    is_whole: bool = False

    @property
    def size_bytes(self) -> int:
        names = sum(len(name) for name, _ in self.job.namespaces)
        return _RECORD_BYTES + len(self.job.message) + names + sum(len(data or b"") for data in self.documents.values())


class _Shelf:
    """Entries used last, up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[_Entry, int]] = OrderedDict()

    def get(self, job_id: str) -> _Entry | None:
        found = self._entries.get(job_id)
        if found is None:
            return None
        self._entries.move_to_end(job_id)
        return found[0]

    def put(self, entry: _Entry) -> None:
        """Take it in, or take note that it has grown."""
        self.drop(entry.job.job_id)
        size_bytes = entry.size_bytes
        self._entries[entry.job.job_id] = (entry, size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._most_bytes:
            self._bytes -= self._entries.popitem(last=False)[1][1]

    def drop(self, job_id: str) -> None:
        found = self._entries.pop(job_id, None)
        if found is not None:
            self._bytes -= found[1]


class _Gate:
    """Writers pass side by side; a look at the whole queue waits for those under way and holds the next ones."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._writing: Counter[str] = Counter()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def is_writing(self, job_id: str) -> bool:
        return job_id in self._writing

    @asynccontextmanager
    async def writing(self, job_id: str) -> AsyncIterator[None]:
        async with self._turn:
            self._writing[job_id] += 1
            self._quiet.clear()
        try:
            yield
        finally:
            self._writing[job_id] -= 1
            if not self._writing[job_id]:
                del self._writing[job_id]
            if not self._writing:
                self._quiet.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._turn:
            await self._quiet.wait()
            yield


class OwnedJobStore:
    """A job store, and a memory of one queue. Source: ``abc.JobStore``, ``abc.LogStore`` and ``abc.SupportsScan``.

    What another opened store saved is seen after ``trust_s`` or after a Conflict, not at once: that is the one promise
    which it does not keep. A save may be refused that the store would have taken, once.

    Units:  ``kept_bytes`` of records and documents; ``clock`` in seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        *,
        trust_s: float = 30.0,
        kept_bytes: int = 4 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._queue = store, queue
        self._trust_s, self._clock = trust_s, clock
        self._shelf = _Shelf(kept_bytes)
        self._heads = Heads()
        self._counts: _Counts | None = None
        self._counts_at = 0.0
        self._gate = _Gate()
        self._reading: dict[str, set[object]] = {}

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)

    @property
    def durability(self) -> str:
        return self._store.durability

    @property
    def _since(self) -> float:
        return self._clock() - self._trust_s

    # --- writing -----------------------------------------------------------------------------------------------------

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        if job.queue == self._queue:
            await to_the_end(self._save(job, expected, dict(documents or {})))
        else:
            await self._store.save(job, expected=expected, documents=documents)

    async def _save(self, job: Job, expected: int, documents: dict[str, bytes | None]) -> None:
        self._refuse_at_once(job.job_id, expected)
        async with self._changing(job.job_id, expected):
            await self._store.save(job, expected=expected, documents=documents)
            self._saved(job, expected, documents)

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        if queue == self._queue:
            await to_the_end(self._delete(job_id, expected))
        else:
            await self._store.delete(queue, job_id, expected=expected)

    async def _delete(self, job_id: str, expected: int) -> None:
        async with self._changing(job_id, expected):
            await self._store.delete(self._queue, job_id, expected=expected)
            before = self._before(job_id, expected)
            if before is None or before.state is not State.REMOVED:
                self._counts = None
            self._shelf.drop(job_id)
            self._heads.drop(job_id)

    def _refuse_at_once(self, job_id: str, expected: int) -> None:
        """A save over a version that is known to be another need not be tried; whether it is, the next load says."""
        entry = self._shelf.get(job_id)
        if entry is None or entry.job.version == expected or self._gate.is_writing(job_id):
            return
        entry.learned_at = -math.inf
        version = entry.job.version
        raise Conflict(f"job {clip(job_id)} has version {version}, not {expected}: somebody else changed it first")

    @asynccontextmanager
    async def _changing(self, job_id: str, expected: int) -> AsyncIterator[None]:
        """What is known follows the store, or goes: after an error nobody knows what is stored."""
        async with self._gate.writing(job_id):
            self._reading.pop(job_id, None)  # what reads it now is not to be kept
            try:
                yield
            except BaseException as error:
                if not isinstance(error, Conflict) or not self._explains(job_id, expected):
                    self._forget()
                self._shelf.drop(job_id)
                raise

    def _explains(self, job_id: str, expected: int) -> bool:
        """Is what is known in keeping with a Conflict: nothing is known of a job taken for new, or another version?"""
        entry = self._shelf.get(job_id)
        known = entry.job if entry is not None else self._heads.known(job_id)
        return expected == 0 if known is None else known.version != expected

    def _forget(self) -> None:
        self._heads.clear()
        self._counts = None

    def _before(self, job_id: str, expected: int) -> Job | None:
        """The record of this version, if it is known."""
        entry = self._shelf.get(job_id)
        job = entry.job if entry is not None else self._heads.known(job_id)
        return job if job is not None and job.version == expected else None

    def _saved(self, job: Job, expected: int, documents: dict[str, bytes | None]) -> None:
        entry = self._shelf.get(job.job_id)
        before = self._before(job.job_id, expected)
        if expected == 0:
            entry = _Entry(job=job, learned_at=self._clock(), is_whole=True)
        elif entry is None or entry.job.version != expected:
            entry = _Entry(job=job, learned_at=self._clock())
        entry.job, entry.learned_at = job, self._clock()
        entry.documents.update(documents)
        self._shelf.put(entry)
        self._recount(before, job, is_new=expected == 0)
        if job.state is State.QUEUED:
            self._heads.put(job)
        else:
            self._heads.drop(job.job_id)

    def _recount(self, before: Job | None, job: Job, *, is_new: bool) -> None:
        if self._counts is None:
            return
        if before is None and not is_new:
            self._counts = None
            return
        shape = job.requirements.shape
        if job.state is State.QUEUED and (State.QUEUED, shape) not in self._counts:
            self._heads.learn(shape, (), is_all=True, at=self._counts_at)
        if before is not None:
            _shift(self._counts, before, -1)
        _shift(self._counts, job, +1)
        if min(self._counts.values(), default=0) < 0:
            self._counts = None

    @property
    def _is_trusted(self) -> bool:
        return self._counts_at >= self._since

    # --- reading -----------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        if queue != self._queue:
            return await self._store.load(queue, job_id)
        entry = self._shelf.get(job_id)
        if entry is not None and entry.learned_at >= self._since:
            return entry.job
        async with self._keeping(job_id) as is_fresh:
            job, documents = await self._read(job_id)
            if is_fresh():
                self._learn_record(job_id, job, documents)
        return job

    async def _read(self, job_id: str) -> tuple[Job | None, dict[str, bytes] | None]:
        """The record, and all its documents if they come with it."""
        if not isinstance(self._store, SupportsWhole):
            return await self._store.load(self._queue, job_id), None
        return await self._store.whole(self._queue, job_id) or (None, None)

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        if queue != self._queue:
            return await self._store.document(queue, job_id, name)
        entry = self._shelf.get(job_id)
        if entry is not None and entry.learned_at >= self._since and (entry.is_whole or name in entry.documents):
            return entry.documents.get(name)
        async with self._keeping(job_id) as is_fresh:
            data = await self._store.document(queue, job_id, name)
            if is_fresh() and entry is not None and self._shelf.get(job_id) is entry:
                entry.documents[name] = data
                self._shelf.put(entry)
        return data

    @asynccontextmanager
    async def _keeping(self, job_id: str) -> AsyncIterator[Callable[[], bool]]:
        """Shape: gives what tells whether the job has not been written since, here."""
        mark = object()
        if not self._gate.is_writing(job_id):
            self._reading.setdefault(job_id, set()).add(mark)
        try:
            yield lambda: mark in self._reading.get(job_id, ())
        finally:
            marks = self._reading.get(job_id, set())
            marks.discard(mark)
            if not marks:
                self._reading.pop(job_id, None)

    def _learn_record(self, job_id: str, job: Job | None, documents: dict[str, bytes] | None) -> None:
        if job is None:
            if self._shelf.get(job_id) is not None or self._heads.known(job_id) is not None:
                self._forget()
            self._shelf.drop(job_id)
            return
        entry = self._shelf.get(job_id)
        known = entry.job if entry is not None else self._heads.known(job_id)
        if known is not None and known.version != job.version:  # somebody else has written
            self._forget()
        if entry is None or entry.job.version != job.version:
            entry = _Entry(job=job, learned_at=self._clock())
        if documents is not None:
            entry.documents, entry.is_whole = {**documents}, True
        entry.job, entry.learned_at = job, self._clock()
        self._shelf.put(entry)

    async def counts(self, queue: str | None) -> _Counts:
        if queue != self._queue:
            return await self._store.counts(queue)
        if self._counts is None or not self._is_trusted:
            async with self._gate.alone():
                if self._counts is None or not self._is_trusted:
                    at = self._clock()
                    self._counts = await self._store.counts(queue)
                    self._counts_at = at
                return dict(self._counts)
        return dict(self._counts)

    async def _first(self, shape: str, limit: int) -> list[Job]:
        found = self._heads.first(shape, limit, self._since)
        if found is not None:
            return found
        async with self._gate.alone():
            found = self._heads.first(shape, limit, self._since)
            if found is None:
                at, wanted = self._clock(), max(_HEADS, limit + _HEADS // 2)
                jobs = await self._read_heads(shape, wanted, at)
                self._heads.learn(shape, jobs, is_all=len(jobs) < wanted, at=at)
                found = jobs[:limit]
            return found

    async def _read_heads(self, shape: str, limit: int, at: float) -> list[Job]:
        if not isinstance(self._store, SupportsWhole):
            return await self._store.list(self._queue, states=(State.QUEUED,), shape=shape, limit=limit)
        found = await self._store.heads(self._queue, shape, limit)
        for job, documents in reversed(found):
            self._shelf.put(_Entry(job=job, learned_at=at, documents={**documents}, is_whole=True))
        return [job for job, _ in found]

    # --- passed on ---------------------------------------------------------------------------------------------------

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return await self._store.in_namespace(queue, namespace, limit=limit)

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return await self._store.find(job_id, limit=limit)

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return await self._store.due(before, limit=limit)

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        return await self._store.scan(cursor=cursor, limit=limit)

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        return await self._store.append_log(queue, job_id, attempt=attempt, half=half, lines=lines)

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        return await self._store.read_log(queue, job_id, half=half, since=since, max_bytes=max_bytes)

    async def drop_log(self, queue: str, job_id: str) -> None:
        await self._store.drop_log(queue, job_id)

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        is_from_the_start = set(states) == {State.QUEUED} and after is None
        if queue == self._queue and shape is not None and is_from_the_start and limit <= _HEADS * 2:
            return await self._first(shape, limit)
        return await self._store.list(queue, states=states, shape=shape, limit=limit, after=after)


def _shift(counts: _Counts, job: Job, by: int) -> None:
    if job.state is State.REMOVED:
        return
    key = (job.state, job.requirements.shape)
    counts[key] = counts.get(key, 0) + by
    if not counts[key]:
        del counts[key]
