"""One upload: hashed as it comes, gathered in the host's memory, sent part by part, published last.

What fits into one part is put in one request when it is complete and checked. More than that is a multipart upload
under a name that nobody knows. Either way the key's own object is written last and only if nothing has that name: R2
completes a multipart upload without a condition, so a small object decides, and the large bytes stand behind it.

Parts are gathered outside of Python: its memory never shrinks, the host's does. One part is in memory at a time, while
it is sent nothing more is taken; all uploads of a store together may hold what ``Room`` allows.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any
from uuid import uuid4

from asman.errors import AsmanError, LimitExceeded, Unavailable
from asman_cloudflare.r2_bucket import ABSENT, Bucket

__all__ = ["LARGEST_PARTS", "Room", "Upload"]

_log = logging.getLogger(__name__)

LARGEST_PARTS = 10_000
"""How many parts an upload may have. Source: developers.cloudflare.com/r2/platform/limits."""

_FIRST_BYTES = 64 << 10


class Room:
    """How many bytes all uploads of a store may hold at once."""

    def __init__(self, most_bytes: int) -> None:
        self._left = self._most = most_bytes

    def take(self, size_bytes: int) -> None:
        """Errors: Unavailable if so much is not left: waiting would wait for uploads that wait for their senders."""
        if size_bytes > self._left:
            raise Unavailable(
                f"uploads hold {self._most - self._left} bytes of the {self._most} that they may; repeat the request",
                hint="Fewer large uploads at once; each holds one part.",
            )
        self._left -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self._left += size_bytes


class _Buffer:
    """Bytes in the host's memory, growing up to one part."""

    def __init__(self, room: Room, most_bytes: int) -> None:
        import js

        self._js = js
        self._room, self._most = room, most_bytes
        self._size = 0
        self._array: Any = None
        self.filled_bytes = 0

    @property
    def room_bytes(self) -> int:
        """How many more fit into this part."""
        return self._most - self.filled_bytes

    def add(self, piece: memoryview) -> None:
        end = self.filled_bytes + len(piece)
        if end > self._size:
            self._grow(end)
        self._array.subarray(self.filled_bytes, end).assign(piece)
        self.filled_bytes = end

    def _grow(self, needed: int) -> None:
        size = min(max(needed, 2 * self._size, _FIRST_BYTES), self._most)
        self._room.take(size - self._size)
        older, self._array = self._array, self._js.Uint8Array.new(size)
        if older is not None:
            self._array.set(older)
        self._size = size

    def filled(self) -> Any:
        """The bytes so far, without a copy."""
        return self._js.Uint8Array.new(0) if self._array is None else self._array.subarray(0, self.filled_bytes)

    def empty(self) -> None:
        self.filled_bytes = 0

    def drop(self) -> None:
        self._array = None
        self._room.give_back(self._size)
        self._size = self.filled_bytes = 0


class Upload:
    """Shape: ``size_bytes`` and ``sha256`` grow; ``at`` is the name of the bytes of a large upload, else empty."""

    def __init__(self, bucket: Bucket, room: Room, *, large_prefix: str, part_bytes: int) -> None:
        self._bucket, self._prefix, self._part_bytes = bucket, large_prefix, part_bytes
        self._buffer = _Buffer(room, part_bytes)
        self._hash = hashlib.sha256()
        self._multipart: Any = None
        self._parts: list[Any] = []
        self._is_whole = False
        self._is_kept = False
        self.size_bytes = 0
        self.at = ""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def write(self, chunk: bytes) -> None:
        """Errors: LimitExceeded when there would be more parts than R2 takes; Unavailable."""
        self._hash.update(chunk)
        self.size_bytes += len(chunk)
        view = memoryview(chunk)
        while view:
            if not self._buffer.room_bytes:
                await self._send()
            piece = view[: self._buffer.room_bytes]
            self._buffer.add(piece)
            view = view[len(piece) :]

    async def _send(self) -> None:
        if len(self._parts) == LARGEST_PARTS:
            raise LimitExceeded(
                f"the blob is larger than {LARGEST_PARTS * self._part_bytes} bytes, which are {LARGEST_PARTS} parts"
            )
        if self._multipart is None:
            self.at = uuid4().hex
            self._multipart = await self._bucket.begin(self._prefix + self.at)
        number = len(self._parts) + 1
        self._parts.append(await self._bucket.send_part(self._multipart, number, self._buffer.filled()))
        self._buffer.empty()

    async def finish(self) -> None:
        """Send what is left of a large upload. Nobody sees it yet."""
        if self.at:
            await self._send()

    async def publish(self, name: str, metadata: dict[str, str]) -> bool:
        """Make it the object of this name; False if the name is taken. The hash has been checked by now."""
        said = metadata | {"sha256": self.sha256}
        if not self.at:
            self._is_kept = await self._bucket.put(
                name, self._buffer.filled(), said, only_if=ABSENT, sha256=self.sha256
            )
            return self._is_kept
        if not self._is_whole:
            await self._bucket.complete(self._multipart, self._parts)
            self._is_whole = True
        said |= {"at": self.at, "size": str(self.size_bytes)}
        self._is_kept = await self._bucket.put(name, self.at, said, only_if=ABSENT)
        return self._is_kept

    def keep(self) -> None:
        """It is a blob already: an earlier try made it, whose answer was lost."""
        self._is_kept = True

    async def end(self) -> None:
        """Leave nothing at R2 that is not a blob. What cannot be removed now goes by the rules of the bucket."""
        self._buffer.drop()
        if self._multipart is None or self._is_kept:
            return
        try:
            await self._bucket.abort(self._multipart)
            await self._bucket.delete([self._prefix + self.at])
        except AsmanError as error:
            _log.warning("an unfinished upload stays for now", extra={"reason": error.message})
