"""The stream that ``asman export`` writes and ``asman import`` reads: its items, their checksums, its end mark.

Owns the form and nothing else: no store, no file, no clock. Where bytes go to and come from is handed in.

A stream is a row of items. Each is one line of JSON (its head), exactly ``size`` bytes (its body), and a line with the
sha256 of both. So every item can be checked by itself, a reader needs no more memory than one piece of a body, and a
stream that was cut shows where its last whole item ends. The first item says what follows and in which format, the
last one how many items there were: a stream without it is not whole.

Names in a head are names of queues, jobs and blobs, checked as those of any stranger; none is ever a path.

Source: this project's; ``docs/export.md`` describes the format for others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from asman.errors import AsmanError, BadArchive, BadName, Unavailable, clip
from asman.identity import check_blob_key, check_job_id, check_namespace, check_queue_name
from asman.job import Job, State, decode_job, encode_job
from asman.strict_json import decode_json

__all__ = [
    "BLOB",
    "END",
    "FORMAT",
    "JOB",
    "LOG",
    "START",
    "ArchiveItem",
    "ArchiveReader",
    "ArchiveWriter",
    "Counts",
    "join_job",
    "split_job",
]

FORMAT = 1
"""Raised when a reader of the older form would misunderstand the newer one."""

START, JOB, LOG, BLOB, END = "asman-export", "job", "log", "blob", "end"

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 64 << 10
_SEAL_BYTES = 66
_MAGIC = f'{{"item":"{START}",'.encode()
_ANY_SIZE = 1 << 62
_LARGEST: Mapping[str, int] = {START: 0, JOB: 256 << 20, LOG: 16 << 20, BLOB: _ANY_SIZE, END: 0}
"""Bytes of a body. All but blobs are read into memory as a whole."""

_MEMBERS: Mapping[str, Mapping[str, type]] = {
    START: {"format": int, "at": float, "by": str, "queues": list},
    JOB: {"queue": str, "job_id": str, "version": int, "record": int, "documents": dict},
    LOG: {"queue": str, "job_id": str, "attempt": int, "half": str, "start": int, "lines": int, "total": int},
    BLOB: {"key": str, "expires_at": float},
    END: {"jobs": int, "logs": int, "blobs": int, "bytes": int},
}
_CHECKS: Mapping[str, Callable[[str], str]] = {
    "queue": check_queue_name,
    "job_id": check_job_id,
    "key": check_blob_key,
}


@dataclass(slots=True)
class Counts:
    """Whole items of a stream so far, the first not counted."""

    jobs: int = 0
    logs: int = 0
    blobs: int = 0

    def add(self, kind: str) -> None:
        if kind in (JOB, LOG, BLOB):
            name = f"{kind}s"
            setattr(self, name, getattr(self, name) + 1)


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class ArchiveWriter:
    """Writes items one after the other.

    Shape:  ``write`` takes bytes and returns when more may come. To go on with a stream that was cut, give what its
            reader found: ``position`` (bytes) and ``counts`` of its whole items.
    """

    write: Callable[[bytes], Awaitable[None]]
    position: int = 0
    counts: Counts = field(default_factory=Counts)

    async def start(self, *, at: float, by: str, queues: Sequence[str]) -> None:
        """The first item. Shape: no ``queues`` stands for the whole store. Units: seconds since the epoch."""
        await self.put(START, {"format": FORMAT, "at": at, "by": by, "queues": list(queues)})

    async def put(self, kind: str, members: Mapping[str, Any], *parts: bytes) -> None:
        """One item whose body is at hand."""
        head = _head(kind, sum(map(len, parts)), members)
        digest = hashlib.sha256(head)
        for part in parts:
            digest.update(part)
        await self._emit(b"".join([head, *parts, _seal(digest.hexdigest())]))
        self.counts.add(kind)

    async def stream(self, kind: str, members: Mapping[str, Any], size: int, chunks: AsyncIterable[bytes]) -> None:
        """One item whose body comes in pieces, ``size`` bytes in all.

        Errors: Unavailable if it is shorter or longer than said; the stream is cut there then.
        """
        head = _head(kind, size, members)
        digest, left = hashlib.sha256(head), size
        await self._emit(head)
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            await self._emit(chunk)
        if left:
            what = members.get("key", kind)
            raise Unavailable(f"the store gave {size - left} bytes of {clip(what)}, which should have {size}")
        await self._emit(_seal(digest.hexdigest()))
        self.counts.add(kind)

    async def end(self) -> None:
        """The last item: without it the stream is not whole."""
        done = self.counts
        await self.put(END, {"jobs": done.jobs, "logs": done.logs, "blobs": done.blobs, "bytes": self.position})

    async def _emit(self, data: bytes) -> None:
        await self.write(data)
        self.position += len(data)


def _head(kind: str, size: int, members: Mapping[str, Any]) -> bytes:
    return json.dumps({"item": kind, "size": size, **members}, separators=(",", ":")).encode() + b"\n"


def _seal(digest: str) -> bytes:
    return f"\n{digest}\n".encode()


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class ArchiveItem:
    """One item, its head checked. The body is read once, by ``read`` or ``chunks``, before the next item is asked for.

    Shape:  ``members`` are those of the kind, as ``docs/export.md`` lists them; ``size`` in bytes.
    """

    kind: str
    size: int
    members: Mapping[str, Any]
    _reader: ArchiveReader

    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces of at most 1 MiB. Errors: BadArchive, at the latest in the place of the end."""
        return self._reader._body()

    async def read(self) -> bytes:
        """The whole body, checked."""
        return b"".join([chunk async for chunk in self.chunks()])


