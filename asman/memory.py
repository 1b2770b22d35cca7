"""Everything in memory, for tests, demonstrations and the edge: the URL ``memory:``.

Owns a job store, a blob store and a notifier of one process; all is gone when the process ends. Refuses to be
shared: two apps that open ``memory:`` see nothing of each other. Plain dictionaries and sorted keys, no threads and
no clock, so it runs where Python runs. Each method does its work without waiting in between, which is what makes
every save one step.

An event costs the logarithm of the queue, not its length: each index is a sorted run of keys in small buckets.
"""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from types import TracebackType
from typing import Any, Self

from asman.abc import BlobInfo, LogHalf, LogSlice
from asman.config import Config
from asman.errors import BlobNotFound, Conflict, HashMismatch, LimitExceeded, clip
from asman.hookspecs import hookimpl
from asman.job import Job, State

__all__ = ["MemoryBlobStore", "MemoryJobStore", "MemoryNotifier"]

_log = logging.getLogger(__name__)

_BUCKET = 512
_LOG_HALF_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20

_Key = tuple[Any, ...]


class _Ordered:
    """Distinct keys in order. Adding, removing and finding a place touch one bucket."""

    __slots__ = ("_buckets", "_lasts")

    def __init__(self) -> None:
        self._buckets: list[list[_Key]] = []
        self._lasts: list[_Key] = []

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def add(self, key: _Key) -> None:
        if not self._buckets:
            self._buckets.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._buckets) - 1)
        bucket = self._buckets[at]
        insort(bucket, key)
        self._lasts[at] = bucket[-1]
        if len(bucket) > _BUCKET:
            half = len(bucket) // 2
            self._buckets[at : at + 1] = [bucket[:half], bucket[half:]]
            self._lasts[at : at + 1] = [bucket[half - 1], bucket[-1]]

    def remove(self, key: _Key) -> None:
        at = bisect_left(self._lasts, key)
        bucket = self._buckets[at]
        del bucket[bisect_left(bucket, key)]
        if bucket:
            self._lasts[at] = bucket[-1]
        else:
            del self._buckets[at], self._lasts[at]

    def behind(self, key: _Key) -> Iterator[_Key]:
        """Keys greater than this one; the empty key is before all."""
        at = bisect_right(self._lasts, key)
        for number in range(at, len(self._buckets)):
            bucket = self._buckets[number]
            yield from islice(bucket, bisect_right(bucket, key) if number == at else 0, None)


class _Opened:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


# --- jobs ------------------------------------------------------------------------------------------------------------


