"""Reading a store out: every record with its documents, logs and blobs, as the items of one archive.

Nothing is locked and nothing is changed: a server may go on meanwhile. Each job comes out as it was at one moment
(record and documents of one version); different jobs may be of different moments. What is exported again later is told
apart by the version, so a second export brings what happened since.

Blobs stand before the first job that refers to them, so that an importer never has a job without its files. Which
blobs a job refers to is decided by its definition (inputs) and its result (outputs), nothing else; a blob that no job
refers to is not exported.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asman.abc import BlobInfo, BlobStore, JobStore, LogHalf, LogSlice, LogStore, SupportsScan
from asman.archive import BLOB, JOB, LOG, ArchiveReader, ArchiveWriter, Counts, join_job
from asman.definition import referred_blobs
from asman.documents import DEFINITION, RESULT, blob_key
from asman.errors import AsmanError, BadArchive, BlobNotFound, ConfigError, Unavailable, clip
from asman.identity import is_content_key
from asman.job import Job, State
from asman.operations import output_keys

__all__ = ["Exported", "Exporter", "Resumable", "read_partial"]

_PAGE = 500
_AT_ONCE = 8
"""Jobs whose documents and logs are read together; each may have 2 MiB of logs in memory."""
_TRIES = 20
_BLOB_TRIES = 4
_REMEMBERED = 200_000
_HALVES: tuple[LogHalf, ...] = ("build", "run")
_STATES = tuple(state for state in State if state is not State.ABSENT)

_Progress = Callable[[int, int], None]
"""Called with jobs and bytes so far."""


@dataclass(slots=True)
class Exported:
    """What an export did. Shape: ``jobs``, ``logs``, ``blobs`` and ``size_bytes`` are those of the whole archive.

    ``present`` jobs were in the archive already, from before it was cut. ``missing`` blobs are referred to but gone;
    ``damaged`` ones are in the archive, but their bytes are not those that their key names.
    """

    jobs: int = 0
    logs: int = 0
    blobs: int = 0
    size_bytes: int = 0
    present: int = 0
    missing: int = 0
    damaged: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Resumable:
    """What a cut archive holds. Shape: ``jobs`` are marks of records, 16 bytes each; ``blobs`` are keys."""

    queues: list[str] = field(default_factory=list)
    jobs: set[bytes] = field(default_factory=set)
    blobs: list[str] = field(default_factory=list)
    position: int = 0
    counts: Counts = field(default_factory=Counts)
    is_whole: bool = False


def _mark(queue: str, job_id: str, version: int) -> bytes:
    return hashlib.blake2b(f"{queue}\n{job_id}\n{version}".encode(), digest_size=16).digest()


async def read_partial(reader: ArchiveReader) -> Resumable:
    """What an export that was cut has in it already; everything is checked on the way.

    The last job does not count: whether its logs are complete cannot be told.
    Errors: BadArchive if it is damaged, rather than cut.
    """
    found = Resumable()
    last = b""
    try:
        found.queues = list((await reader.start())["queues"])
        async for item in reader.items():
            async for _ in item.chunks():
                pass  # only what is whole counts
            if item.kind == JOB:
                last = _mark(*(item.members[name] for name in ("queue", "job_id", "version")))
                found.jobs.add(last)
            elif item.kind == BLOB:
                found.blobs.append(item.members["key"])
    except BadArchive:
        if not reader.is_cut:
            raise
    if not reader.is_whole:
        found.jobs.discard(last)
    found.position, found.counts, found.is_whole = reader.position, reader.counts, reader.is_whole
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One job as it was at one moment. Shape: ``logs`` are the first slices of both halves."""

    job: Job
    documents: dict[str, bytes]
    logs: dict[LogHalf, LogSlice]