class ArchiveReader:
    """Reads items one after the other, from any source of bytes.

    Shape:  ``read(n)`` answers with 1 to n bytes, and with none at the end. ``position`` is the end of the last whole
            item in bytes, ``counts`` what whole items there were, ``consumed`` all bytes looked at; ``is_cut`` is set
            when the stream ended too early, ``is_whole`` when its end mark was met.
    Errors: BadArchive, saying what is wrong and at which byte.
    """

    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self._read = read
        self._ahead, self._at = b"", 0
        self._left = 0
        self._is_sealed = True
        self._digest = hashlib.sha256()
        self._kind = ""
        self._first: Mapping[str, Any] | None = None
        self.consumed = 0
        self.position = 0
        self.counts = Counts()
        self.is_cut = False
        self.is_whole = False

    async def start(self) -> Mapping[str, Any]:
        """The members of the first item; asked again, the same. Errors: BadArchive for what is none of ours."""
        if self._first is not None:
            return self._first
        while len(self._ahead) < len(_MAGIC) and await self._fill():
            pass
        if self._ahead and len(self._ahead) < len(_MAGIC) and _MAGIC.startswith(self._ahead):
            raise self._cut()
        self.is_cut = not self._ahead
        _check_is_ours(self._ahead)
        item = await self._next()
        await item.read()
        self._first = item.members
        return self._first

    async def items(self) -> AsyncIterator[ArchiveItem]:
        """Every item behind the first and before the end mark; what is not read of a body is passed over, checked."""
        while True:
            item = await self._next()
            if item.kind == END:
                await self._check_end(item)
                return
            yield item
            async for _ in self._body():
                pass

    async def _next(self) -> ArchiveItem:
        line = await self._line()
        self._digest = hashlib.sha256(line)
        kind, size, members = self._checked_head(line)
        if (kind == START) != (self.position == 0):
            raise self._bad(f"an item {clip(kind)} has no place here")
        self._kind, self._left, self._is_sealed = kind, size, False
        return ArchiveItem(kind=kind, size=size, members=members, _reader=self)

    def _checked_head(self, line: bytes) -> tuple[str, int, Mapping[str, Any]]:
        try:
            head = decode_json(line)
        except AsmanError as error:
            raise self._bad(f"the head of an item cannot be read: {error.message}") from error
        if not isinstance(head, dict) or head.get("item") not in _MEMBERS:
            what = clip(head.get("item")) if isinstance(head, dict) else "no object"
            raise self._bad(f"the head of an item is {what}, which is no kind that this release knows")
        kind, size = head.pop("item"), head.pop("size", None)
        if not _is_count(size) or size > _LARGEST[kind]:
            raise self._bad(f"an item {kind} has the size {clip(size)}; at most {_LARGEST[kind]} bytes are allowed")
        if kind == START and head.get("format") != FORMAT:
            raise BadArchive(
                f"this export has format {clip(head.get('format'))}; this release reads format {FORMAT}",
                hint="Import it with the release that wrote it, or a newer one.",
            )
        try:
            _check_members(kind, head)
        except AsmanError as error:
            raise self._bad(f"an item {kind} is not as it should be: {error.message}") from error
        return kind, size, head

    async def _body(self) -> AsyncIterator[bytes]:
        """What is left of the present body; its checksum is looked at before the end is told."""
        while self._left:
            if self._at == len(self._ahead) and not await self._fill():
                raise self._cut()
            piece = self._ahead[self._at : self._at + min(self._left, _CHUNK_BYTES)]
            self._at += len(piece)
            self.consumed += len(piece)
            self._left -= len(piece)
            self._digest.update(piece)
            yield piece
        if not self._is_sealed:
            await self._check_seal()

    async def _check_seal(self) -> None:
        while len(self._ahead) - self._at < _SEAL_BYTES:
            if not await self._fill():
                raise self._cut()
        seal = self._ahead[self._at : self._at + _SEAL_BYTES]
        if seal != _seal(self._digest.hexdigest()):
            raise self._bad("the item that starts here is damaged: its bytes do not have its checksum")
        self._at += _SEAL_BYTES
        self.consumed += _SEAL_BYTES
        self.position = self.consumed
        self._is_sealed = True
        self.counts.add(self._kind)

    async def _check_end(self, item: ArchiveItem) -> None:
        before = self.position
        await item.read()
        found = {"jobs": self.counts.jobs, "logs": self.counts.logs, "blobs": self.counts.blobs, "bytes": before}
        if dict(item.members) != found:
            raise self._bad(f"the end mark counts {_told(item.members)}, but there were {_told(found)}")
        if self._at < len(self._ahead) or await self._fill():
            raise self._bad("there are bytes behind the end mark")
        self.is_whole = True

    async def _line(self) -> bytes:
        """The next line with its end."""
        while (end := self._ahead.find(b"\n", self._at)) < 0 and len(self._ahead) - self._at <= _HEAD_BYTES:
            if not await self._fill():
                raise self._cut()
        if end < 0 or end - self._at > _HEAD_BYTES:
            raise self._bad(f"the head of an item is longer than {_HEAD_BYTES} bytes")
        line = self._ahead[self._at : end + 1]
        self._at = end + 1
        self.consumed += len(line)
        return line

    async def _fill(self) -> bool:
        more = await self._read(_CHUNK_BYTES)
        self._ahead, self._at = self._ahead[self._at :] + more, 0
        return bool(more)

    def _cut(self) -> BadArchive:
        self.is_cut = True
        return BadArchive(
            f"the export ends at byte {self.consumed + len(self._ahead) - self._at} without its end mark: it was cut",
            hint="Get the whole file (asman export --resume goes on with it) and import again; nothing is done twice.",
        )

    def _bad(self, what: str) -> BadArchive:
        return BadArchive(
            f"{what} (byte {self.position} of the export)",
            hint="Make the export anew, or copy its file again; what was imported before this place is whole.",
        )


