"""The blob store in an R2 bucket: ``blobs/KEY``, and beside it how long and where.

R2 changes no object, deletes without a condition and bills by the operation; that decides what lies where::

    blobs/KEY           the bytes, or empty with ``at`` for what is larger than a part; metadata: expires, sha256, size
    large/AT            the bytes of a large blob, under a random name
    until/KEY           the blob is kept until then at least, where that was moved after it was stored
    due/STAMP/KEY       look at KEY when STAMP has passed
    due/STAMP/KEY/AT    remove large/AT by then if KEY does not stand for it

``blobs/KEY`` is written last and only if nothing has that name: so a blob is complete when it is visible, and of two
that store different bytes one wins. Moving an expiry rewrites one small object by comparison of its tag, never the
bytes. STAMP has a fixed number of digits, so a listing is in order of time and pruning reads its beginning only. A blob
has a ``due`` entry that is not later than its expiry, written before the blob; a later one is planned by the prune that
finds it too early.

Who stores or moves a blob in the very moment in which it is pruned for being expired may find it gone: R2 cannot
delete on a condition. The maintenance leaves a minute between.

Source: ``abc.BlobStore``; prices and limits as in docs/edge.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

from asman.abc import BlobInfo
from asman.completion import to_the_end
from asman.errors import (
    BadName,
    BlobNotFound,
    ConfigError,
    Conflict,
    HashMismatch,
    LimitExceeded,
    Unavailable,
    clip,
)
from asman_cloudflare.r2_bucket import ABSENT, Bucket, Seen, only_etag
from asman_cloudflare.r2_reading import Chunks, let_go
from asman_cloudflare.r2_upload import Room, Upload

__all__ = ["R2BlobStore", "parse_r2_url", "stamp"]

_PART_BYTES = 5 << 20
"""The smallest part that R2 takes. It is in memory as a whole, of which a Worker has 128 MB."""

_ROOM_BYTES = 32 << 20
_LAST_S = 9_999_999_999.0
"""No expiry is later than this, in the year 2286: more digits would not be in order."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_CONTENT_KEY = re.compile(r"[0-9a-f]{64}")
_BINDING = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}(/[A-Za-z0-9._-]{1,100})*")
_SHAPE = "r2://BINDING or r2://BINDING/prefix"
_PUBLISH_TRIES = 5
_MOVE_TRIES = 10
_LOOKED_AT_ONCE = 20
_PAGES_PER_PRUNE = 10
_ORPHAN_S = 86_400.0
_UNPLANNED_S = 7 * 86_400.0
"""How long an object is kept that neither says how long nor was moved: somebody put it into the bucket by hand."""


def stamp(at: float) -> str:
    """Units: seconds since the epoch, to the microsecond."""
    return f"{min(max(at, 0.0), _LAST_S):017.6f}"


