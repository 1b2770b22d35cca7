"""Reading an archive into a store. What is there already is left alone, and nothing is made worse.

Each job is one save: its record and documents together, after its blobs, before its logs; it is checked before anything
of it is stored. So an import that ends anywhere has stored whole jobs only, and the same import again goes on with it.

Whether the record in the archive or the one in the store stands is ``decide``'s to say, and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from uuid import uuid4

from asman.abc import BlobStore, JobStore, LogHalf, LogStore
from asman.archive import BLOB, JOB, ArchiveItem, ArchiveReader, split_job
from asman.documents import DEFINITION, INLINE_BYTES, RESULT, blob_key, pointer_to
from asman.errors import BadArchive, Conflict, HashMismatch, clip
from asman.identity import is_content_key
from asman.job import Job, Reason, State

__all__ = ["Imported", "Importer", "Verdict", "decide"]

_AT_ONCE = 64
"""Jobs that are saved together: stores with group commit write them in one go."""
_AT_ONCE_BYTES = 8 << 20
_TRIES = 8
_LOG_HALF_BYTES = 4 << 20
_FILLERS_AT_ONCE = 20_000
_FILLER = b'["",0]'

_Progress = Callable[[int, int], None]
"""Called with jobs and bytes so far."""


# --- which record stands ---------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    WRITTEN = "written"
    PRESENT = "present"
    KEPT = "kept"


def decide(present: Job | None, coming: Job, now: float) -> tuple[Verdict, Job]:
    """Which of two records of one job stands: the store's or the archive's.

    A stored result that lives gives way only to a newer one. A result from the archive takes the place of a record
    that still waits or runs (or was given up because its worker was lost), unless the job was started anew since. Else
    the higher version stands, and of equals the store's.

    Shape:  with WRITTEN, what is to be saved. Its version, generation and attempt are never below the store's, so
            that whoever holds the job by the store's record is refused.
    """
    if present is None:
        return Verdict.WRITTEN, coming
    if _untimed(present) == _untimed(coming):
        return Verdict.PRESENT, present
    if not _stands_above(coming, present, now):
        return Verdict.KEPT, present
    merged = replace(
        coming,
        version=max(coming.version, present.version + 1),
        generation=max(coming.generation, present.generation),
        attempt=max(coming.attempt, present.attempt),
    )
    return Verdict.WRITTEN, merged


def _stands_above(coming: Job, present: Job, now: float) -> bool:
    brings_result, has_result = _lives(coming, now), _lives(present, now)
    if has_result:
        return brings_result and coming.version > present.version
    waits = present.is_active or present.reason is Reason.WORKER_LOST
    if brings_result and waits and coming.generation >= present.generation:
        return True
    return coming.version > present.version


def _lives(job: Job, now: float) -> bool:
    return job.has_result and not job.is_expired(now)


def _untimed(job: Job) -> Job:
    """The record without what importing it changes."""
    return replace(job, lease_until=None, lost=0) if job.state is State.RUNNING else job


def _with_new_term(job: Job, now: float, lease_s: float, max_attempts: int) -> Job:
    """A running job's worker gets a full term to be heard of again, as after a restart of the server.

    If it is not heard of, the job waits again: a lease that lapses because of the move is not the one that ends it.
    """
    if job.state is not State.RUNNING:
        return job
    return replace(job, lease_until=now + lease_s, lost=min(job.lost, max(max_attempts - 2, 0)))


# --- importing -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Imported:
    """What an import did.

    Shape:  each job is one of ``written``, ``present`` (the same version was there) and ``kept`` (the store's own
            record stands). ``blobs`` were stored, ``blobs_present`` were there. ``refused`` are (blob, why): another
            blob has its name, or its bytes are not those that its name says.
    """

    written: int = 0
    present: int = 0
    kept: int = 0
    blobs: int = 0
    blobs_present: int = 0
    log_lines: int = 0
    size_bytes: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        return self.written + self.present + self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    attempt: int
    half: LogHalf
    start: int
    total: int
    lines: list[bytes]


@dataclass(slots=True, kw_only=True)
class _Unit:
    """A job and those of its log lines that came right behind it."""

    job: Job
    documents: dict[str, bytes]
    logs: list[_Lines] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.job.queue, self.job.job_id


@dataclass(slots=True, kw_only=True)
class Importer:
    """Stores what an archive holds.

    Units:  ``clock`` in seconds since the epoch; ``lease_s`` is the term that running jobs get.
    """

    jobs: JobStore
    logs: LogStore
    blobs: BlobStore
    clock: Callable[[], float]
    lease_s: float
    max_attempts: int
    progress: _Progress = lambda jobs, size_bytes: None
    done: Imported = field(default_factory=Imported)
    _units: list[_Unit] = field(default_factory=list)
    _units_bytes: int = 0
    _last: _Unit | None = None

    async def run(self, reader: ArchiveReader) -> Imported:
        """Store everything up to the end mark.

        Errors: BadArchive when the archive is cut or damaged: what stood before that is stored then. Unavailable,
                StorageFull; the same import again goes on.
        """
        try:
            await reader.start()
            async for item in reader.items():
                await self._take(item)
                self.done.size_bytes = reader.consumed
                self.progress(self.done.jobs, reader.consumed)
        except BadArchive:
            await self._flush()
            raise
        await self._flush()
        self.done.size_bytes = reader.consumed
        return self.done

    async def _take(self, item: ArchiveItem) -> None:
        if item.kind == BLOB:
            await self._take_blob(item)
            return
        body = await item.read()
        if item.kind == JOB:
            job, documents = split_job(item.members, body)
            self._last = _Unit(job=job, documents=documents)
            if any(unit.place == self._last.place for unit in self._units):
                await self._flush()
            self._units.append(self._last)
        else:
            await self._take_lines(item, body)
        self._units_bytes += len(body)
        if len(self._units) >= _AT_ONCE or self._units_bytes >= _AT_ONCE_BYTES:
            await self._flush()

    async def _take_lines(self, item: ArchiveItem, body: bytes) -> None:
        members = item.members
        lines = body.split(b"\n") if members["lines"] else []
        if self._last is None or self._last.place != (members["queue"], members["job_id"]):
            raise BadArchive(f"log lines of job {clip(members['job_id'])} do not stand behind the job")
        if len(lines) != members["lines"] or members["start"] + len(lines) > members["total"]:
            raise BadArchive(f"log lines of job {clip(members['job_id'])} are not as many as their item says")
        found = _Lines(lines=lines, **{name: members[name] for name in ("attempt", "half", "start", "total")})
        if self._last.verdict is None:
            self._last.logs.append(found)
        elif self._last.verdict is not Verdict.KEPT:
            await self._append(self._last, found)

    async def _flush(self) -> None:
        units, self._units, self._units_bytes = self._units, [], 0
        await _all_of([self._store(unit) for unit in units])
        self.progress(self.done.jobs, self.done.size_bytes)

    # --- one job -----------------------------------------------------------------------------------------------------

    async def _store(self, unit: _Unit) -> None:
        now = self.clock()
        coming = _with_new_term(unit.job, now, self.lease_s, self.max_attempts)
        for tried in range(_TRIES):
            present = await self.jobs.load(*unit.place)
            verdict, job = decide(present, coming, now)
            if verdict is not Verdict.WRITTEN:
                break
            try:
                await self._save(job, present, unit.documents)
                break
            except Conflict:
                if tried + 1 == _TRIES:
                    raise
        unit.verdict = verdict
        setattr(self.done, verdict.value, getattr(self.done, verdict.value) + 1)
        if verdict is Verdict.WRITTEN and present is not None:
            await self.logs.drop_log(*unit.place)
        for lines in unit.logs if verdict is not Verdict.KEPT else ():
            await self._append(unit, lines)
        unit.documents, unit.logs = {}, []

    async def _save(self, job: Job, present: Job | None, documents: dict[str, bytes]) -> None:
        names = (DEFINITION, RESULT)
        replaced = [await self.jobs.document(job.queue, job.job_id, name) for name in names] if present else []
        packed: dict[str, bytes | None] = dict.fromkeys(names) if present else {}
        try:
            for name, data in documents.items():
                packed[name] = await self._pack(name, data, job.expires_at)
            await self.jobs.save(job, expected=present.version if present else 0, documents=packed)
        except Conflict:
            await self._drop(packed.values())
            raise
        await self._drop(replaced)

    async def _pack(self, name: str, data: bytes, expires_at: float) -> bytes:
        """As ``documents.pack``: beside the record while small, else in a blob of its own."""
        if len(data) <= INLINE_BYTES:
            return data
        key = f"_{name}-{uuid4().hex}"
        await self.blobs.put(key, _once(data), expires_at=expires_at)
        return pointer_to(key)

    async def _drop(self, kept: Any) -> None:
        for key in filter(None, map(blob_key, kept)):
            await self.blobs.delete(key)

    # --- log lines ---------------------------------------------------------------------------------------------------

    async def _append(self, unit: _Unit, given: _Lines) -> None:
        """Add the lines that are not there yet. Lines that the other store had dropped are dropped here too."""
        there = await self.logs.read_log(*unit.place, half=given.half, max_bytes=1)
        total = there.total if there.attempt == given.attempt else 0
        if there.attempt > given.attempt:
            return
        for fillers in _fillers(given.start - total):
            total = await self._add(unit, given, fillers)
        wanted = given.lines[max(total - given.start, 0) :]
        if wanted:
            await self._add(unit, given, wanted)
            self.done.log_lines += len(wanted)

    async def _add(self, unit: _Unit, given: _Lines, lines: list[bytes]) -> int:
        queue, job_id = unit.place
        return await self.logs.append_log(queue, job_id, attempt=given.attempt, half=given.half, lines=lines)

    # --- one blob ----------------------------------------------------------------------------------------------------

    async def _take_blob(self, item: ArchiveItem) -> None:
        key, expires_at = item.members["key"], float(item.members["expires_at"])
        if is_content_key(key):
            found = await self.blobs.stat(key)
            if found is not None and found.size_bytes == item.size:
                await self.blobs.extend(key, expires_at)
                self.done.blobs_present += 1
                return
        try:
            sha256 = key if is_content_key(key) else None
            await self.blobs.put(key, self._watched(item), expires_at=expires_at, sha256=sha256)
        except (Conflict, HashMismatch) as error:
            self.done.refused.append((key, error.message))
        else:
            self.done.blobs += 1

    async def _watched(self, item: ArchiveItem) -> AsyncIterator[bytes]:
        seen = self.done.size_bytes
        async for chunk in item.chunks():
            seen += len(chunk)
            self.progress(self.done.jobs, seen)
            yield chunk


def _fillers(gap: int) -> Iterator[list[bytes]]:
    """Lines that take the place of ``gap`` dropped ones and are dropped in their turn: none of them stays.

    A log keeps the first and the last 4 MiB of a half. A line that is larger by itself fits neither: the first one
    closes the head, so that nothing of the gap lands there; the last one pushes all before it out of the tail.
    """
    if gap <= 0:
        return
    huge = b'["' + b"x" * _LOG_HALF_BYTES + b'",0]'
    yield [huge]
    for left in range(gap - 2, 0, -_FILLERS_AT_ONCE):
        yield [_FILLER] * min(left, _FILLERS_AT_ONCE)
    if gap > 1:
        yield [huge]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _all_of(work: list[Coroutine[Any, Any, None]]) -> None:
    """Do it at once and wait for all of it; the first failure is told after that."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