def _check_is_ours(first: bytes) -> None:
    if first.startswith(_MAGIC):
        return
    if not first:
        raise BadArchive("the file is empty; an export was expected")
    if first.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        raise BadArchive(
            "the file is compressed", hint="Unpack it on the way: gzip -dc FILE | asman import -  (or zstd -dc)."
        )
    raise BadArchive(f"the file is no export of asman: it starts with {clip(first[:20])}")


def _check_members(kind: str, members: dict[str, Any]) -> None:
    """Exactly the members of the kind, each of its type. Errors: BadArchive, BadName."""
    wanted = _MEMBERS[kind]
    if members.keys() != wanted.keys():
        odd = sorted(members.keys() ^ wanted.keys())[0]
        raise BadArchive(f"the member {clip(odd)} is missing or unknown")
    for name, type_ in wanted.items():
        value = members[name]
        right = _is_count(value) if type_ is int else _is_time(value) if type_ is float else isinstance(value, type_)
        if not right:
            raise BadArchive(f"{name} is {clip(value)}")
        if name in _CHECKS:
            _CHECKS[name](value)
    if kind == LOG and members["half"] not in ("build", "run"):
        raise BadName(f"half is {clip(members['half'])}; known are build and run")
    if kind == JOB and not all(name.isalpha() and _is_count(size) for name, size in members["documents"].items()):
        raise BadArchive("documents is not a size for each name")
    if kind == START and not all(isinstance(name, str) for name in members["queues"]):
        raise BadArchive("queues is no list of names")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _ANY_SIZE


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e308 < value < 1e308


