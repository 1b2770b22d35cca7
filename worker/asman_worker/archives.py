"""Archives from strangers, read entry by entry: nothing is unpacked onto this host.

What an archive is, its first bytes decide, not its name. An entry is a regular file, a folder or a symbolic link with
a name that stays inside; everything else (absolute names, ``..``, devices, pipes, names below a link or a file) is
left out, and said. Hard links become the file they point to. Symbolic links are handed on as they are and never
followed here.

Entries, bytes and the ratio of packing are capped before anything is read for the sake of its content, and the readers
themselves are kept from taking much memory: a compressed tar is first unwound into a file of limited size, and no
header may be larger than a header has any reason to be.

Source: POSIX pax interchange format; PKWARE APPNOTE.TXT; contract, "Image build", "Context".
"""

from __future__ import annotations

import bz2
import calendar
import gzip
import lzma
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal, Protocol, cast

from asman.errors import BadDefinition, LimitExceeded, clip
from asman.units import show_bytes

__all__ = ["Archive", "Caps", "Entry", "Stopped", "is_archive", "open_archive", "read_errors", "strip_wrapper"]

_CHUNK_BYTES = 1 << 20
_HEADER_BYTES = 32 << 10
_LINK_BYTES = 4096
_RATIO = 200
_RATIO_FROM_BYTES = 32 << 20
_XZ_MEMORY_BYTES = 256 << 20
_NAME_BYTES = 4096
_DEPTH = 64
_CENTRAL = b"PK\x01\x02"
_HEAD_BYTES = 512
_NOTES = 20

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    RecursionError,
    NotImplementedError,
)


class Stopped(Exception):
    """The work in a thread was asked to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in an archive.

    Shape:  ``name`` is relative, without ``.`` and ``..``; ``target`` is a link's text; ``source`` is the reader's
            own.
    """

    name: str
    kind: Literal["file", "folder", "link"]
    mode: int = 0o644
    mtime_s: int = 0
    size: int = 0
    target: str = ""
    source: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What one archive may hold, and the flag that ends the work on it."""

    max_bytes: int
    max_files: int
    stop: threading.Event = field(default_factory=threading.Event)

    def check_running(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def check(self, *, files: int = 0, size: int = 0, packed: int = 0) -> None:
        """Errors: LimitExceeded; Stopped."""
        self.check_running()
        if files > self.max_files:
            raise LimitExceeded(
                f"the build context has more than the {self.max_files} files that this worker allows",
                hint="Leave out what the build does not need.",
            )
        if size > self.max_bytes:
            raise LimitExceeded(
                f"the build context unpacks to more than the {show_bytes(self.max_bytes)} that this worker allows",
                hint="Leave out what the build does not need, or fetch large files in the Dockerfile.",
            )
        if packed and size > max(_RATIO_FROM_BYTES, _RATIO * packed):
            raise LimitExceeded(
                f"the archive of {show_bytes(packed)} unpacks to more than {_RATIO} times its size, which is refused",
                hint="Pack it without what is only zeros.",
            )


class _Opens(Protocol):
    def __call__(self, entry: Entry) -> IO[bytes]: ...


@dataclass(slots=True, kw_only=True)
class Archive:
    """What is in an archive. Shape: ``entries`` by name; ``notes`` are lines about what was left out."""

    entries: dict[str, Entry]
    opens: _Opens
    notes: list[str] = field(default_factory=list)

    def read(self, entry: Entry, limit_bytes: int) -> bytes:
        """A small file's content. Errors: LimitExceeded; BadDefinition if it is damaged."""
        if entry.size > limit_bytes:
            raise LimitExceeded(
                f"{clip(entry.name)} has {show_bytes(entry.size)}; at most {show_bytes(limit_bytes)} are allowed"
            )
        with read_errors(), self.opens(entry) as file:
            return file.read(limit_bytes)


@contextmanager
def read_errors() -> Iterator[None]:
    """Damage found while reading, as the job's fault."""
    try:
        yield
    except _DAMAGED as error:
        raise BadDefinition(
            f"the archive of the build context is damaged or not understood: {clip(str(error) or type(error).__name__)}"
        ) from error
    except RuntimeError as error:  # how zipfile asks for a password
        raise BadDefinition(f"the archive of the build context cannot be read: {clip(str(error))}") from error


def _kind_of(head: bytes) -> str:
    for magic, kind in (
        (b"\x1f\x8b", "gz"),
        (b"BZh", "bz2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!", "rar"),
    ):
        if head.startswith(magic):
            return kind
    return "tar" if _is_tar(head) else ""


