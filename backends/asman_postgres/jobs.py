"""The job store and log store on PostgreSQL: what each method asks of the database.

Owns the mapping between records and rows. Saves that wait at the same time go together, in one transaction and one
round trip (``batches``), and so do loads; each save is taken or refused by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from asman.abc import LogHalf, LogSlice
from asman.batches import Batches
from asman.errors import AsmanError, Conflict, clip
from asman.job import Job, State, decode_job, encode_job
from asman_postgres.database import Database
from asman_postgres.schema import STATE_NUMBERS

__all__ = ["PostgresJobStore"]

_log = logging.getLogger(__name__)

_LANES = 2
_BATCH = 256
_FOLD_EVERY = 1_000
_KEEP_EVERY_S = 10.0
_CLOCK_TRIP_S = 0.05
_HALF_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10
_BEFORE_ALL = (-1e308, "")
_STATES = {number: state for state, number in STATE_NUMBERS.items()}


@dataclass(slots=True)
class _Save:
    job: Job
    expected: int
    record: bytes
    documents: dict[str, bytes | None]


class PostgresJobStore:
    """Jobs, documents and logs in one schema of a database. Source: ``abc.JobStore`` and ``abc.LogStore``.

    Has a clock (``abc.KeepsTime``: the database's), tells its durability, can be scanned, and gives out roles.

    Errors: ConfigError when opening a database that refuses us or holds something else; Unavailable while it cannot be
            reached, is read-only, or has no connection left; StorageFull. It recovers when the database does.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._saves: Batches[_Save, int | None] = Batches(self._save_together, lanes=_LANES, size=_BATCH)
        self._loads: Batches[tuple[str, str], bytes | None] = Batches(self._load_together, lanes=_LANES, size=_BATCH)
        self._unfolded = 0
        self._offset_s = time.time() - time.monotonic()
        self._durability = ""
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._database.open()
        try:
            await self._check_settings()
            await self._read_clock()
            await self._database.value("fold")  # what a server that was killed has left
        except BaseException:
            await self._database.close()
            raise
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._loads.close()
        await self._saves.close()
        await self._database.close()

    # --- time and durability -----------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Seconds since the epoch by the database's clock. It is read every 10 s; in between, this machine counts."""
        return time.monotonic() + self._offset_s

    @property
    def durability(self) -> str:
        return self._durability

    async def _check_settings(self) -> None:
        fsync, commit = (await self._database.fetch("settings"))[0]
        found = "memory" if fsync == "off" else "everysec" if commit == "off" else "disk"
        if found not in ("disk", self._durability):
            _log.warning(
                "the database may lose what it has acknowledged; set fsync and synchronous_commit to on",
                extra={"fsync": fsync, "synchronous_commit": commit, "durability": found},
            )
        self._durability = found

    async def _read_clock(self) -> None:
        """The quicker the answer, the better it says when it was made; a slow one is asked for again."""
        trips = []
        for _ in range(3):
            asked = time.monotonic()
            answer = await self._database.value("clock")
            trip_s = time.monotonic() - asked
            trips.append((trip_s, answer - asked - trip_s / 2))
            if trip_s <= _CLOCK_TRIP_S:
                break
        self._offset_s = min(trips)[1]

    async def _keep(self) -> None:
        """Read the clock and the settings again from time to time: after a failover it is another server's."""
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            with contextlib.suppress(AsmanError):  # who asks for data is told
                await self._read_clock()
                await self._check_settings()

    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        """Source: ``abc.SupportsLeading``."""
        rows = await self._database.fetch("lead", role, holder, for_s)
        return rows[0][0] if rows else None

    # --- writing -----------------------------------------------------------------------------------------------------

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        save = _Save(job, expected, encode_job(job), dict(documents or {}))
        size_bytes = len(save.record) + sum(len(data) for data in save.documents.values() if data is not None)
        stored = await self._saves.ask(save, key=(job.job_id, job.queue), size_bytes=size_bytes)
        if stored is not None:
            raise _stale(job.job_id, expected, stored)

    async def _save_together(self, saves: list[_Save]) -> list[int | None]:
        """For each, None if it was done, else the version that is stored."""
        order = sorted(range(len(saves)), key=lambda number: (saves[number].job.job_id, saves[number].job.queue))
        answers = await self._database.value("save", *_columns([saves[number] for number in order]))
        found: list[int | None] = [None] * len(saves)
        for number, answer in zip(order, answers, strict=True):
            found[number] = answer
        await self._fold(len(saves))
        return found

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        stored = await self._database.value("delete", job_id, queue, expected)
        if stored is not None:
            raise _stale(job_id, expected, stored)
        await self._fold(1)

    async def _fold(self, changes: int) -> None:
        """Sum up the counters when this server has made many changes: readers read what nobody has summed up."""
        self._unfolded += changes
        if self._unfolded >= _FOLD_EVERY:
            self._unfolded = 0
            with contextlib.suppress(AsmanError):  # the changes themselves are stored
                await self._database.value("fold")

    # --- reading -----------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        record = await self._loads.ask((job_id, queue), key=object(), size_bytes=0)  # any two may go together
        return None if record is None else decode_job(record)

    async def _load_together(self, names: list[tuple[str, str]]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(names)
        rows = await self._database.fetch("load", [job_id for job_id, _ in names], [queue for _, queue in names])
        for number, record in rows:
            found[number - 1] = record
        return found

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        rows = await self._database.fetch("document", job_id, queue, name)
        return rows[0][0] if rows else None

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return _decoded(await self._database.fetch("in_namespace", queue, namespace, limit))

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return _decoded(await self._database.fetch("find", job_id, limit))

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return _decoded(await self._database.fetch("due", before, limit))

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        rows = await self._database.fetch("counts", "" if queue is None else queue)
        return {(_STATES[state], shape): n for state, shape, n in rows}

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        """Source: ``abc.SupportsScan``. Shape: a cursor is the job id and the queue of the last record, with a space
        between; neither has one."""
        job_id, _, queue = cursor.partition(" ")
        rows = await self._database.fetch("scan", job_id, queue, limit)
        following = f"{rows[-1][0]} {rows[-1][1]}" if len(rows) == limit else ""
        return [decode_job(record) for _, _, record in rows], following

    # --- logs --------------------------------------------------------------------------------------------------------

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        runs = list(_runs(lines))
        sizes = [sum(map(len, run)) for run in runs]
        given = ([b"\n".join(run) for run in runs], [len(run) for run in runs], sizes)
        return int(await self._database.value("append_log", job_id, queue, attempt, half, _HALF_BYTES, *given))

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        since = max(since, 0)
        (attempt, total, _, _), *chunks = await self._database.fetch("read_log", job_id, queue, half, since, max_bytes)
        since = min(since, total)
        start, lines = _gather(((first, data) for _, _, first, data in chunks), since, total, max_bytes)
        return LogSlice(attempt=attempt, start=start, lines=tuple(lines), total=total)

    async def drop_log(self, queue: str, job_id: str) -> None:
        await self._database.value("drop_log", job_id, queue)

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        numbers = [STATE_NUMBERS[state] for state in states]
        name, narrowed = ("list", ()) if shape is None else ("list_shape", (shape,))
        return _decoded(await self._database.fetch(name, queue, numbers, *(after or _BEFORE_ALL), limit, *narrowed))


def _decoded(rows: Iterable[Any]) -> list[Job]:
    return [decode_job(row[0]) for row in rows]


def _stale(job_id: str, expected: int, stored: int) -> Conflict:
    return Conflict(f"job {clip(job_id)} has version {stored}, not {expected}: somebody else changed it first")


def _columns(saves: list[_Save]) -> list[list[Any]]:
    """The arrays of ``save_jobs``: one entry per save, then (number from 1, ...) for namespaces and documents."""
    jobs = [save.job for save in saves]
    names = [job.namespace_names if job.is_active else [] for job in jobs]
    members = [(number, name) for number, more in enumerate(names, 1) for name in more[1:]]
    documents = [(number, *item) for number, save in enumerate(saves, 1) for item in save.documents.items()]
    return [
        [job.job_id for job in jobs],
        [job.queue for job in jobs],
        [save.expected for save in saves],
        [job.version for job in jobs],
        [STATE_NUMBERS[job.state] for job in jobs],
        [job.requirements.shape for job in jobs],
        [job.queued_at for job in jobs],
        [job.due_at for job in jobs],
        [more[0] if more else None for more in names],
        [max(len(more) - 1, 0) for more in names],
        [save.record for save in saves],
        [number for number, _ in members],
        [name for _, name in members],
        [number for number, _, _ in documents],
        [name for _, name, _ in documents],
        [data for _, _, data in documents],
    ]


def _runs(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut lines into runs of about a chunk's size; the middle of a log is dropped by chunks."""
    run: list[bytes] = []
    size_bytes = 0
    for line in lines:
        if run and size_bytes + len(line) > _CHUNK_BYTES:
            yield run
            run, size_bytes = [], 0
        run.append(line.replace(b"\n", b" "))  # white space between JSON tokens at most
        size_bytes += len(line)
    if run:
        yield run


def _gather(chunks: Iterable[tuple[int, bytes]], since: int, total: int, max_bytes: int) -> tuple[int, list[bytes]]:
    """Lines without a gap between them, up to ``max_bytes`` but at least one."""
    taken: list[bytes] = []
    start = -1
    for first, data in chunks:
        lines = data.split(b"\n")[max(since - first, 0) :]
        if start < 0 and lines:
            start = max(first, since)
        elif first != start + len(taken):
            if taken:
                break
            continue
        for line in lines:
            max_bytes -= len(line)
            if max_bytes < 0 and taken:
                return start, taken
            taken.append(line)
    return (start if taken else total), taken
