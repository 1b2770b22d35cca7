"""The blob store on a filesystem: ``FOLDER/ab/KEY``, where ``ab`` are the first digits of the key's sha256.

Owns one folder. Bytes go into ``FOLDER/.incoming`` first, are flushed to the disk there, and get their name by a hard
link, which fails if the name is taken: so a blob is complete when it is visible, and an existing one keeps its bytes.
The modification time of the file is the expiry of the blob. Moving it and removing an expired file exclude each
other by a lock on the file, also between processes.

All calls to the system happen in threads, and each piece of an upload is hashed and written in one hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import filecmp
import hashlib
import math
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar
from uuid import uuid4

from asman.abc import BlobInfo
from asman.completion import to_the_end
from asman.errors import (
    AsmanError,
    BadName,
    BlobNotFound,
    ConfigError,
    Conflict,
    HashMismatch,
    LimitExceeded,
    StorageFull,
    Unavailable,
    clip,
)

__all__ = ["FileBlobStore"]

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_CONTENT_KEY = re.compile(r"[0-9a-f]{64}")
_INCOMING = ".incoming"
_FANOUT = tuple(f"{number:02x}" for number in range(256))
_CHUNK_BYTES = 1 << 20
_ABANDONED_S = 3600.0
_LOOKED_AT_PER_PRUNE = 20_000
_REMEMBERED_S = 3600.0
_LAST_S = 8_000_000_000.0
"""No expiry is later than this, in the year 2223: filesystems cut later times without a word (ext4 in 2446)."""

P = ParamSpec("P")
T = TypeVar("T")


class FileBlobStore:
    """Blobs below one folder. Source: ``abc.BlobStore``.

    Shape:  ``stat`` knows the sha256 only of keys that are one; such a key takes no other bytes, asked or not.
    Errors: ConfigError when the folder cannot be made; BadName for a key that is none; Unavailable when the
            filesystem fails; StorageFull when it, or the quota, is used up.
    """

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder)
        self._pruner = _Pruner(self._root)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _prepare(self) -> None:
        if str(self._root) in ("", "."):
            raise ConfigError("the blob URL names no folder", hint="Use file:///path for a relative path.")
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            missing = {_INCOMING, *_FANOUT} - {entry.name for entry in os.scandir(self._root)}
            for name in missing:
                (self._root / name).mkdir(exist_ok=True)
            if missing:
                _flush_folder(self._root)
            _remove_abandoned(self._root / _INCOMING)
        except OSError as error:
            raise ConfigError(f"cannot use {self._root} for blobs: {error}") from error

    async def put(
        self,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        expires_at: float,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> BlobInfo:
        path = self._path(key)
        wanted = {digest for digest in (sha256, key if _CONTENT_KEY.fullmatch(key) else None) if digest is not None}
        upload = await _hop(_Upload, self._root / _INCOMING)
        try:
            async with contextlib.aclosing(_pieces(chunks, key, max_bytes)) as pieces:
                async for piece in pieces:
                    await _hop(upload.write, piece)
            for digest in wanted:
                if digest != upload.sha256:
                    raise HashMismatch(
                        f"the bytes for blob {clip(key)} have the sha256 {upload.sha256}, not {clip(digest)}"
                    )
            expires_at = await _hop(upload.publish, path, min(expires_at, _LAST_S))
        finally:
            await _hop(upload.discard)
        self._pruner.notice(expires_at)
        return BlobInfo(key=key, size_bytes=upload.size_bytes, sha256=upload.sha256, expires_at=expires_at)

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        return await _hop(_Chunks, self._path(key), max(start, 0), stop)

    async def stat(self, key: str) -> BlobInfo | None:
        found = await _hop(_stat, self._path(key))
        if found is None:
            return None
        digest = key if _CONTENT_KEY.fullmatch(key) else ""
        return BlobInfo(key=key, size_bytes=found.st_size, sha256=digest, expires_at=_expiry(found))

    async def extend(self, key: str, expires_at: float) -> None:
        await _hop(_extend, self._path(key), min(expires_at, _LAST_S))

    async def delete(self, key: str) -> None:
        path = self._path(key)
        await _hop(_delete, path)

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        return await _hop(self._pruner.prune, before, limit)

    def _path(self, key: str) -> Path:
        """Where the blob is. Errors: BadName; checked here again, because a path is made of it."""
        if not _KEY.fullmatch(key):
            raise BadName(f"blob key {clip(key)} is not 1 to 200 of A-Z a-z 0-9 . _ - without a dot in front")
        return self._root / hashlib.sha256(key.encode()).hexdigest()[:2] / key


# --- threads ---------------------------------------------------------------------------------------------------------


async def _hop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do it in a thread, and do not leave before the thread has: a cancelled upload must not write on."""
    return await to_the_end(asyncio.to_thread(_translated, work, *args, **kwargs), _close)


