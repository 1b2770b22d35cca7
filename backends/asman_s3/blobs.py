"""The blob store in a bucket: ``blobs/KEY``, with the marks of ``expiry`` beside it.

A name is given once where the store can do that (``If-None-Match: *``), which is tried out before it is relied on.
Where it cannot, servers of one deployment that store different bytes under one free key in the same moment do not
see each other and the last one wins; keys that are a sha256 have no other bytes and cannot lose.

What the server stored was hashed by it and says so in its metadata. What came straight by a signed address was not:
``stat`` leaves its sha256 empty, whoever reads it checks, and the next upload of the same key replaces it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from uuid import uuid4
from weakref import WeakValueDictionary

from botocore.exceptions import ClientError

from asman.abc import BlobInfo
from asman.completion import to_the_end
from asman.errors import BadName, BlobNotFound, Conflict, HashMismatch, LimitExceeded, Unavailable, clip
from asman_s3.connection import open_client
from asman_s3.expiry import LAST_S, Due, Expiries
from asman_s3.faults import DRIVER_ERRORS, code_of, opening_error, status_of, told, translated
from asman_s3.place import Place
from asman_s3.reading import Chunks, is_absent, open_chunks
from asman_s3.upload import AlreadyThere, Upload

__all__ = ["LONGEST_VALID_S", "S3BlobStore"]

_log = logging.getLogger(__name__)

LONGEST_VALID_S = 900
"""No signed address is valid for longer."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_CONTENT_KEY = re.compile(r"[0-9a-f]{64}")
_PUBLISH_TRIES = 5
_PRUNED_AT_ONCE = 8
_PAGES_PER_PRUNE = 10
_UNPLANNED_S = 7 * 86_400.0
"""How long an object is kept that neither says how long nor has a mark: somebody put it into the bucket by hand."""