class MemoryJobStore(_Opened):
    """Job records, documents and log lines in dictionaries.

    Source: ``abc.JobStore``, ``abc.LogStore`` and ``abc.SupportsScan``.
    """

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], Job] = {}
        self._documents: dict[tuple[str, str], dict[str, bytes]] = {}
        self._logs: dict[tuple[str, str], _Log] = {}
        self._indexes: dict[_Key, _Ordered] = {}
        self._counts: dict[str | None, Counter[tuple[State, str]]] = {None: Counter()}

    @property
    def durability(self) -> str:
        return "memory"

    async def load(self, queue: str, job_id: str) -> Job | None:
        return self._jobs.get((queue, job_id))

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        before = self._checked(job.queue, job.job_id, expected)
        self._reindex(before, job)
        self._jobs[job.queue, job.job_id] = job
        kept = self._documents.setdefault((job.queue, job.job_id), {})
        for name, data in (documents or {}).items():
            if data is None:
                kept.pop(name, None)
            else:
                kept[name] = bytes(data)

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        return self._documents.get((queue, job_id), {}).get(name)

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        if (queue, job_id) not in self._jobs:
            return
        self._reindex(self._checked(queue, job_id, expected), None)
        del self._jobs[queue, job_id]
        self._documents.pop((queue, job_id), None)
        self._logs.pop((queue, job_id), None)

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        keys = self._behind(("namespace", queue, namespace), ())
        return [self._jobs[queue, job_id] for _, job_id in islice(keys, limit)]

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        keys = self._behind(("job", job_id), ())
        return [self._jobs[queue, job_id] for _, queue in islice(keys, limit)]

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        found: list[Job] = []
        for due_at, queue, job_id in islice(self._behind(("due",), ()), limit):
            if due_at > before:
                break
            found.append(self._jobs[queue, job_id])
        return found

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        keys = list(islice(self._behind(("all",), tuple(json.loads(cursor)) if cursor else ()), limit))
        jobs = [self._jobs[queue, job_id] for queue, job_id in keys]
        return jobs, json.dumps(keys[-1]) if len(keys) == limit else ""

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        return dict(self._counts.get(queue, {}))

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        if (queue, job_id) not in self._jobs:
            return 0
        log = self._logs.get((queue, job_id))
        if log is None or attempt > log.attempt:
            if not lines:
                return 0
            log = self._logs[queue, job_id] = _Log(attempt=attempt)
        kept = log.halves.setdefault(half, _Half())
        if attempt == log.attempt:
            for line in lines:
                kept.append(line)
        return kept.total

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        log = self._logs.get((queue, job_id))
        if log is None or half not in log.halves:
            return LogSlice(attempt=log.attempt if log else 0, start=0, lines=(), total=0)
        kept = log.halves[half]
        start, lines = kept.read(since, max_bytes)
        return LogSlice(attempt=log.attempt, start=start, lines=tuple(lines), total=kept.total)

    async def drop_log(self, queue: str, job_id: str) -> None:
        self._logs.pop((queue, job_id), None)

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        names = [("state", queue, s) if shape is None else ("shape", queue, s, shape) for s in set(states)]
        keys = merge(*(self._behind(name, after or ()) for name in names))
        return [self._jobs[queue, job_id] for _, job_id in islice(keys, limit)]

    def _checked(self, queue: str, job_id: str, expected: int) -> Job | None:
        before = self._jobs.get((queue, job_id))
        stored = before.version if before else 0
        if stored != expected:
            raise Conflict(f"job {clip(job_id)} has version {stored}, not {expected}: somebody else changed it first")
        return before

    def _behind(self, name: _Key, after: _Key) -> Iterator[_Key]:
        index = self._indexes.get(name)
        return index.behind(after) if index else iter(())

    def _reindex(self, before: Job | None, after: Job | None) -> None:
        old, new = _index_keys(before), _index_keys(after)
        for name, key in old - new:
            index = self._indexes[name]
            index.remove(key)
            if not index:
                del self._indexes[name]
        for name, key in new - old:
            self._indexes.setdefault(name, _Ordered()).add(key)
        self._count(before, -1)
        self._count(after, +1)

    def _count(self, job: Job | None, by: int) -> None:
        if job is None or job.state is State.REMOVED:
            return
        what = (job.state, job.requirements.shape)
        for queue in (None, job.queue):
            counter = self._counts.setdefault(queue, Counter())
            counter[what] += by
            if not counter[what]:
                del counter[what]
        if not self._counts[job.queue]:
            del self._counts[job.queue]


def _index_keys(job: Job | None) -> set[tuple[_Key, _Key]]:
    """Every (index, key) under which a record is found."""
    if job is None:
        return set()
    place = (job.queued_at, job.job_id)
    keys: set[tuple[_Key, _Key]] = {
        (("state", job.queue, job.state), place),
        (("shape", job.queue, job.state, job.requirements.shape), place),
        (("job", job.job_id), (job.queued_at, job.queue)),
        (("due",), (job.due_at, job.queue, job.job_id)),
        (("all",), (job.queue, job.job_id)),
    }
    if job.is_active:
        keys.update((("namespace", job.queue, name), place) for name in job.namespace_names)
    return keys


@dataclass(slots=True)
class _Half:
    """The first and the last lines of one half; what does not fit is dropped from the middle.

    Shape: the head holds lines 0 to ``len(head)``; the tail is ``tail[gone:]`` and ends with line ``total - 1``.
    """

    head: list[bytes] = field(default_factory=list)
    head_bytes: int = 0
    is_head_full: bool = False
    tail: list[bytes] = field(default_factory=list)
    tail_bytes: int = 0
    gone: int = 0
    total: int = 0

    def append(self, line: bytes) -> None:
        self.total += 1
        if not self.is_head_full and self.head_bytes + len(line) <= _LOG_HALF_BYTES:
            self.head.append(line)
            self.head_bytes += len(line)
            return
        self.is_head_full = True
        self.tail.append(line)
        self.tail_bytes += len(line)
        while self.tail_bytes > _LOG_HALF_BYTES:
            self.tail_bytes -= len(self.tail[self.gone])
            self.tail[self.gone] = b""
            self.gone += 1
        if self.gone > 1024 and self.gone * 2 > len(self.tail):
            del self.tail[: self.gone]
            self.gone = 0

    def read(self, since: int, max_bytes: int) -> tuple[int, list[bytes]]:
        since = min(max(since, 0), self.total)
        if since < len(self.head):
            return since, _up_to(islice(self.head, since, None), max_bytes)
        first = self.total - (len(self.tail) - self.gone)
        start = max(since, first)
        return start, _up_to(islice(self.tail, self.gone + start - first, None), max_bytes)


