"""An R2 binding told in Python: bytes and dicts go in, records come out, its errors are ours.

What crosses the border is converted here and nowhere else. Every call has a deadline. A call that may be repeated is
tried again when R2 says that it is busy or broken; each of them may: a write is conditional, or the same again.

Source: developers.cloudflare.com/r2/api/workers/workers-api-reference, .../r2/api/error-codes.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from asman.errors import AsmanError, StorageFull, Unavailable

__all__ = ["ABSENT", "Body", "Bucket", "Seen", "only_etag"]

_TRIES = 5
"""With their pauses some four seconds: R2 takes one write a second for one name."""
_FIRST_PAUSE_S = 0.1
_CALL_S = 30.0
_SEND_S = 300.0
"""How long one call may take that carries bytes to R2."""

_CODE = re.compile(r"\((\d{5,6})\)\s*$")
_FINAL = frozenset(("10002", "10003", "10006", "10011", "10012", "10020", "10024", "10025", "10037", "10042", "10048"))
"""Errors that another try meets again: no right, no bucket, no upload, a wrong part or name."""
_NO_RANGE = "10039"
_TOO_LARGE = "100100"

ABSENT: dict[str, str] = {"etagDoesNotMatch": "*"}
"""The condition that nothing has this name yet."""


def only_etag(etag: str) -> dict[str, str]:
    """The condition that what has this name is still that object."""
    return {"etagMatches": etag}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What R2 says about an object. Shape: ``metadata`` is the custom one, with names in lower case.

    Units: bytes; ``uploaded_at`` in seconds since the epoch.
    """

    size_bytes: int
    etag: str
    uploaded_at: float
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """An opened object. Shape: ``reader`` is a reader of its stream; None if there are no bytes to read."""

    seen: Seen
    reader: Any


