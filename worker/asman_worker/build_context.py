"""A packed build context: its Dockerfile read, the archives in it measured, and the stream that the engine gets.

The stream is the packed tar with our writing of the Dockerfile behind it, under the same name: engines unpack in order,
so it replaces the author's.

``ADD`` unpacks archives inside the engine, where no container and no limit is. So what they unpack to is counted here
before: without writing anything, and only up to the limit.

Source: Dockerfile reference, ADD ("local tar archives"); POSIX pax, ustar.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from asman.errors import BadDefinition, LimitExceeded, clip
from asman.units import show_bytes

__all__ = ["ContextFile", "check_archives", "read_context", "stream"]

_MOST_DOCKERFILE = 1 << 20
_PIECE_BYTES = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFile:
    """What was read of a context. Shape: ``end`` is where the tar's own end mark begins."""

    text: str
    end: int


def read_context(tar: Path, dockerfile: str) -> ContextFile:
    """Read the Dockerfile; links inside the context are followed.

    Errors: BadDefinition if it is not there, too large, or no UTF-8.
    """
    with tarfile.open(tar, "r:") as opened:
        try:
            member = opened.getmember(dockerfile)
            file = opened.extractfile(member)
        except KeyError:
            file = None
        if file is None:
            raise BadDefinition(f"the build context has no file {clip(dockerfile)}", hint="Name it in build.filename.")
        content = file.read(_MOST_DOCKERFILE + 1)
        opened.getmembers()
        end = opened.offset
    if len(content) > _MOST_DOCKERFILE:
        raise BadDefinition(f"{clip(dockerfile)} is larger than {show_bytes(_MOST_DOCKERFILE)}")
    try:
        return ContextFile(text=content.decode(), end=end)
    except UnicodeDecodeError as error:
        raise BadDefinition(f"{clip(dockerfile)} is not UTF-8 text: {error}") from error


async def stream(tar: Path, end: int, dockerfile: str, text: str) -> AsyncIterator[bytes]:
    """The context with another Dockerfile."""
    with tar.open("rb") as file:
        left = end
        while left and (piece := await asyncio.to_thread(file.read, min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
    added = io.BytesIO()
    with tarfile.open(fileobj=added, mode="w", format=tarfile.PAX_FORMAT) as last:
        content = text.encode()
        entry = tarfile.TarInfo(dockerfile)
        entry.size, entry.mode = len(content), 0o644
        last.addfile(entry, io.BytesIO(content))
    yield added.getvalue()


# Archives -------------------------------------------------------------------------------------------------------------


def check_archives(tar: Path, *, times: int, limit_bytes: int, stop: threading.Event) -> None:
    """Count what the archives of a context unpack to, ``times`` over: for a thread; ``stop`` ends it soon.

    Errors: LimitExceeded; BadDefinition for one that cannot be counted.
    """
    left = limit_bytes // max(times, 1)
    with tarfile.open(tar, "r:") as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None:
                left -= _unpacked_bytes(file, member.name, left, stop)


def _unpacked_bytes(file: IO[bytes], name: str, left: int, stop: threading.Event) -> int:
    """What the engine would write for this file; 0 if it is no archive and is only copied."""
    head = file.read(512)
    file.seek(0)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    if kind == "zstd" or head[1:4] == _ZSTD_SKIPPABLE:
        raise BadDefinition(
            f"{clip(name)} is a zstd archive, whose size cannot be told before ADD unpacks it",
            hint="Use COPY and unpack it in a RUN step, or pack it with gzip.",
        )
    counted = _Counted(_plain(file, kind), name, left, stop)
    try:
        first = counted.read(512)
        if not _is_header(first):
            return 0
        counted.push_back(first)
        return _sum(counted, name, left)
    except (tarfile.TarError, OSError, EOFError, lzma.LZMAError, ValueError) as error:
        if not kind:
            return 0
        raise BadDefinition(
            f"{clip(name)} looks like an archive and cannot be read as one: {error}", hint="Use COPY instead of ADD."
        ) from error


def _sum(counted: _Counted, name: str, left: int) -> int:
    total = 0
    with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="r|") as inner:
        for entry in inner:
            total += entry.size
            inner.members = []  # type: ignore[attr-defined]  # else it keeps every entry
            if total > left:
                raise counted.too_large()
    return total


def _plain(file: IO[bytes], kind: str) -> IO[bytes]:
    opens: dict[str, Any] = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
    if kind == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    return cast("IO[bytes]", opens[kind](file)) if kind else file


def _is_header(block: bytes) -> bool:
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        return True
    return False


class _Counted:
    """A stream that is read only so far."""

    def __init__(self, file: IO[bytes], name: str, limit: int, stop: threading.Event) -> None:
        self._file, self._name, self._limit, self._stop = file, name, limit, stop
        self._read = 0
        self._back = b""

    def push_back(self, data: bytes) -> None:
        self._back = data

    def read(self, size: int) -> bytes:
        if self._stop.is_set():
            raise TimeoutError("stopped")
        if self._back:
            data, self._back = self._back[:size], self._back[size:]
            return data
        data = b"".join(self._pieces(size))
        self._read += len(data)
        if self._read > self._limit + tarfile.RECORDSIZE:
            raise self.too_large()
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (piece := self._file.read(size)):
            size -= len(piece)
            yield piece

    def too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"ADD would unpack {clip(self._name)} to more than this build may still write",
            hint="Add smaller archives, or each of them only once.",
            status=422,
        )