async def _close(result: object) -> None:
    """Nobody receives this any more."""
    if isinstance(result, _Upload):
        await asyncio.to_thread(result.discard)
    elif isinstance(result, _Chunks):
        await asyncio.to_thread(result.close)


def _translated(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return work(*args, **kwargs)
    except OSError as error:
        raise _storage_error(error) from error


def _storage_error(error: OSError) -> AsmanError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull("the disk of the blobs is full, or takes no file of this size; nothing was stored")
    return Unavailable(f"the disk of the blobs does not answer: {error.strerror}; repeat the request")


async def _pieces(chunks: AsyncIterable[bytes], key: str, max_bytes: int | None) -> AsyncGenerator[bytes, None]:
    """The chunks, put together to pieces of at least 1 MiB (but the last). Errors: LimitExceeded."""
    gathered: list[bytes] = []
    gathered_bytes = total_bytes = 0
    async for chunk in chunks:
        total_bytes += len(chunk)
        gathered_bytes += len(chunk)
        if max_bytes is not None and total_bytes > max_bytes:
            raise LimitExceeded(f"blob {clip(key)} is larger than {max_bytes} bytes, which is all that is allowed")
        gathered.append(chunk)
        if gathered_bytes >= _CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, gathered_bytes = [], 0
    if gathered_bytes:
        yield b"".join(gathered)


# --- one upload ------------------------------------------------------------------------------------------------------


class _Upload:
    """A file that has no name among the blobs yet. All methods run in threads, one after the other."""

    def __init__(self, incoming: Path) -> None:
        self._path = incoming / uuid4().hex
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._is_open = True
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size_bytes += len(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]

    def publish(self, path: Path, expires_at: float) -> float:
        """Flush, then give it its name; answers with the expiry of what now has that name.

        Errors: Conflict if the name stands for other bytes.
        """
        os.utime(self._file, ns=(_ns(expires_at), _ns(expires_at)))
        os.fsync(self._file)
        kept: float | None = expires_at
        while not self._link(path):
            kept = self._same_bytes_until(path, expires_at)
            if kept is not None:
                break
        _flush_folder(path.parent)
        return expires_at if kept is None else kept

    def _link(self, path: Path) -> bool:
        """False if the name is taken."""
        try:
            os.link(self._path, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            # A filesystem without hard links: the lock makes "look, then rename" one step for all who come here.
            with _locked(self._path.parent / ".."):
                if path.exists():
                    return False
                os.rename(self._path, path)
        return True

    def _same_bytes_until(self, path: Path, expires_at: float) -> float | None:
        """The later of both expiries if the present blob has these bytes; None if it has gone meanwhile."""
        try:
            # Under a content key there are no other bytes: whoever stored them was checked.
            if not _CONTENT_KEY.fullmatch(path.name) and not filecmp.cmp(self._path, path, shallow=False):
                raise Conflict(f"blob {clip(path.name)} exists with other bytes; a blob never changes, use another key")
        except FileNotFoundError:
            return None
        return _extend(path, expires_at)

    def discard(self) -> None:
        """Close it and remove its first name; the blob, if it became one, has another."""
        if self._is_open:
            self._is_open = False
            os.close(self._file)
        self._path.unlink(missing_ok=True)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Chunks:
    """The bytes of an opened blob, 1 MiB at a time. It stays readable when the blob is deleted meanwhile.

    The first chunk is read with the opening: most blobs are small, and need one hop then.
    """

    def __init__(self, path: Path, start: int, stop: int | None) -> None:
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobNotFound(f"no blob {clip(path.name)}") from None
        try:
            size_bytes = os.fstat(self._file).st_size
            self._at = start
            self._stop = size_bytes if stop is None else min(stop, size_bytes)
            self._ahead: bytes | None = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> bytes:
        """The next chunk, empty at the end; the file is closed with the last."""
        wanted = max(min(_CHUNK_BYTES, self._stop - self._at), 0)
        data = os.pread(self._file, wanted, self._at)
        self._at += len(data)
        if not data or self._at >= self._stop:
            self.close()
        return data

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data, self._ahead = self._ahead, None
        if data is None:
            data = await _hop(self._read) if self._file >= 0 else b""
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


# --- one file --------------------------------------------------------------------------------------------------------


def _ns(seconds: float) -> int:
    """Nanoseconds, as exact as the float: multiplying at once would round in the 7th digit after the point."""
    whole = int(seconds // 1)
    return whole * 1_000_000_000 + round((seconds - whole) * 1e9)


def _expiry(found: os.stat_result) -> float:
    whole, rest = divmod(found.st_mtime_ns, 1_000_000_000)
    return whole + rest / 1e9


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open it and keep others from moving its expiry or removing it. Errors: FileNotFoundError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks: one process at a time is all it can serve
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _extend(path: Path, expires_at: float) -> float | None:
    """Move the expiry later and answer with what it is now; None if there is no such file any more."""
    try:
        with _locked(path) as file:
            found = os.fstat(file)
            if found.st_nlink == 0:
                return None
            if _expiry(found) >= expires_at:
                return _expiry(found)
            os.utime(file, ns=(_ns(expires_at), _ns(expires_at)))
            os.fsync(file)
            return expires_at
    except FileNotFoundError:
        return None


def _delete(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), _locked(path):
        path.unlink()


def _delete_if_expired(path: Path, before: float) -> bool:
    """Look again under the lock: somebody may just have moved the expiry."""
    try:
        with _locked(path) as file:
            found = os.fstat(file)
            if found.st_nlink == 0 or _expiry(found) >= before:
                return False
            path.unlink()
            return True
    except FileNotFoundError:
        return False


def _flush_folder(folder: Path) -> None:
    """Put the names in it on stable storage."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _remove_abandoned(incoming: Path) -> None:
    """Uploads that a killed server left; those of another server that runs now are younger."""
    now = time.time()
    for entry in os.scandir(incoming):
        with contextlib.suppress(FileNotFoundError):
            if now - entry.stat().st_ctime > _ABANDONED_S:
                os.unlink(entry.path)


# --- pruning ---------------------------------------------------------------------------------------------------------


class _Pruner:
    """Walks the folders in a circle, a bounded number of files per call, and remembers where it was.

    After a whole circle it knows the earliest expiry that is left: until that moment there is nothing to look for.
    Blobs of other servers on the same folder are met by looking again after an hour at the latest.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._next = 0
        self._earliest = math.inf
        self._quiet_until = self._circled_at = -math.inf

    def notice(self, expires_at: float) -> None:
        """A blob was stored, perhaps in a folder that this circle has passed."""
        with self._lock:
            self._earliest = min(self._earliest, expires_at)
            self._quiet_until = min(self._quiet_until, expires_at)

    def prune(self, before: float, limit: int) -> int:
        """One call at a time, in a thread."""
        if before <= self._quiet_until and before < self._circled_at + _REMEMBERED_S:
            return 0
        removed = looked_at = 0
        for _ in _FANOUT:
            for entry in os.scandir(self._root / _FANOUT[self._next]):
                looked_at += 1
                if removed >= limit:
                    return removed
                removed += self._look(Path(entry.path), before)
            self._advance(before)
            if looked_at >= _LOOKED_AT_PER_PRUNE:
                break
        return removed

    def _look(self, path: Path, before: float) -> bool:
        found = _stat(path)
        if found is None:
            return False
        if _expiry(found) < before and _delete_if_expired(path, before):
            return True
        with self._lock:
            self._earliest = min(self._earliest, _expiry(found))
        return False

    def _advance(self, before: float) -> None:
        self._next = (self._next + 1) % len(_FANOUT)
        if self._next:
            return
        with self._lock:
            self._quiet_until, self._earliest = self._earliest, math.inf
            self._circled_at = before
        _remove_abandoned(self._root / _INCOMING)
