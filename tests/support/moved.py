"""Stores to move jobs between: opened by kind, filled, moved, and everything that can be seen of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asman.abc import BlobStore, SupportsScan
from asman.archive import ArchiveReader, ArchiveWriter, Counts
from asman.documents import blob_key
from asman.exporting import Exported, Exporter, read_partial
from asman.importing import Imported, Importer
from asman.job import Job, State
from asman.memory import MemoryBlobStore, MemoryJobStore
from asman.testing import chunked, joined
from asman.testing.log_store import Store, read_all
from asman_filesystem.blobs import FileBlobStore
from asman_sqlite.jobs import SqliteJobStore

__all__ = ["KINDS", "NOW", "Stores", "bring", "everything", "fill", "reader_of", "resume", "stores", "take_out"]

KINDS = ("memory", "sqlite")
NOW = 1_800_000_000.0
FAR = 4_000_000_000.0


@dataclass(frozen=True, kw_only=True)
class Stores:
    jobs: Store
    blobs: BlobStore

    async def put(self, data: bytes, key: str = "") -> str:
        """Store a blob, under its sha256 if no other key is given."""
        key = key or hashlib.sha256(data).hexdigest()
        await self.blobs.put(key, chunked(data), expires_at=FAR)
        return key


@asynccontextmanager
async def stores(kind: str, folder: Path, *, with_files: bool = True) -> AsyncIterator[Stores]:
    """Where ``asman --backend KIND --data FOLDER`` would look; a folder of blobs takes long to make for one example."""
    if kind == "memory":
        yield Stores(jobs=MemoryJobStore(), blobs=MemoryBlobStore())
        return
    if not with_files:
        async with SqliteJobStore(folder / "asman.db") as jobs:
            yield Stores(jobs=jobs, blobs=MemoryBlobStore())
        return
    async with SqliteJobStore(folder / "asman.db") as jobs, FileBlobStore(folder / "blobs") as blobs:
        yield Stores(jobs=jobs, blobs=blobs)


async def fill(into: Stores, job: Job, documents: Mapping[str, Any], lines: Mapping[str, Sequence[bytes]]) -> None:
    """A job, its documents given as JSON values, and log lines of its attempt by half."""
    packed = {name: json.dumps(value).encode() for name, value in documents.items()}
    kept: dict[str, bytes | None] = {}
    for name, data in packed.items():
        kept[name] = data
        if len(data) > 16 << 10:
            key = f"_{name}-{job.queue}-{job.job_id}-{job.version}"
            await into.blobs.put(key, chunked(data), expires_at=FAR)
            kept[name] = b"\x00blob:" + key.encode()
    await into.jobs.save(job, expected=0, documents=kept)
    for half, texts in lines.items():
        await into.jobs.append_log(job.queue, job.job_id, attempt=job.attempt, half=half, lines=list(texts))


async def everything(of: Stores, blobs: Sequence[str] = ()) -> dict[str, Any]:
    """What can be observed: records, documents, logs, counters, and these blobs. Leases of running jobs left out."""
    assert isinstance(of.jobs, SupportsScan)
    found, cursor = await of.jobs.scan()
    while cursor:
        page, cursor = await of.jobs.scan(cursor=cursor)
        found += page
    seen: dict[str, Any] = {"counts": await of.jobs.counts(None)}
    for job in found:
        still = replace(job, lease_until=None, lost=0) if job.state is State.RUNNING else job
        documents = {name: await _document(of, job, name) for name in ("definition", "result")}
        logs = {half: await read_all(of.jobs, job.queue, job.job_id, half) for half in ("build", "run")}
        seen[f"{job.queue}/{job.job_id}"] = (still, documents, {h: _told(slices) for h, slices in logs.items()})
    for key in blobs:
        info = await of.blobs.stat(key)
        seen[key] = info and (info.expires_at, await joined(await of.blobs.get(key)))
    return seen


def _told(slices: Sequence[Any]) -> list[tuple[int, int, bytes]]:
    """(attempt, index, line) of every line: where a store cuts its slices is its own affair."""
    return [(s.attempt, s.start + n, line) for s in slices for n, line in enumerate(s.lines)]


async def _document(of: Stores, job: Job, name: str) -> Any:
    kept = await of.jobs.document(job.queue, job.job_id, name)
    key = blob_key(kept)
    data = kept if key is None else await joined(await of.blobs.get(key))
    return None if data is None else json.loads(data)


# --- moving ----------------------------------------------------------------------------------------------------------


@dataclass
class _Sink:
    data: bytearray = field(default_factory=bytearray)

    async def write(self, piece: bytes) -> None:
        self.data += piece


async def take_out(of: Stores, queues: Sequence[str] = (), **more: Any) -> tuple[bytes, Exported]:
    """An archive of the stores, and what the export says of it."""
    sink = _Sink()
    writer = ArchiveWriter(write=sink.write)
    exporter = Exporter(jobs=of.jobs, logs=of.jobs, blobs=of.blobs, writer=writer, now=NOW, queues=list(queues), **more)
    done = await exporter.run(by="the tests")
    return bytes(sink.data), done


async def resume(of: Stores, cut: bytes) -> tuple[bytes, Exported]:
    """Go on with an archive that was cut."""
    known = await read_partial(reader_of(cut))
    sink = _Sink(bytearray(cut[: known.position]))
    writer = ArchiveWriter(
        write=sink.write,
        position=known.position,
        counts=Counts(jobs=known.counts.jobs, logs=known.counts.logs, blobs=known.counts.blobs),
    )
    exporter = Exporter(jobs=of.jobs, logs=of.jobs, blobs=of.blobs, writer=writer, now=NOW, known=known)
    done = await exporter.run(by="the tests")
    return bytes(sink.data), done


def reader_of(data: bytes, piece_bytes: int = 1 << 20) -> ArchiveReader:
    """The archive in pieces of at most this size."""
    at = 0

    async def read(size: int) -> bytes:
        nonlocal at
        piece = data[at : at + min(size, piece_bytes)]
        at += len(piece)
        return piece

    return ArchiveReader(read)


async def bring(into: Stores, data: bytes, *, max_attempts: int = 3) -> Imported:
    importer = Importer(
        jobs=into.jobs,
        logs=into.jobs,
        blobs=into.blobs,
        clock=lambda: NOW,
        lease_s=30.0,
        max_attempts=max_attempts,
    )
    return await importer.run(reader_of(data))
