"""The bytes of an object, on across broken connections: what is missing is asked for again, of the same object only."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Self

from botocore.exceptions import ClientError

from asman.errors import BlobNotFound, Unavailable, clip
from asman_s3.faults import DRIVER_ERRORS, code_of, status_of, translated

__all__ = ["Chunks", "is_absent", "open_chunks"]

_CHUNK_BYTES = 1 << 20
_TRIES = 5
_FIRST_PAUSE_S = 0.2
_ABSENT = frozenset(("NoSuchKey", "404", "NotFound"))


def is_absent(error: BaseException) -> bool:
    return code_of(error) in _ABSENT


async def open_chunks(client: Any, bucket: str, name: str, key: str, start: int, stop: int | None) -> Chunks:
    """Open bytes ``start`` to ``stop`` of an object.

    Errors: BlobNotFound; ClientError and what else the driver raises, for the caller to tell.
    """
    chunks = Chunks(client, {"Bucket": bucket, "Key": name}, key, start, stop)
    try:
        await chunks.open()
    except ClientError as error:
        if is_absent(error):
            raise BlobNotFound(f"no blob {clip(key)}") from error
        if status_of(error) != 416:  # behind the end: there is such a blob, and no such bytes
            raise
        chunks.close()
    return chunks


class Chunks:
    """An asynchronous iterator of chunks of at most 1 MiB."""

    def __init__(self, client: Any, asked: dict[str, str], key: str, start: int, stop: int | None) -> None:
        self._client, self._asked, self._key = client, asked, key
        self._at, self._stop = start, stop
        self._body: Any = None
        self._ended = False

    async def open(self) -> None:
        """Ask for what is still missing. An empty range asks whether the object is there."""
        if self._stop is not None and self._stop <= self._at:
            await self._client.head_object(**self._asked)
            self._ended = True
            return
        more = {}
        if self._at or self._stop is not None:
            more["Range"] = f"bytes={self._at}-{'' if self._stop is None else self._stop - 1}"
        answer = await self._client.get_object(**self._asked, **more)
        self._asked["IfMatch"] = answer["ETag"]
        self._body = answer["Body"]
        if self._at and "ContentRange" not in answer:
            self.close()
            raise Unavailable("the object store ignores ranges: it cannot be used for blobs")
        self._stop = self._at + int(answer["ContentLength"])

    async def _read(self) -> bytes:
        """The next bytes; empty at the end. Errors: what the driver raises, also for an end that comes too early."""
        if self._body is None:
            await self.open()
        assert self._stop is not None
        data: bytes = await self._body.read(min(_CHUNK_BYTES, max(self._stop - self._at, 1)))
        if not data and self._at < self._stop:
            raise ConnectionResetError("the body ended too early")
        self._at += len(data)
        if self._at >= self._stop:
            self.close()
        return data

    async def __anext__(self) -> bytes:
        pause_s = _FIRST_PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            if self._ended:
                raise StopAsyncIteration
            try:
                data = await self._read()
            except DRIVER_ERRORS as error:
                self._drop()
                if is_absent(error) or status_of(error) == 412:
                    raise Unavailable(f"blob {clip(self._key)} was removed while it was read") from error
                if not tries_left or 400 <= status_of(error) < 500:
                    raise translated(error, "read a blob") from error
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s *= 2
            else:
                if data:
                    return data
        raise StopAsyncIteration

    def __aiter__(self) -> Self:
        return self

    def _drop(self) -> None:
        """Close the connection: what is left in it is of no use to another request."""
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def close(self) -> None:
        self._ended = True
        self._drop()

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        if self._body is not None:
            self.close()