def _up_to(lines: Iterator[bytes], max_bytes: int) -> list[bytes]:
    """Lines until they fill ``max_bytes``, but at least one: a reader must get on."""
    taken: list[bytes] = []
    for line in lines:
        max_bytes -= len(line)
        if max_bytes < 0 and taken:
            break
        taken.append(line)
    return taken


@dataclass(slots=True)
class _Log:
    attempt: int
    halves: dict[LogHalf, _Half] = field(default_factory=dict)


# --- blobs -----------------------------------------------------------------------------------------------------------


class MemoryBlobStore(_Opened):
    """Blobs as byte strings: memory grows with what is stored. Source: ``abc.BlobStore``."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[BlobInfo, bytes]] = {}
        self._expiries = _Ordered()

    async def put(
        self,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        expires_at: float,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> BlobInfo:
        parts: list[bytes] = []
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise LimitExceeded(f"blob {clip(key)} is larger than {max_bytes} bytes, which is all that is allowed")
            parts.append(bytes(chunk))
        data = b"".join(parts)
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256:
            raise HashMismatch(f"the bytes for blob {clip(key)} have the sha256 {digest}, not {sha256}")
        present = self._blobs.get(key)
        if present is None:
            self._keep(BlobInfo(key=key, size_bytes=size, sha256=digest, expires_at=expires_at), data)
        elif present[0].sha256 != digest:
            raise Conflict(f"blob {clip(key)} exists with other bytes; a blob never changes, use another key")
        else:
            await self.extend(key, expires_at)
        return self._blobs[key][0]

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        if key not in self._blobs:
            raise BlobNotFound(f"no blob {clip(key)}")
        data = self._blobs[key][1]
        return _pieces(data, start, len(data) if stop is None else min(stop, len(data)))

    async def stat(self, key: str) -> BlobInfo | None:
        found = self._blobs.get(key)
        return found[0] if found else None

    async def extend(self, key: str, expires_at: float) -> None:
        found = self._blobs.get(key)
        if found is None or expires_at <= found[0].expires_at:
            return
        info, data = found
        await self.delete(key)
        self._keep(BlobInfo(key=key, size_bytes=info.size_bytes, sha256=info.sha256, expires_at=expires_at), data)

    async def delete(self, key: str) -> None:
        found = self._blobs.pop(key, None)
        if found is not None:
            self._expiries.remove((found[0].expires_at, key))

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        expired = []
        for expires_at, key in islice(self._expiries.behind(()), limit):
            if expires_at >= before:
                break
            expired.append(key)
        for key in expired:
            await self.delete(key)
        return len(expired)

    def _keep(self, info: BlobInfo, data: bytes) -> None:
        self._blobs[info.key] = (info, data)
        self._expiries.add((info.expires_at, info.key))


async def _pieces(data: bytes, start: int, stop: int) -> AsyncIterator[bytes]:
    for at in range(start, stop, _CHUNK_BYTES):
        yield data[at : min(at + _CHUNK_BYTES, stop)]


# --- notifier --------------------------------------------------------------------------------------------------------


class MemoryNotifier(_Opened):
    """Messages within one process, delivered before ``publish`` returns. Source: ``abc.Notifier``."""

    is_alone = True

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Callable[[bytes], None]]] = {}

    def is_heard(self, topic: str) -> bool:
        return topic in self._subscribers

    async def publish(self, topic: str, data: bytes) -> None:
        for deliver in tuple(self._subscribers.get(topic, ())):
            try:
                deliver(data)
            except Exception:
                _log.exception("a subscriber failed", extra={"topic": topic})

    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        self._subscribers.setdefault(topic, []).append(deliver)

    async def unsubscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        present = self._subscribers.get(topic, [])
        if deliver in present:
            present.remove(deliver)
        if not present:
            self._subscribers.pop(topic, None)


# --- hooks: this module is a plugin ----------------------------------------------------------------------------------


@hookimpl
def asman_job_store(url: str, config: Config) -> MemoryJobStore | None:
    return MemoryJobStore() if url == "memory:" else None


@hookimpl
def asman_blob_store(url: str, config: Config) -> MemoryBlobStore | None:
    return MemoryBlobStore() if url == "memory:" else None


@hookimpl
def asman_notifier(url: str, config: Config) -> MemoryNotifier | None:
    return MemoryNotifier() if url == "memory:" else None


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"memory": "jobs, blobs and notifications in this process, gone when it ends"}
