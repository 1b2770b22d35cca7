"""The bytes of an object in chunks, on across broken streams: what is missing is asked for again, of the same object.

Read into a view of ours that is filled: without one the runtime hands out 4 KiB at a time, which takes thirty times as
long.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

from asman.errors import Unavailable, clip
from asman_cloudflare.r2_bucket import Bucket

__all__ = ["Chunks", "let_go"]

_CHUNK_BYTES = 256 << 10
_TRIES = 5
_FIRST_PAUSE_S = 0.1


def let_go(reader: Any) -> None:
    """Close a stream of which no more is wanted."""
    if reader is not None:
        with contextlib.suppress(Exception):
            reader.cancel().catch(_nothing_left)


def _nothing_left(error: object) -> None:
    """A stream that has failed cannot be cancelled, and says so."""


class Chunks:
    """An asynchronous iterator of chunks of at most 256 KiB: the bytes ``at`` to ``stop`` of an object.

    Shape:  ``reader`` is of a stream that begins at ``at``; it may go on behind ``stop``. None opens one.
    """

    def __init__(self, bucket: Bucket, name: str, etag: str, key: str, reader: Any, at: int, stop: int) -> None:
        self._bucket, self._name, self._etag, self._key = bucket, name, etag, key
        self._reader = reader
        self._at, self._stop = at, stop
        if at >= stop:
            self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        pause_s = _FIRST_PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            if self._at >= self._stop:
                raise StopAsyncIteration
            try:
                return await self._next()
            except (*self._bucket.driver_errors, EOFError) as error:
                self._drop()
                if not tries_left:
                    raise Unavailable(f"R2 broke off while blob {clip(self._key)} was read") from error
            await asyncio.sleep(pause_s)
            pause_s *= 3
        raise AssertionError("unreachable")

    async def _next(self) -> bytes:
        """Errors: what the runtime raises; EOFError for an end that comes too early."""
        if self._reader is None:
            await self._open_again()
        data = await self._bucket.read(self._reader, min(_CHUNK_BYTES, self._stop - self._at))
        if not data:
            raise EOFError("the body ended too early")
        self._at += len(data)
        if self._at >= self._stop:
            self.close()
        return data

    async def _open_again(self) -> None:
        opened = await self._bucket.open(self._name, start=self._at, stop=self._stop, etag=self._etag)
        if opened is None:
            self.close()
            raise Unavailable(f"blob {clip(self._key)} was removed while it was read")
        self._reader = opened.reader

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        let_go(reader)

    def close(self) -> None:
        self._at = self._stop
        self._drop()

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        self._drop()