def _is_tar(head: bytes) -> bool:
    """By the header's checksum: archives older than POSIX have no magic word."""
    try:
        tarfile.TarInfo.frombuf(head[:_HEAD_BYTES].ljust(_HEAD_BYTES, b"\0"), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def is_archive(file: IO[bytes]) -> bool:
    """Does this file start as an archive does, of a kind that is understood or not?"""
    file.seek(0)
    return bool(_kind_of(file.read(_HEAD_BYTES)))


def open_archive(file: IO[bytes], caps: Caps, spool: Callable[[], IO[bytes]]) -> Archive:
    """Read what an archive holds. Its content is read later from ``file``, or from what ``spool`` opened.

    Errors: BadDefinition for what is damaged, encrypted or of a kind not understood; LimitExceeded; Stopped.
    """
    file.seek(0)
    kind = _kind_of(file.read(_HEAD_BYTES))
    packed = file.seek(0, 2)
    file.seek(0)
    with read_errors():
        if kind == "zip":
            return _read_zip(file, caps, packed)
        if kind == "tar":
            return _read_tar(file, caps, packed=0)
        if kind in _UNWINDERS:
            return _read_tar(_unwind(_UNWINDERS[kind](file), caps, packed, spool()), caps, packed=packed)
    what = f"of the kind {kind}, which is not understood" if kind else "not an archive"
    raise BadDefinition(
        f"what build.context names is {what}", hint="Use .tar, .tar.gz, .tar.bz2, .tar.xz or .zip, or a git repository."
    )


def strip_wrapper(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Without the one folder in which everything lies, if there is exactly that at the top.

    What macOS adds beside it (``__MACOSX``) does not count, and is left out.
    """
    kept = {name: entry for name, entry in entries.items() if name.partition("/")[0] != "__MACOSX"}
    tops = {name.partition("/")[0] for name in kept}
    if len(tops) != 1 or any(entry.kind != "folder" for name, entry in kept.items() if "/" not in name):
        return kept
    prefix = f"{tops.pop()}/"
    inner = {name.removeprefix(prefix): entry for name, entry in kept.items() if name.startswith(prefix)}
    return {name: replace(entry, name=name) for name, entry in inner.items()}


class _Collector:
    """Gathers entries under checked names; the last of a name wins, as when unpacking."""

    def __init__(self, caps: Caps, packed: int) -> None:
        self._caps, self._packed = caps, packed
        self._entries: dict[str, Entry] = {}
        self._left_out: list[str] = []
        self._seen = self._size = 0

    def count(self, size: int) -> None:
        self._seen += 1
        self._size += size
        self._caps.check(files=self._seen, size=self._size, packed=self._packed)

    def add(self, name: str, entry: Entry) -> None:
        self.count(entry.size)
        if (short := _safe_name(name)) is None:
            self.leave_out(name, "its name does not stay inside")
        elif short:
            self._entries.pop(short, None)
            self._entries[short] = replace(entry, name=short)

    def file(self, name: str) -> Entry | None:
        short = _safe_name(name)
        entry = self._entries.get(short) if short else None
        return entry if entry is not None and entry.kind == "file" else None

    def leave_out(self, name: str, reason: str) -> None:
        self._left_out.append(f"{clip(name)} is left out: {reason}")

    def archive(self, opens: _Opens) -> Archive:
        kept = {}
        for name, entry in self._entries.items():
            self._caps.check_running()
            if any(self._entries[above].kind != "folder" for above in _above(name) if above in self._entries):
                self.leave_out(name, "what is above it is not a folder")
            else:
                kept[name] = entry
        notes = self._left_out[:_NOTES]
        if more := len(self._left_out) - len(notes):
            notes.append(f"{more} more entries are left out")
        return Archive(entries=kept, opens=opens, notes=notes)


def _above(name: str) -> Iterator[str]:
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)


def _safe_name(name: str) -> str | None:
    """The name in its shortest form, empty for the top itself; None if it leads outside, or nowhere."""
    if name.startswith("/") or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if (
        ".." in parts
        or len(parts) > _DEPTH
        or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts)
    ):
        return None
    return "/".join(parts)


# tar ------------------------------------------------------------------------------------------------------------


class _Headers:
    """A file for a reader of headers: one that asks for much at once, or for much in all, is refused."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        self._file = file
        self._left: int | None = most_bytes

    def open_content(self) -> None:
        self._left = None

    def read(self, size: int = -1) -> bytes:
        if self._left is not None:
            self._left -= size
            if not 0 <= size <= _HEADER_BYTES or self._left < 0:
                raise ValueError("its headers are too large")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read_tar(file: IO[bytes], caps: Caps, *, packed: int) -> Archive:
    headers = _Headers(file, (4 << 20) + 4096 * caps.max_files)
    found = _Collector(caps, packed)
    stream = cast(IO[bytes], headers)
    tar = tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8", errors="surrogateescape")
    while (member := tar.next()) is not None:
        _take_member(member, found)
    _check_end(file, tar.offset)
    headers.open_content()

    def opens(entry: Entry) -> IO[bytes]:
        return cast(IO[bytes], tar.extractfile(entry.source))

    return found.archive(opens)


def _take_member(member: tarfile.TarInfo, found: _Collector) -> None:
    mode, mtime = member.mode & 0o7777, _seconds(member.mtime)
    if member.isdir():
        found.add(member.name, Entry(name="", kind="folder", mode=mode, mtime_s=mtime))
    elif member.issym():
        found.add(member.name, Entry(name="", kind="link", mtime_s=mtime, target=member.linkname))
    elif member.islnk():
        original = found.file(member.linkname)
        if original is None:
            found.count(0)
            found.leave_out(member.name, "it is a hard link to what is not in the archive")
        else:
            found.add(member.name, original)
    elif member.isreg():
        if member.size < 0:
            raise ValueError("a file has a negative size")
        entry = Entry(name="", kind="file", mode=mode, mtime_s=mtime, size=member.size, source=member)
        found.add(member.name, entry)
    else:
        found.count(0)
        found.leave_out(member.name, "it is not a file, folder or symbolic link")


def _seconds(when: float) -> int:
    """A time that every tar header can hold."""
    return int(when) if 0 <= when < 1 << 33 else 0


def _check_end(file: IO[bytes], position: int) -> None:
    """The reader takes a broken header for the end; behind the true end there is nothing, or zeros."""
    file.seek(position)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError("a header in it is broken")


def _unwind(chunks: Iterator[bytes], caps: Caps, packed: int, target: IO[bytes]) -> IO[bytes]:
    """A compressed tar as a plain one, in a file, within limits for content and headers."""
    size = 0
    most = replace(caps, max_bytes=caps.max_bytes + 2048 * caps.max_files + (1 << 20))
    for chunk in chunks:
        size += len(chunk)
        most.check(size=size, packed=packed)
        target.write(chunk)
    target.flush()
    target.seek(0)
    head = target.read(_HEAD_BYTES)
    target.seek(0)
    if not head or (_kind_of(head) != "tar" and head.strip(b"\0")):
        raise BadDefinition("what build.context names is compressed, but not a tar archive")
    return target


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _xz_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """lzma's own file reader has no limit for the memory that an archive may ask for."""
    data = file.read(_CHUNK_BYTES)
    while data.strip(b"\0"):
        unwinder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not unwinder.eof:
            if unwinder.needs_input and not data and not (data := file.read(_CHUNK_BYTES)):
                raise EOFError("the compressed data ends early")
            yield unwinder.decompress(data, max_length=_CHUNK_BYTES)
            data = b""
        data = unwinder.unused_data.lstrip(b"\0") or file.read(_CHUNK_BYTES)


_UNWINDERS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    "gz": lambda file: _chunks(cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb"))),
    "bz2": lambda file: _chunks(bz2.BZ2File(file, mode="rb")),
    "xz": _xz_chunks,
}


# zip ------------------------------------------------------------------------------------------------------------


class _CountedZip:
    """A file for zipfile, which reads the whole directory at once: one with too many entries is refused unread."""

    def __init__(self, file: IO[bytes], caps: Caps) -> None:
        self._file, self._caps = file, caps
        self.is_open = False

    def read(self, size: int = -1) -> bytes:
        if not self.is_open and size > (4 << 20) + 512 * self._caps.max_files:
            raise ValueError("its directory is too large")
        data = self._file.read(size)
        if not self.is_open:
            self._caps.check(files=data.count(_CENTRAL))
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _read_zip(file: IO[bytes], caps: Caps, packed: int) -> Archive:
    counted = _CountedZip(file, caps)
    archive = zipfile.ZipFile(cast(IO[bytes], counted), "r")
    counted.is_open = True
    found = _Collector(caps, packed)
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise BadDefinition("the archive of the build context is encrypted", hint="Pack it without a password.")
        _take_info(archive, info, found)

    def opens(entry: Entry) -> IO[bytes]:
        return archive.open(entry.source)

    return found.archive(opens)


def _take_info(archive: zipfile.ZipFile, info: zipfile.ZipInfo, found: _Collector) -> None:
    mode, mtime = info.external_attr >> 16, _zip_seconds(info.date_time)
    kind = stat.S_IFMT(mode)
    if info.is_dir():
        found.add(info.filename, Entry(name="", kind="folder", mode=mode & 0o7777 or 0o755, mtime_s=mtime))
    elif kind == stat.S_IFLNK:
        if info.file_size > _LINK_BYTES:
            raise ValueError("a symbolic link in it is too long")
        target = archive.read(info).decode("utf-8", "surrogateescape")
        found.add(info.filename, Entry(name="", kind="link", mtime_s=mtime, target=target))
    elif kind in (0, stat.S_IFREG):
        entry = Entry(
            name="", kind="file", mode=mode & 0o7777 or 0o644, mtime_s=mtime, size=info.file_size, source=info
        )
        found.add(info.filename, entry)
    else:
        found.count(0)
        found.leave_out(info.filename, "it is not a file, folder or symbolic link")


def _zip_seconds(when: tuple[int, int, int, int, int, int]) -> int:
    """Zip archives know no time zone; UTC is as good as any, and the same everywhere."""
    try:
        return _seconds(calendar.timegm(when))
    except (OverflowError, ValueError):
        return 0