def parse_r2_url(url: str) -> tuple[str, str]:
    """The binding and the prefix of a URL; the prefix is empty or ends with a slash. Errors: ConfigError."""
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if parts.scheme != "r2" or not _BINDING.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise ConfigError(f"the R2 URL {clip(url)} names no binding", hint=f"Write it like {_SHAPE}")
    if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & {*prefix.split("/")}):
        raise ConfigError(
            f"the prefix of the R2 URL is {clip(prefix)}; names of A-Z a-z 0-9 . _ - with slashes between are allowed",
            hint=f"Write it like {_SHAPE}",
        )
    return parts.netloc, f"{prefix}/" if prefix else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A blob as it stands.

    Shape:  ``at`` is the name behind ``large/``, empty where the bytes are its own; ``until`` its moved expiry, if any.
    """

    info: BlobInfo
    at: str
    until: Seen | None


class R2BlobStore:
    """Blobs in one bucket. Source: ``abc.BlobStore``.

    Shape:  ``binding`` is an R2 bucket of the runtime; ``prefix`` is empty or ends with a slash.
    Errors: BadName; Unavailable while R2 fails, or while uploads hold all the memory that they may.
    """

    def __init__(self, binding: Any, prefix: str = "", *, part_bytes: int = _PART_BYTES) -> None:
        self._bucket = Bucket(binding)
        self._prefix, self._part_bytes = prefix, part_bytes
        self._room = Room(max(_ROOM_BYTES, part_bytes))
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    # --- storing -----------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        expires_at: float,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> BlobInfo:
        self._name(key)
        wanted = {digest for digest in (sha256, key if _CONTENT_KEY.fullmatch(key) else None) if digest is not None}
        upload = Upload(self._bucket, self._room, large_prefix=f"{self._prefix}large/", part_bytes=self._part_bytes)
        try:
            async for chunk in chunks:
                if max_bytes is not None and upload.size_bytes + len(chunk) > max_bytes:
                    raise LimitExceeded(
                        f"blob {clip(key)} is larger than {max_bytes} bytes, which is all that is allowed"
                    )
                await upload.write(chunk)
            await upload.finish()
            for digest in wanted - {upload.sha256}:
                raise HashMismatch(
                    f"the bytes for blob {clip(key)} have the sha256 {upload.sha256}, not {clip(digest)}"
                )
            async with self._locks.setdefault(key, asyncio.Lock()):
                return await to_the_end(self._publish(upload, key, min(expires_at, _LAST_S)))
        finally:
            await to_the_end(upload.end())

    async def _publish(self, upload: Upload, key: str, expires_at: float) -> BlobInfo:
        """Give it its name, or find that the name stands for the same bytes. Errors: Conflict."""
        info = BlobInfo(key=key, size_bytes=upload.size_bytes, sha256=upload.sha256, expires_at=expires_at)
        await self._plan(key, expires_at)
        orphan = ""
        if upload.at:
            orphan = f"{self._prefix}due/{stamp(time.time() + _ORPHAN_S)}/{key}/{upload.at}"
            await self._bucket.put(orphan, "", {})
        for _ in range(_PUBLISH_TRIES):
            if await upload.publish(self._name(key), {"expires": str(expires_at)}):
                if orphan:
                    await self._bucket.delete([orphan])
                return info
            found = await self._found(key)
            if found is None:
                continue
            if found.at and found.at == upload.at:  # an earlier try of ours, whose answer was lost
                upload.keep()
                await self._bucket.delete([orphan])
                return info
            if not await self._is_same(found, upload):
                raise Conflict(f"blob {clip(key)} exists with other bytes; a blob never changes, use another key")
            await self._move(key, found, expires_at)
            return replace(info, expires_at=max(expires_at, found.info.expires_at))
        raise Unavailable(f"blob {clip(key)} comes and goes while it is stored; repeat the request")

    async def _is_same(self, found: _Found, upload: Upload) -> bool:
        if found.info.size_bytes != upload.size_bytes:
            return False
        if found.info.sha256:
            return found.info.sha256 == upload.sha256
        digest = hashlib.sha256()
        async with aclosing(await self.get(found.info.key)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        return digest.hexdigest() == upload.sha256

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> Chunks:
        """One operation for a small blob from its beginning, two for a large one or a later start."""
        name = self._name(key)
        if start > 0 or (stop is not None and stop <= 0):
            seen, reader = await self._bucket.head(name), None
        else:
            opened = await self._bucket.open(name)
            seen, reader = (None, None) if opened is None else (opened.seen, opened.reader)
        if seen is None:
            raise BlobNotFound(f"no blob {clip(key)}")
        start, stop = max(start, 0), min(_size(seen), _size(seen) if stop is None else stop)
        at, etag = seen.metadata.get("at", ""), seen.etag
        if at:
            let_go(reader)
            name, etag, reader = f"{self._prefix}large/{at}", "", None
        if reader is None and start < stop:
            opened = await self._bucket.open(name, start=start, stop=stop, etag=etag)
            if opened is None:
                raise BlobNotFound(f"no blob {clip(key)}")
            reader, etag = opened.reader, opened.seen.etag
        return Chunks(self._bucket, name, etag, key, reader, start, stop)

    async def stat(self, key: str) -> BlobInfo | None:
        found = await self._found(key)
        return None if found is None else found.info

    async def _found(self, key: str) -> _Found | None:
        seen, until = await asyncio.gather(self._bucket.head(self._name(key)), self._bucket.head(self._until(key)))
        if seen is None:
            return None
        said = [float(seen.metadata["expires"])] if "expires" in seen.metadata else []
        said += [] if until is None else [float(until.metadata["at"])]
        info = BlobInfo(
            key=key,
            size_bytes=_size(seen),
            sha256=seen.metadata.get("sha256", ""),
            expires_at=max(said, default=seen.uploaded_at + _UNPLANNED_S),
        )
        return _Found(info=info, at=seen.metadata.get("at", ""), until=until)

    # --- time --------------------------------------------------------------------------------------------------------

    async def extend(self, key: str, expires_at: float) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = await self._found(key)
            if found is not None:
                await to_the_end(self._move(key, found, min(expires_at, _LAST_S)))

    async def _move(self, key: str, found: _Found, expires_at: float) -> None:
        """Keep it until then at least; whoever moves it at the same time sees that by the tag."""
        if expires_at <= found.info.expires_at:
            return
        said, until = str(expires_at), found.until
        for _ in range(_MOVE_TRIES):
            only_if = ABSENT if until is None else only_etag(until.etag)
            if await self._bucket.put(self._until(key), said, {"at": said}, only_if=only_if):
                return
            until = await self._bucket.head(self._until(key))
            if until is not None and float(until.metadata["at"]) >= expires_at:
                return
        raise Unavailable(f"the expiry of blob {clip(key)} is moved by many at once; repeat the request")

    async def delete(self, key: str) -> None:
        seen = await self._bucket.head(self._name(key))
        await self._bucket.delete(self._all_of(key, "" if seen is None else seen.metadata.get("at", "")))

    def _all_of(self, key: str, at: str) -> list[str]:
        return [self._name(key), self._until(key), *([f"{self._prefix}large/{at}"] if at else [])]

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """Looks at the blobs that were planned for a moment before this one, and at nothing else."""
        removed = 0
        for _ in range(_PAGES_PER_PRUNE):
            due = await self._due(before)
            if not due:
                break
            while due:
                if removed >= limit:
                    return removed
                some, due = _first_of_each_key(due, min(_LOOKED_AT_ONCE, limit - removed))
                removed += await self._prune_some(some, before)
        return removed

    async def _plan(self, key: str, at: float) -> None:
        await self._bucket.put(f"{self._prefix}due/{stamp(at)}/{key}", "", {})

    async def _due(self, before: float) -> list[_Due]:
        """The first entries whose moment is before this one, in order of time; at most one page."""
        folder = f"{self._prefix}due/"
        found = []
        for name in await self._bucket.names(folder):
            at, key, *more = name.removeprefix(folder).split("/")
            if float(at) >= before:
                break
            found.append(_Due(name=name, key=key, orphan=more[0] if more else ""))
        return found

    async def _prune_some(self, due: list[_Due], before: float) -> int:
        """An entry goes when what it was for is settled; a blob that lives on is planned for its new time first."""
        settled = await asyncio.gather(*(self._settle(entry, before) for entry in due))
        gone = [name for names, _ in settled for name in names]
        if gone:
            await self._bucket.delete(gone)
        await self._bucket.delete([entry.name for entry in due])
        return sum(is_blob for _, is_blob in settled)

    async def _settle(self, due: _Due, before: float) -> tuple[list[str], bool]:
        """What is to be removed, and whether that is a blob."""
        found = await self._found(due.key)
        if due.orphan:
            is_needed = found is not None and found.at == due.orphan
            return ([] if is_needed else [f"{self._prefix}large/{due.orphan}"]), False
        if found is None:
            return [], False
        if found.info.expires_at >= before:
            await self._plan(due.key, found.info.expires_at)
            return [], False
        return self._all_of(due.key, found.at), True

    # --- names -------------------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """Errors: BadName; checked here again, because an object's name is made of it."""
        if not _KEY.fullmatch(key):
            raise BadName(f"blob key {clip(key)} is not 1 to 200 of A-Z a-z 0-9 . _ - without a dot in front")
        return f"{self._prefix}blobs/{key}"

    def _until(self, key: str) -> str:
        return f"{self._prefix}until/{key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """One ``due`` entry. Shape: ``name`` is its object; ``orphan`` what stands behind ``large/``, else empty."""

    name: str
    key: str
    orphan: str


def _size(seen: Seen) -> int:
    """Units: bytes of the blob."""
    return int(seen.metadata["size"]) if "at" in seen.metadata else seen.size_bytes


def _first_of_each_key(due: list[_Due], limit: int) -> tuple[list[_Due], list[_Due]]:
    """Up to ``limit`` entries of different keys, and the others: a blob is not removed twice at once."""
    some: dict[str, _Due] = {}
    others = []
    for entry in due:
        if len(some) < limit and entry.key not in some:
            some[entry.key] = entry
        else:
            others.append(entry)
    return [*some.values()], others