def _told(counts: Mapping[str, Any]) -> str:
    return f"{counts['jobs']} jobs, {counts['logs']} logs and {counts['blobs']} blobs in {counts['bytes']} bytes"


# --- a job's item ----------------------------------------------------------------------------------------------------


def join_job(job: Job, documents: Mapping[str, bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """The members and the body of a job's item: its record, then its documents in the order of the members."""
    record = encode_job(job)
    sizes = {name: len(data) for name, data in documents.items()}
    named = {"queue": job.queue, "job_id": job.job_id, "version": job.version}
    return {**named, "record": len(record), "documents": sizes}, [record, *documents.values()]


def split_job(members: Mapping[str, Any], body: bytes) -> tuple[Job, dict[str, bytes]]:
    """What ``join_job`` put together.

    Errors: BadArchive if the sizes do not add up, or the record is none or another job's than the head says.
    """
    sizes: Mapping[str, int] = members["documents"]
    where = f"job {clip(members['job_id'])}"
    if members["record"] + sum(sizes.values()) != len(body):
        raise BadArchive(f"{where}: the sizes of its record and documents are not the size of its item")
    job = _read_record(body[: members["record"]], where)
    if (job.queue, job.job_id, job.version) != (members["queue"], members["job_id"], members["version"]):
        raise BadArchive(f"{where}: its record is that of another job or version")
    documents, at = {}, members["record"]
    for name, size in sizes.items():
        documents[name], at = body[at : at + size], at + size
    return job, documents


def _read_record(data: bytes, where: str) -> Job:
    try:
        job = decode_job(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadArchive(f"{where}: its record cannot be read: {error!r}") from error
    wrong = [name for name, hint in _hints(Job).items() if not _is(getattr(job, name), hint)]
    if wrong or job.state is State.ABSENT or not job.version:
        raise BadArchive(f"{where}: its record has a wrong value in {wrong[0] if wrong else 'state or version'}")
    try:
        for name in job.namespace_names:
            check_namespace(name)  # stores make an index of them: no text that cannot be encoded
    except AsmanError as error:
        raise BadArchive(f"{where}: {error.message}") from error
    return job


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _is(value: Any, hint: Any) -> bool:
    """Does a value, read from JSON, have the type that a record's member is declared with?"""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, arg) for arg in args)
    if hint is float:
        return _is_time(value)
    if hint is int:
        return type(value) is int and -_ANY_SIZE < value < _ANY_SIZE
    if origin is tuple and args[-1] is Ellipsis:
        return isinstance(value, tuple) and all(_is(entry, args[0]) for entry in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_is, value, args))
    if is_dataclass(hint) and isinstance(hint, type):
        return isinstance(value, hint) and all(_is(getattr(value, n), h) for n, h in _hints(hint).items())
    return isinstance(value, origin or hint)
