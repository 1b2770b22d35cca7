"""Definitions and results: beside the record while small, in a blob when large.

A document's place is decided once, when it is written: up to 16 KiB it is stored as it is; above that the bytes go
into a blob first and a pointer takes their place, so a row never points to a missing blob. Keys of such blobs start
with an underscore, which no key that a caller may use does.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from asman.errors import BlobNotFound
from asman.job import Job
from asman.messages import encode
from asman.services import Services

__all__ = [
    "DEFINITION",
    "INLINE_BYTES",
    "RESULT",
    "blob_key",
    "blobs_behind",
    "extend_documents",
    "pack",
    "pack_encoded",
    "pointer_to",
    "read_document",
]

DEFINITION = "definition"
RESULT = "result"

INLINE_BYTES = 16 << 10
"""Up to this size a document is kept beside its record."""

_POINTER = b"\x00blob:"
"""No JSON document starts with NUL."""


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def pack(services: Services, name: str, value: Any, *, expires_at: float) -> bytes:
    """Encode a document and answer with what the store is to keep."""
    return await pack_encoded(services, name, encode(value), expires_at=expires_at)


async def pack_encoded(services: Services, name: str, data: bytes, *, expires_at: float) -> bytes:
    """What the store is to keep for a document that is encoded already.

    Each large document gets a blob of its own, never shared, so that dropping one cannot hurt another.
    """
    if len(data) <= INLINE_BYTES:
        return data
    key = f"_{name}-{services.random_id()}"
    await services.blobs.put(key, _once(data), expires_at=expires_at)
    return pointer_to(key)


def pointer_to(key: str) -> bytes:
    """What the store keeps for a document whose bytes are in this blob."""
    return _POINTER + key.encode()


def blob_key(kept: bytes | None) -> str | None:
    """The key behind a stored document, None if the document is not in a blob."""
    if kept is None or not kept.startswith(_POINTER):
        return None
    return kept[len(_POINTER) :].decode()


async def read_document(services: Services, job: Job, name: str) -> Any:
    """The document, decoded, or None if there is none (any more)."""
    kept = await services.jobs.document(job.queue, job.job_id, name)
    key = blob_key(kept)
    if kept is None or key is None:
        return None if kept is None else json.loads(kept)
    try:
        chunks = await services.blobs.get(key)
    except BlobNotFound:
        return None
    return json.loads(b"".join([chunk async for chunk in chunks]))


async def blobs_behind(services: Services, job: Job, names: Iterable[str] = (DEFINITION, RESULT)) -> list[str]:
    """Keys of the blobs that hold this job's documents."""
    kept = [await services.jobs.document(job.queue, job.job_id, name) for name in names]
    return [key for key in map(blob_key, kept) if key is not None]


async def extend_documents(services: Services, job: Job) -> None:
    """Let the blobs behind the documents live as long as the record does now."""
    for key in await blobs_behind(services, job):
        await services.blobs.extend(key, job.expires_at)