class S3BlobStore:
    """Blobs in one bucket. Source: ``abc.BlobStore``, ``abc.SupportsSignedUrls``.

    Errors: ConfigError when the bucket cannot be used; BadName; Unavailable while the store fails or refuses;
            StorageFull.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._signer: Any = None
        self._creates_once: bool | None = None
        self._knows_sha256 = True
        self._probing = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        try:
            self._client = self._signer = await self._stack.enter_async_context(open_client(self._place))
            if self._place.public_endpoint:
                signer = open_client(self._place, endpoint=self._place.public_endpoint)
                self._signer = await self._stack.enter_async_context(signer)
            self._expiries = Expiries(self._client, self._place)
            await self._look()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _look(self) -> None:
        """What can never work ends the start; a store that is only away does not: requests say so until it is back."""
        try:
            await self._client.list_objects_v2(Bucket=self._place.bucket, Prefix=self._place.prefix, MaxKeys=1)
        except DRIVER_ERRORS as error:
            wrong = opening_error(error, self._place)
            if wrong is not None:
                raise wrong from error
            _log.warning("the object store is away", extra={"place": str(self._place), "reason": code_of(error)})

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
        target, expires_at = self._target(key), min(expires_at, LAST_S)
        wanted = {digest for digest in (sha256, key if _CONTENT_KEY.fullmatch(key) else None) if digest is not None}
        metadata = {"expires": str(expires_at), **({"sha256": min(wanted)} if wanted else {})}
        upload = Upload(self._client, target, metadata, self._place.part_bytes)
        upload.knows_sha256 = self._knows_sha256
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
                return await self._publish(upload, key, expires_at)
        finally:
            self._knows_sha256 = upload.knows_sha256
            await to_the_end(upload.abort())

    async def _publish(self, upload: Upload, key: str, expires_at: float) -> BlobInfo:
        """Give it its name, or find that the name stands for the same bytes. Errors: Conflict."""
        await self._expiries.plan(key, expires_at)
        create_once = await self._can_create_once()
        info = BlobInfo(key=key, size_bytes=upload.size_bytes, sha256=upload.sha256, expires_at=expires_at)
        found = None if create_once and not upload.is_multipart else await self._seen(key)
        for _ in range(_PUBLISH_TRIES):
            if found is None:
                try:
                    await upload.publish(create_once=create_once)
                    return info
                except AlreadyThere:
                    found = await self._seen(key)
                    continue
            there, etag = found
            kept = replace(info, expires_at=max(expires_at, there.expires_at))
            if there.sha256 == "" and _CONTENT_KEY.fullmatch(key) and etag != upload.etag:
                await self._expiries.move(key, kept.expires_at)
                await self._replace(upload)
            elif not await self._is_same(there, etag, upload):
                raise Conflict(f"blob {clip(key)} exists with other bytes; a blob never changes, use another key")
            elif expires_at > there.expires_at:
                await self._expiries.move(key, expires_at)
            return kept
        raise Unavailable(f"blob {clip(key)} comes and goes while it is stored; repeat the request")

    @staticmethod
    async def _replace(upload: Upload) -> None:
        """Nobody has checked what stands there, and these bytes are what the key says."""
        try:
            await upload.publish(create_once=False)
        except AlreadyThere as error:
            raise Unavailable("the store lost the upload; repeat the request") from error

    async def _is_same(self, there: BlobInfo, etag: str, upload: Upload) -> bool:
        if there.size_bytes != upload.size_bytes:
            return False
        if etag == upload.etag or there.sha256:
            return etag == upload.etag or there.sha256 == upload.sha256
        digest = hashlib.sha256()
        async with aclosing(await self.get(there.key)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
        return digest.hexdigest() == upload.sha256

    async def _can_create_once(self) -> bool:
        """Does the store keep a name for its first object? Tried out once, with an object that is removed again."""
        async with self._probing:
            if self._creates_once is None:
                target = {"Bucket": self._place.bucket, "Key": f"{self._place.prefix}probe/{uuid4().hex}"}
                try:
                    with told("try out the store"):
                        await self._client.put_object(**target, Body=b"")
                    self._creates_once = await self._is_kept(target)
                finally:
                    with told("try out the store"):
                        await self._client.delete_object(**target)
                if not self._creates_once:
                    _log.warning("the object store ignores If-None-Match; blobs are created without it")
            return self._creates_once

    async def _is_kept(self, target: dict[str, str]) -> bool:
        try:
            await self._client.put_object(**target, Body=b"", IfNoneMatch="*")
        except DRIVER_ERRORS as error:
            if status_of(error) not in (400, 405, 409, 412, 501):
                raise translated(error, "try out the store") from error
            return status_of(error) in (409, 412)
        return False

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> Chunks:
        target = self._target(key)
        try:
            return await open_chunks(self._client, target["Bucket"], target["Key"], key, max(start, 0), stop)
        except DRIVER_ERRORS as error:
            if await self._is_hidden(error, key):
                raise BlobNotFound(f"no blob {clip(key)}") from error
            raise translated(error, "read a blob") from error

    async def stat(self, key: str) -> BlobInfo | None:
        found = await self._seen(key)
        return None if found is None else found[0]

    async def _seen(self, key: str) -> tuple[BlobInfo, str] | None:
        """What the store says about a key, and its tag."""
        answer, latest = await asyncio.gather(self._head(key), self._expiries.latest(key))
        if answer is None:
            return None
        metadata = answer.get("Metadata", {})
        until = [float(metadata["expires"])] if "expires" in metadata else []
        until += [latest] if latest is not None else []
        info = BlobInfo(
            key=key,
            size_bytes=int(answer["ContentLength"]),
            sha256=metadata.get("sha256", ""),
            expires_at=max(until, default=answer["LastModified"].timestamp() + _UNPLANNED_S),
        )
        return info, answer["ETag"]

    async def _head(self, key: str) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = await self._client.head_object(**self._target(key))
            return answer
        except DRIVER_ERRORS as error:
            if is_absent(error) or await self._is_hidden(error, key):
                return None
            raise translated(error, "look at a blob") from error

    async def _is_hidden(self, error: BaseException, key: str) -> bool:
        """Some stores say 403 for what is not there. The answer to HEAD has no reason either: so the listing decides.

        Errors: Unavailable with the true reason when the listing is refused as well.
        """
        if not isinstance(error, ClientError) or status_of(error) != 403:
            return False
        name = self._target(key)["Key"]
        with told("look at a blob"):
            page = await self._client.list_objects_v2(Bucket=self._place.bucket, Prefix=name, MaxKeys=1)
        return all(entry["Key"] != name for entry in page.get("Contents", ()))

    # --- time --------------------------------------------------------------------------------------------------------

    async def extend(self, key: str, expires_at: float) -> None:
        found, expires_at = await self.stat(key), min(expires_at, LAST_S)
        if found is not None and found.expires_at < expires_at:
            await self._expiries.move(key, expires_at)

    async def delete(self, key: str) -> None:
        target = self._target(key)
        await self._expiries.forget(key)
        with told("remove a blob"):
            await self._client.delete_object(**target)

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """Looks at the blobs that were planned for a moment before this one, and at nothing else."""
        removed = 0
        for _ in range(_PAGES_PER_PRUNE):
            due = await self._expiries.due(before)
            if not due:
                break
            while due:
                if removed >= limit:
                    return removed
                batch = {entry.key: entry for entry in reversed(due[: min(_PRUNED_AT_ONCE, limit - removed)])}
                removed += sum(await asyncio.gather(*(self._prune_one(entry, before) for entry in batch.values())))
                due = [entry for entry in due if entry not in batch.values()]
        return removed

    async def _prune_one(self, due: Due, before: float) -> bool:
        """The entry goes when what it was for is settled; a blob that lives on is planned for its new time first."""
        found = await self.stat(due.key)
        if found is not None and found.expires_at >= before:
            await self._expiries.plan(due.key, found.expires_at)
        else:
            await self.delete(due.key)
        await self._expiries.done(due)
        return found is not None and found.expires_at < before

    # --- signed addresses --------------------------------------------------------------------------------------------

    async def signed_get_url(self, key: str, *, valid_s: int, content_type: str, disposition: str) -> str:
        forced = {"ResponseContentType": content_type, "ResponseContentDisposition": disposition}
        return await self._sign("get_object", key, valid_s, {**forced, "ResponseCacheControl": "private, immutable"})

    async def signed_put_url(self, key: str, *, valid_s: int, size_bytes: int, expires_at: float) -> str:
        url = await self._sign("put_object", key, valid_s, {"ContentLength": size_bytes})
        await self._expiries.move(key, min(expires_at, LAST_S))
        return url

    async def _sign(self, operation: str, key: str, valid_s: int, more: dict[str, Any]) -> str:
        with told("sign an address"):
            url: str = await self._signer.generate_presigned_url(
                operation, Params={**self._target(key), **more}, ExpiresIn=min(valid_s, LONGEST_VALID_S)
            )
        return url

    def _target(self, key: str) -> dict[str, str]:
        """Errors: BadName; checked here again, because an object's name is made of it."""
        if not _KEY.fullmatch(key):
            raise BadName(f"blob key {clip(key)} is not 1 to 200 of A-Z a-z 0-9 . _ - without a dot in front")
        return {"Bucket": self._place.bucket, "Key": f"{self._place.prefix}blobs/{key}"}
