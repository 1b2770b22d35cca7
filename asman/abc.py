"""The contracts of storage and notification. A backend is an object with these methods and nothing more.

Each sentence about a method has a test in ``asman.testing``; a backend that passes the kits is a good backend.
A backend opens and closes as an async context manager, once. Optional abilities are protocols of their own,
looked for once at start-up, never methods that raise.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from asman.job import Job, State

__all__ = [
    "BlobInfo",
    "BlobStore",
    "Deliverer",
    "Delivery",
    "JobStore",
    "KeepsTime",
    "KnowsListeners",
    "LogHalf",
    "LogSlice",
    "LogStore",
    "Meter",
    "Notifier",
    "SupportsLeading",
    "SupportsScan",
    "SupportsSignedUrls",
    "TellsAlone",
    "TellsDurability",
    "TellsGaps",
]

LogHalf = str
"""``build`` or ``run``."""


class _Opens(Protocol):
    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class JobStore(_Opens, Protocol):
    """Job records and the small documents beside them.

    Two writers that saw the same version cannot both save: the store compares ``expected`` with what it holds, in
    one step. What a method returned from is on stable storage (for stores that promise durability at all).
    Nothing here costs more for a longer queue, except by what it returns. Many calls are under way at once; one whose
    caller is cancelled is done as a whole or not at all.

    Shape:  a queue is text of up to 128 characters of ``[A-Za-z0-9._~-]``, a job id 64 lowercase hex digits, a
            namespace any text of up to 256 characters. All are compared as they are, case included.
    Errors: Unavailable when the store cannot answer now or is closed; nothing is changed then.
    """

    async def load(self, queue: str, job_id: str) -> Job | None:
        """The record, or None."""
        ...

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        """Write a record and its documents in one step; a document given as None is removed.

        Shape:  ``expected`` is the version that must be stored now, 0 for "no record yet"; ``job.version`` is the
                new one. Document names match ``[a-z]+``; a document is at most 64 KiB.
        Errors: Conflict if another version is stored; StorageFull; nothing is changed then.
        """
        ...

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        """One document, or None. Readable from the moment ``save`` returned."""
        ...

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        """Remove the record, its documents and its logs; nothing happens if there is no record.

        Errors: Conflict if another version is stored.
        """
        ...

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        """Queued and Running records that the namespace holds, by (queued_at, job_id)."""
        ...

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        """Records of this job in any queue, oldest ``queued_at`` first."""
        ...

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        """Records with ``due_at`` <= before, most overdue first."""
        ...

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        """How many records per (state, shape), from counters that are kept; zero counts are left out.

        Shape:  ``queue`` None counts the whole store. Removed records are not counted.
        """
        ...

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        """Records of a queue in these states, by (queued_at, job_id), from behind ``after``.

        Shape:  ``shape`` (``Requirements.shape``) narrows to the jobs with those requirements.
        """
        ...


@runtime_checkable
class SupportsScan(Protocol):
    """A job store whose records can be read through, for export."""

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        """Every record of the store: each that is there throughout at least once.

        Shape:  "" starts; an answered "" is the end.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSlice:
    """Lines ``start`` to ``start + len(lines)`` of one half of one attempt.

    Shape:  each line is the JSON text of ``[text, ms]`` or ``[text, ms, true]``; ``total`` counts all lines the
            attempt has had, also those dropped from the middle, so cursors never repeat.
    """

    attempt: int
    start: int
    lines: tuple[bytes, ...]
    total: int


@runtime_checkable
class LogStore(Protocol):
    """Log lines of the latest attempt of a job, appended while it runs. A job store offers this too."""

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        """Add lines and answer with the total; a newer attempt drops the older one's lines of both halves first.

        No lines change nothing. An older attempt's lines are ignored, and so are those of a job without a record (the
        answer is 0). At most the first and the last 4 MiB of a half are kept.
        """
        ...

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        """Lines from index ``since`` on, up to about ``max_bytes``; none is no error. Dropped lines are skipped,
        so ``start`` may be larger than ``since``."""
        ...

    async def drop_log(self, queue: str, job_id: str) -> None:
        """Forget both halves."""
        ...


@runtime_checkable
class KeepsTime(Protocol):
    """A job store with a clock of its own, which all servers that share the store go by."""

    def clock(self) -> float:
        """Seconds since the epoch, UTC. Asked often: answer from memory, never by a round trip."""
        ...


@runtime_checkable
class SupportsLeading(Protocol):
    """A job store in which one server of many can take a role, so that maintenance is done once."""

    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        """Take the role, or keep it. None if another holds it, who kept it within the last ``for_s`` seconds.

        Units: else how many seconds ago it was last kept, by anybody; very many if never.
        """
        ...


