"""One upload: gathered into parts, hashed in threads, sent while the next part is gathered, published last.

What fits into one part is sent in one request when it is complete and checked. More than that is a multipart upload,
which is no object until it is completed, after the check. At most two parts are in memory. Each part is sent with
its MD5 (which every store compares), a small blob with its sha256 where the store knows that header.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
from base64 import b64encode
from typing import Any

from asman.errors import LimitExceeded
from asman_s3.faults import DRIVER_ERRORS, code_of, status_of, told
from asman_s3.place import LARGEST_PARTS

__all__ = ["AlreadyThere", "Upload"]

_log = logging.getLogger(__name__)

_THREAD_FROM_BYTES = 64 << 10
_ABORT_S = 20.0
_STUCK_S = 300.0
"""How long sending one part may take with all its tries: the driver has a deadline for answers, none for sending."""
_UNKNOWN_HEADER = frozenset(("NotImplemented", "InvalidRequest", "InvalidArgument"))
_LOST = frozenset(("NoSuchUpload", "ConditionalRequestConflict"))


class AlreadyThere(Exception):
    """The name is taken, or the answer to an earlier try of ours was lost: look what stands there."""


class Upload:
    """Shape: ``target`` is Bucket and Key; ``metadata`` goes with the object. ``size_bytes`` and ``sha256`` grow."""

    def __init__(self, client: Any, target: dict[str, str], metadata: dict[str, str], part_bytes: int) -> None:
        self._client, self._target, self._metadata = client, target, metadata
        self._part_bytes = part_bytes
        self._gathered = io.BytesIO()
        self._sha256 = hashlib.sha256()
        self._upload_id = ""
        self._sending: asyncio.Task[None] | None = None
        self._etags: list[str] = []
        self._part_md5s: list[bytes] = []
        self.size_bytes = 0
        self.knows_sha256 = True
        """Cleared when the store refuses the sha256 header."""

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def is_multipart(self) -> bool:
        return bool(self._upload_id)

    @property
    def etag(self) -> str:
        """What stores that do not encrypt call a multipart object made of these parts."""
        joined = hashlib.md5(b"".join(self._part_md5s), usedforsecurity=False).hexdigest()
        return f'"{joined}-{len(self._part_md5s)}"'

    async def write(self, chunk: bytes) -> None:
        """Errors: LimitExceeded when there would be more parts than a store takes; Unavailable."""
        view = memoryview(chunk)
        while view:
            if self._gathered.tell() == self._part_bytes:
                await self._send_gathered()
            piece = view[: self._part_bytes - self._gathered.tell()]
            self._gathered.write(piece)
            self.size_bytes += len(piece)
            view = view[len(piece) :]

    async def finish(self) -> None:
        """Send and hash what is left; nobody sees it yet."""
        if self.is_multipart:
            await self._send_gathered()
            await self._sent()
        else:
            self._part_md5s = [await self._digest(self._gathered)]

    async def publish(self, *, create_once: bool) -> None:
        """Make it an object. Errors: AlreadyThere (always possible); Unavailable, StorageFull."""
        once = {"IfNoneMatch": "*"} if create_once else {}
        try:
            with told("store a blob"):
                await (self._complete(once) if self.is_multipart else self._put(once))
        except Exception as error:
            cause = error.__cause__ or error
            if status_of(cause) == 412 or code_of(cause) in _LOST:
                raise AlreadyThere from error
            raise
        self._upload_id = ""

    async def abort(self) -> None:
        """Leave nothing at the store. What cannot be removed now is left to the rule that ``asman s3 init`` makes."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            try:
                async with asyncio.timeout(_ABORT_S):
                    await self._client.abort_multipart_upload(**self._target, UploadId=upload_id)
            except DRIVER_ERRORS as error:
                _log.warning("an unfinished upload stays for now", extra={"reason": code_of(error) or str(type(error))})

    async def _send_gathered(self) -> None:
        part, self._gathered = self._gathered, io.BytesIO()
        if len(self._part_md5s) >= LARGEST_PARTS:
            largest = LARGEST_PARTS * self._part_bytes
            raise LimitExceeded(
                f"the blob is larger than {largest} bytes, which are {LARGEST_PARTS} parts",
                hint="Set a larger part in the S3 URL of the server, e.g. part=64MiB.",
            )
        await self._sent()
        self._part_md5s.append(await self._digest(part))
        if not self._upload_id:
            with told("begin an upload"):
                answer = await self._client.create_multipart_upload(**self._target, Metadata=self._metadata)
            self._upload_id = answer["UploadId"]
        self._sending = asyncio.create_task(self._send(part, len(self._part_md5s)))

    async def _sent(self) -> None:
        """Wait for the part that is on its way."""
        if self._sending is not None:
            await self._sending
            self._sending = None

    async def _send(self, part: io.BytesIO, number: int) -> None:
        part.seek(0)
        with told("store a part of a blob"):
            async with asyncio.timeout(_STUCK_S):
                answer = await self._client.upload_part(
                    **self._target,
                    UploadId=self._upload_id,
                    PartNumber=number,
                    Body=part,
                    ContentLength=len(part.getbuffer()),
                    ContentMD5=b64encode(self._part_md5s[number - 1]).decode(),
                )
        self._etags.append(answer["ETag"])

    async def _digest(self, part: io.BytesIO) -> bytes:
        """Add it to the sha256 of all, and answer with its MD5."""

        def both() -> bytes:
            with part.getbuffer() as view:
                self._sha256.update(view)
                return hashlib.md5(view, usedforsecurity=False).digest()

        return both() if part.tell() < _THREAD_FROM_BYTES else await asyncio.to_thread(both)

    async def _put(self, once: dict[str, str]) -> None:
        self._metadata["sha256"] = self.sha256
        if self.knows_sha256:
            try:
                await self._put_with({"ChecksumSHA256": b64encode(self._sha256.digest()).decode()}, once)
                return
            except DRIVER_ERRORS as error:
                if code_of(error) not in _UNKNOWN_HEADER and status_of(error) != 501:
                    raise
                self.knows_sha256 = False
        await self._put_with({"ContentMD5": b64encode(self._part_md5s[0]).decode()}, once)

    async def _put_with(self, check: dict[str, str], once: dict[str, str]) -> None:
        self._gathered.seek(0)
        async with asyncio.timeout(_STUCK_S):
            await self._client.put_object(
                **self._target,
                Body=self._gathered,
                ContentLength=self.size_bytes,
                Metadata=self._metadata,
                **check,
                **once,
            )

    async def _complete(self, once: dict[str, str]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(self._etags, 1)]
        await self._client.complete_multipart_upload(
            **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": parts}, **once
        )
