"""Blobs by key, as callers name them: checked keys, verified content, the time they live."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from asman.abc import BlobInfo
from asman.errors import BlobNotFound, Expired, LimitExceeded, clip
from asman.identity import check_blob_key, is_content_key
from asman.job import absent
from asman.services import Services

__all__ = [
    "BlobBody",
    "download_link",
    "has_blob",
    "output_keys",
    "own_blob_key",
    "read_blob",
    "stat_blob",
    "store_blob",
    "upload_link",
]

_LINK_VALID_S = 900
"""Callers follow at once; what must happen within this time is the start of the transfer."""

_DIRECT_BYTES = 1 << 20
"""Smaller uploads are stored here: sending them on costs the caller more than it saves the server, and here they are
checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobBody:
    """An opened blob. Shape: bytes ``start`` to ``stop`` (excluded) of ``info.size_bytes`` follow in ``chunks``."""

    info: BlobInfo
    start: int
    stop: int
    chunks: AsyncIterator[bytes]


async def store_blob(services: Services, key: str, chunks: AsyncIterable[bytes]) -> BlobInfo:
    """Store bytes under a key; a key of 64 hex digits must be their sha256.

    Errors: BadName, HashMismatch, LimitExceeded, Conflict (other bytes under a free key), StorageFull.
    """
    check_blob_key(key)
    return await services.blobs.put(
        key,
        chunks,
        expires_at=_expires_at(services),
        sha256=key if is_content_key(key) else None,
        max_bytes=services.config.limits.blob_bytes or None,
    )


def _expires_at(services: Services) -> float:
    now = services.clock()
    decided: float | None = services.plugins.hook.asman_expires_at(job=absent("", ""), now=now, config=services.config)
    return decided or now + 30 * 86_400.0


async def upload_link(services: Services, key: str, size_bytes: int) -> str | None:
    """Where the caller is to send the bytes; None if here.

    Only to a content key, whose bytes a reader can check, and only of a stated size. What was checked once is not
    replaced by what nobody checks.

    Errors: BadName; LimitExceeded.
    """
    check_blob_key(key)
    limit = services.config.limits.blob_bytes
    if 0 < limit < size_bytes:
        raise LimitExceeded(f"the blob has {size_bytes} bytes; at most {limit} are allowed")
    if services.signer is None or not is_content_key(key) or size_bytes < _DIRECT_BYTES:
        return None
    info = await services.blobs.stat(key)
    if info is not None and info.sha256:
        return None
    return await services.signer.signed_put_url(
        key, valid_s=_LINK_VALID_S, size_bytes=size_bytes, expires_at=_expires_at(services)
    )


async def download_link(services: Services, info: BlobInfo, *, content_type: str, disposition: str) -> str | None:
    """Where the caller finds the bytes of a blob that ``stat_blob`` found; None if here."""
    if services.signer is None:
        return None
    return await services.signer.signed_get_url(
        info.key, valid_s=_LINK_VALID_S, content_type=content_type, disposition=disposition
    )


async def stat_blob(services: Services, key: str) -> BlobInfo:
    """Errors: BadName, BlobNotFound, Expired."""
    check_blob_key(key)
    info = await services.blobs.stat(key)
    if info is None:
        raise BlobNotFound(f"no blob {clip(key)}")
    if services.clock() >= info.expires_at:
        raise Expired(f"blob {clip(key)} has expired")
    return info


async def has_blob(services: Services, key: str) -> bool:
    """Is it here and will it stay? A blob that is about to expire is best uploaded again. Errors: BadName."""
    check_blob_key(key)
    info = await services.blobs.stat(key)
    return info is not None and services.clock() + 3600.0 < info.expires_at


async def read_blob(services: Services, info: BlobInfo, start: int = 0, stop: int | None = None) -> BlobBody:
    """Open bytes of a blob that ``stat_blob`` found. Errors: BlobNotFound."""
    stop = info.size_bytes if stop is None else stop
    chunks = await services.blobs.get(info.key, start=start, stop=stop)
    return BlobBody(info=info, start=start, stop=stop, chunks=chunks)


def own_blob_key(url: str, hosts: frozenset[str] = frozenset()) -> str | None:
    """The blob key in an address of the form ``.../f/<64 hex>`` (or the older ``/api/v1/download/<64 hex>``).

    Shape:  with ``hosts`` given only addresses on one of them count as ours.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if hosts and parts.netloc not in hosts:
        return None
    for prefix in ("/f/", "/api/v1/download/"):
        if parts.path.startswith(prefix) and is_content_key(parts.path[len(prefix) :]):
            return parts.path[len(prefix) :]
    return None


def output_keys(finished: Any) -> list[str]:
    """Keys of the blobs that a stored result refers to."""
    result = finished.get("result") if isinstance(finished, dict) else None
    outputs = result.get("outputs") if isinstance(result, dict) else None
    if not isinstance(outputs, dict):
        return []
    keys = []
    for ref in outputs.values():
        if not isinstance(ref, dict) or not isinstance(ref.get("value"), str):
            continue
        key = ref["value"] if ref.get("type") == "key" else None
        if ref.get("type") == "url":
            key = own_blob_key(ref["value"])
        if key is not None:
            keys.append(key)
    return keys