@runtime_checkable
class TellsDurability(Protocol):
    """A job store that knows what an acknowledged record survives. Shown by ``/readyz`` and with each submit."""

    @property
    def durability(self) -> str:
        """``disk`` (the power cord), ``everysec`` (all but the last second) or ``memory`` (nothing)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """Shape: ``sha256`` as 64 lowercase hex digits. Units: bytes; seconds since the epoch."""

    key: str
    size_bytes: int
    sha256: str
    expires_at: float


@runtime_checkable
class BlobStore(_Opens, Protocol):
    """Immutable byte strings under names of ``[A-Za-z0-9._-]{1,200}`` that do not start with a dot."""

    async def put(
        self,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        expires_at: float,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> BlobInfo:
        """Store all chunks or nothing; readers see the blob only when it is complete and on stable storage.

        A key that exists keeps its bytes: the same bytes again only extend its time. Memory does not grow with
        the size of the blob.

        Errors: HashMismatch if ``sha256`` is given and the bytes differ; LimitExceeded above ``max_bytes``;
                Conflict if the key exists with other bytes; StorageFull. Nothing of the attempt is left then,
                nor if the chunks end in an exception.
        """
        ...

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes ``start`` to ``stop`` (excluded; None for the end), in chunks of at most 1 MiB.

        Errors: BlobNotFound, at the call, before the first chunk.
        """
        ...

    async def stat(self, key: str) -> BlobInfo | None:
        """What is known without reading it; ``sha256`` may be empty where only reading would tell."""
        ...

    async def extend(self, key: str, expires_at: float) -> None:
        """Move the expiry later, never earlier; an absent key is no error."""
        ...

    async def delete(self, key: str) -> None:
        """Remove it; an absent key is no error."""
        ...

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """Remove up to ``limit`` blobs whose expiry is before this moment, and answer how many."""
        ...


@runtime_checkable
class SupportsSignedUrls(Protocol):
    """Blobs whose bytes can bypass the server. Who has such a URL needs nothing else; so it is valid for minutes.

    Bytes that came by a signed URL were not hashed by anybody: ``stat`` leaves their ``sha256`` empty, and readers
    check them. A later ``put`` of the same content key replaces them.
    """

    async def signed_get_url(self, key: str, *, valid_s: int, content_type: str, disposition: str) -> str:
        """Where a GET finds the bytes, ranges too, with this type and disposition whatever the uploader said."""
        ...

    async def signed_put_url(self, key: str, *, valid_s: int, size_bytes: int, expires_at: float) -> str:
        """Where a PUT of exactly so many bytes is stored, visible when all are there and kept until ``expires_at``."""
        ...


class Notifier(_Opens, Protocol):
    """Messages between the servers of one deployment (or within one). At most once is enough: whoever missed a
    message reads the store again."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand the bytes to every present subscriber of the topic, in the order of this publisher."""
        ...

    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        """Call ``deliver`` for every message from now on. It must not block; what it raises is logged."""
        ...

    async def unsubscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        """Stop; a deliver that is not subscribed is no error."""
        ...


@runtime_checkable
class KnowsListeners(Protocol):
    """A notifier that can tell when a message would reach nobody, so that it need not be made."""

    def is_heard(self, topic: str) -> bool:
        """False only if certainly nobody is subscribed to the topic, here or on another server."""
        ...


@runtime_checkable
class TellsAlone(Protocol):
    """A notifier that knows whether other servers take part."""

    @property
    def is_alone(self) -> bool:
        """True only if whatever is subscribed to a topic is subscribed here: who is connected need not be told."""
        ...


@runtime_checkable
class TellsGaps(Protocol):
    """A notifier that knows when messages of others may have been missed: its connection broke, for example."""

    def on_gap(self, again: Callable[[], None]) -> None:
        """Call ``again`` each time, as soon as messages come in again. It must not block."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One webhook call. Shape: ``body`` is JSON text; ``event_id`` is the same in every retry."""

    event_id: str
    url: str
    body: bytes
    sent_at: float


class Deliverer(Protocol):
    """Carries webhooks out. One call is one attempt, bounded in time; retrying is the caller's."""

    async def deliver(self, delivery: Delivery) -> bool:
        """True when the receiver took it (2xx); False to try again later.

        Errors: Unprocessable when it can never work (a refused address): not tried again.
        """
        ...


class Meter(_Opens, Protocol):
    """Is told what a server does and how long it took. Told in the middle of every request, so it only adds up: it
    does not wait, and what it raises is logged and changes nothing.
    """

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request has been answered, up to the first byte of the answer.

        Shape:  ``route`` is a template such as ``/q/{queue}``, or ``unmatched``, never a path; ``method`` a known
                one or ``other``: so all labels together are few, whatever strangers send.
        """
        ...

    def stored(self, operation: str, seconds: float, code: str) -> None:
        """An operation of a store has ended.

        Shape:  ``operation`` as ``jobs.save`` or ``blobs.get``. ``code`` is that of the error, ``internal_error`` for
                one that is not ours, empty if it succeeded.
        """
        ...

    def swept(self, lag_s: float) -> None:
        """A sweep has looked for what is due: the most overdue record was this late; 0 if none was due."""
        ...