@dataclass(slots=True, kw_only=True)
class Exporter:
    """Writes the jobs of some queues, or of the whole store, into an archive.

    Shape:  without ``queues`` everything. ``known`` is what a cut archive has already.
    Units:  ``now`` in seconds since the epoch: blobs that have expired by then are left out.
    """

    jobs: JobStore
    logs: LogStore
    blobs: BlobStore
    writer: ArchiveWriter
    now: float
    queues: Sequence[str] = ()
    known: Resumable = field(default_factory=Resumable)
    progress: _Progress = lambda jobs, size_bytes: None
    done: Exported = field(default_factory=Exported)
    _recent: dict[str, None] = field(default_factory=dict)

    async def run(self, by: str) -> Exported:
        """Write everything and the end mark.

        Errors: ConfigError if the whole store is asked for and cannot be read through; Unavailable, and whatever
                writing raises: the archive is cut then, and another export can go on with it.
        """
        for key in self.known.blobs:
            self._remember(key)
        if not self.writer.position:
            await self.writer.start(at=self.now, by=by, queues=self.queues)
        async for page in self._pages():
            for at in range(0, len(page), _AT_ONCE):
                await self._write_together(page[at : at + _AT_ONCE])
        await self.writer.end()
        counts = self.writer.counts
        self.done.jobs, self.done.logs, self.done.blobs = counts.jobs, counts.logs, counts.blobs
        self.done.size_bytes = self.writer.position
        return self.done

    async def _pages(self) -> AsyncIterator[list[Job]]:
        if not self.queues:
            async for page in _scan(self.jobs):
                yield page
        for queue in self.queues:
            after: tuple[float, str] | None = None
            while page := await self.jobs.list(queue, states=_STATES, limit=_PAGE, after=after):
                yield page
                after = (page[-1].queued_at, page[-1].job_id)

    async def _write_together(self, page: list[Job]) -> None:
        wanted = [job for job in page if _mark(job.queue, job.job_id, job.version) not in self.known.jobs]
        self.done.present += len(page) - len(wanted)
        for copy in await asyncio.gather(*map(self._copy, wanted)):
            if copy is not None:
                await self._write(copy)
        self.progress(self.writer.counts.jobs, self.writer.position)

    # --- reading one job ---------------------------------------------------------------------------------------------

    async def _copy(self, job: Job) -> _Copy | None:
        """The job with what belongs to it; read again until nobody has changed it meanwhile. None if it has gone."""
        for _ in range(_TRIES):
            names = (DEFINITION, RESULT)
            found = await asyncio.gather(*(self._document(job, name) for name in names))
            documents = {name: data for name, data in zip(names, found, strict=True) if data is not None}
            slices = await asyncio.gather(*(self._slice(job, half, 0) for half in _HALVES))
            now = await self.jobs.load(job.queue, job.job_id)
            if now is None:
                return None
            if now.version == job.version:
                return _Copy(job=now, documents=documents, logs=dict(zip(_HALVES, slices, strict=True)))
            job = now
        raise Unavailable(f"job {clip(job.job_id)} changes faster than it can be read; export again")

    async def _document(self, job: Job, name: str) -> bytes | None:
        kept = await self.jobs.document(job.queue, job.job_id, name)
        key = blob_key(kept)
        if key is None:
            return kept
        try:
            return b"".join([chunk async for chunk in await self.blobs.get(key)])
        except BlobNotFound:
            return None

    async def _slice(self, job: Job, half: LogHalf, since: int) -> LogSlice:
        return await self.logs.read_log(job.queue, job.job_id, half=half, since=since)

    # --- writing one job ---------------------------------------------------------------------------------------------

    async def _write(self, copy: _Copy) -> None:
        definition, result = (_decoded(copy.documents.get(name)) for name in (DEFINITION, RESULT))
        for key in dict.fromkeys([*referred_blobs(definition), *output_keys(result)]):
            await self._write_blob(key)
        members, parts = join_job(copy.job, copy.documents)
        await self.writer.put(JOB, members, *parts)
        for half in _HALVES:
            await self._write_log(copy, half)

    async def _write_log(self, copy: _Copy, half: LogHalf) -> None:
        """All lines of one half. An item without lines says that there were more, which are not kept."""
        found, since = copy.logs[half], 0
        attempt = found.attempt
        while found.attempt == attempt and since < found.total:
            start = max(found.start, since) if found.lines else found.total
            members = {"queue": copy.job.queue, "job_id": copy.job.job_id, "attempt": attempt, "half": half}
            body = b"\n".join(line.replace(b"\n", b" ") for line in found.lines)
            counted = {"start": start, "lines": len(found.lines), "total": found.total}
            await self.writer.put(LOG, {**members, **counted}, body)
            since = start + len(found.lines)
            if since < found.total:
                found = await self._slice(copy.job, half, since)

    async def _write_blob(self, key: str) -> None:
        if key in self._recent:
            return
        info = await self.blobs.stat(key)
        if info is None or info.expires_at <= self.now:
            self.done.missing += 1
            self._remember(key)
            return
        digest = hashlib.sha256()
        members = {"key": key, "expires_at": info.expires_at}
        await self.writer.stream(BLOB, members, info.size_bytes, self._chunks(info, digest.update))
        self._remember(key)
        if is_content_key(key) and key != digest.hexdigest():
            self.done.damaged.append(key)

    async def _chunks(self, info: BlobInfo, look: Callable[[bytes], object]) -> AsyncIterator[bytes]:
        """The blob's bytes; a store that breaks off is asked again for the rest, a few times."""
        at = 0
        for tried in range(_BLOB_TRIES):
            try:
                async for chunk in await self.blobs.get(info.key, start=at):
                    look(chunk)
                    at += len(chunk)
                    self.progress(self.writer.counts.jobs, self.writer.position)
                    yield chunk
                return
            except BlobNotFound as error:
                raise Unavailable(f"blob {clip(info.key)} went while it was read; export again") from error
            except AsmanError:
                if tried + 1 == _BLOB_TRIES:
                    raise

    def _remember(self, key: str) -> None:
        """Which blobs have been seen to: the latest of them, so that memory stays bounded. Twice does no harm."""
        self._recent[key] = None
        if len(self._recent) > _REMEMBERED:
            del self._recent[next(iter(self._recent))]


async def _scan(jobs: JobStore) -> AsyncIterator[list[Job]]:
    if not isinstance(jobs, SupportsScan):
        raise ConfigError(
            "this job store cannot be read through: it lacks scan", hint="Name the queues to export: --queue NAME ..."
        )
    page, cursor = await jobs.scan(limit=_PAGE)
    yield page
    while cursor:
        page, cursor = await jobs.scan(cursor=cursor, limit=_PAGE)
        yield page


def _decoded(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None