class Bucket:
    """Errors: of all methods Unavailable, with R2's own words; StorageFull where an object may not be as large."""

    def __init__(self, binding: Any) -> None:
        import js
        from pyodide import ffi

        self._binding = binding
        self._js, self._ffi = js, ffi
        self._filling = self._options({"mode": "byob"})
        self.driver_errors = (ffi.JsException, TimeoutError, OSError)
        """What a stream of the runtime may raise."""

    # --- objects -----------------------------------------------------------------------------------------------------

    async def head(self, name: str) -> Seen | None:
        found = await self._ask("look at an object", lambda: self._binding.head(name))
        return None if self._is_nothing(found) else self._seen(found)

    async def put(
        self,
        name: str,
        data: Any,
        metadata: Mapping[str, str],
        *,
        only_if: Mapping[str, str] | None = None,
        sha256: str | None = None,
    ) -> bool:
        """Store it; False if the condition does not hold. Repeated after a lost answer it may answer False for its own.

        Shape:  ``data`` is text, or bytes of the host (``Buffer.filled``). With ``sha256`` R2 checks what it stores.
        """
        options: dict[str, Any] = {"customMetadata": dict(metadata)}
        options |= {} if only_if is None else {"onlyIf": dict(only_if)}
        options |= {} if sha256 is None else {"sha256": sha256}
        given = self._options(options)
        stored = await self._ask("store an object", lambda: self._binding.put(name, data, given), _SEND_S)
        return not self._is_nothing(stored)

    async def open(self, name: str, *, start: int = 0, stop: int | None = None, etag: str = "") -> Body | None:
        """The object from ``start`` on, which must lie within it; None if there is none, or ``etag`` is another's."""
        options: dict[str, Any] = {}
        if start or stop is not None:
            options["range"] = {"offset": start, **({} if stop is None else {"length": stop - start})}
        if etag:
            options["onlyIf"] = only_etag(etag)
        given = self._options(options)
        found = await self._ask("read an object", lambda: self._binding.get(name, given))
        if self._is_nothing(found):
            return None
        body = getattr(found, "body", None)
        if body is None or self._is_nothing(body):
            return None
        return Body(seen=self._seen(found), reader=body.getReader(self._filling))

    async def read(self, reader: Any, size_bytes: int) -> bytes:
        """The next bytes of a body, exactly so many but at its end. Errors: ``driver_errors``; nothing is repeated."""
        given = self._options({"min": size_bytes})
        async with self._within(_CALL_S):
            read = await reader.read(self._js.Uint8Array.new(size_bytes), given)
        value = read.value
        return b"" if self._is_nothing(value) else bytes(value.to_bytes())

    async def delete(self, names: Iterable[str]) -> None:
        """Remove up to 1000 objects; what is not there is no error."""
        given = self._ffi.to_js(list(names))
        await self._ask("remove objects", lambda: self._binding.delete(given))

    async def names(self, prefix: str, *, limit: int = 1000) -> list[str]:
        """The first names that start so, in order."""
        given = self._options({"prefix": prefix, "limit": limit})
        page = await self._ask("list objects", lambda: self._binding.list(given))
        return [entry.key for entry in page.objects]

    # --- uploads of several parts ------------------------------------------------------------------------------------

    async def begin(self, name: str) -> Any:
        """A multipart upload. If the answer is lost there is one that nobody knows: the bucket's rule removes it."""
        return await self._ask("begin an upload", lambda: self._binding.createMultipartUpload(name))

    async def send_part(self, upload: Any, number: int, data: Any) -> Any:
        """Shape: parts are counted from 1; all have one size, of at least 5 MiB, but the last."""
        return await self._ask("store a part", lambda: upload.uploadPart(number, data), _SEND_S)

    async def complete(self, upload: Any, parts: list[Any]) -> None:
        """Make it an object, or find that an earlier try has."""
        given = self._ffi.to_js(parts)
        try:
            await self._ask("complete an upload", lambda: upload.complete(given), _SEND_S)
        except Unavailable:
            if await self.head(upload.key) is None:
                raise

    async def abort(self, upload: Any) -> None:
        """Drop the parts; an upload that has ended is no error."""
        try:
            await self._ask("end an upload", lambda: upload.abort())
        except Unavailable as error:
            if "10024" not in error.message:
                raise

    # --- the border --------------------------------------------------------------------------------------------------

    async def _ask(self, what: str, call: Callable[[], Awaitable[Any]], within_s: float = _CALL_S) -> Any:
        pause_s = _FIRST_PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._within(within_s):
                    return await call()
            except self.driver_errors as error:
                told, is_final = _told(what, error)
                if is_final or not tries_left:
                    raise told from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s *= 3
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """``asyncio.timeout`` with a timer that goes when it is over.

        Pyodide's loop leaves a timer that is cancelled to run out, and a Worker may have 10,000 of them.
        """
        async with asyncio.timeout(None) as scope:
            late = self._ffi.create_proxy(lambda: scope.reschedule(0.0))
            timer = self._js.setTimeout(late, int(seconds * 1000))
            try:
                yield
            finally:
                self._js.clearTimeout(timer)
                late.destroy()

    def _options(self, given: Mapping[str, Any]) -> Any:
        return self._ffi.to_js(given, dict_converter=self._js.Object.fromEntries)

    def _is_nothing(self, value: Any) -> bool:
        return value is None or value is self._ffi.jsnull

    def _seen(self, found: Any) -> Seen:
        metadata: Any = getattr(found, "customMetadata", None)
        return Seen(
            size_bytes=int(found.size),
            etag=found.etag,
            uploaded_at=found.uploaded.getTime() / 1000,
            metadata={} if self._is_nothing(metadata) else {k.lower(): v for k, v in metadata.to_py().items()},
        )


def _told(what: str, error: BaseException) -> tuple[AsmanError, bool]:
    """R2's error as one of ours, and whether another try would meet it again."""
    if isinstance(error, TimeoutError):
        return Unavailable(f"R2 did not answer in time when it was to {what}; repeat the request"), False
    said = str(getattr(error, "message", error))[:300]
    found = _CODE.search(said)
    code = found[1] if found else ""
    if code == _TOO_LARGE:
        return StorageFull("R2 takes no object of this size; nothing was stored"), True
    return Unavailable(f"R2 failed to {what}: {said}; repeat the request"), code in _FINAL
