"""The job store and log store on D1: what each method asks of the database.

Owns the mapping between records and rows. A save is one statement that compares and swaps. If the record it replaces is
known here, from reading or writing it, the statement names only the columns that change: D1 bills each index entry that
is written. What is known is held against the row by the same statement, so it may be out of date.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from asman.abc import LogHalf, LogSlice
from asman.errors import ConfigError, Conflict, Unavailable, clip
from asman.job import Job, State, decode_job, encode_job
from asman_cloudflare.d1_database import Database, Row, Statement, Trip, Value
from asman_cloudflare.d1_schema import STATE_NUMBERS, STATEMENTS, listing, saving
from asman_cloudflare.d1_texts import from_text, gather, runs_of, to_text

__all__ = ["D1JobStore", "parse_d1_url"]

_PAGE = 1_000
"""Records in one answer, of which an object holds a few at once in its 128 MB."""

_KNOWN = 2_000
_KNOWN_BYTES = 8 << 10
"""Larger records are not remembered."""

_BEFORE_ALL = (-1e308, "")
_STATES = {number: state for state, number in STATE_NUMBERS.items()}
_ALWAYS = ("version", "record")
_GUARDS = ("state", "shape", "queued_at")

_Wholes = list[tuple[Job, dict[str, bytes]]]
_Columns = dict[str, Value]


def parse_d1_url(url: str) -> str:
    """The binding that ``d1://BINDING`` names. Errors: ConfigError."""
    binding = url.removeprefix("d1://").rstrip("/")
    if not url.startswith("d1://") or not binding.isidentifier():
        raise ConfigError(f"{clip(url)} names no binding", hint="Use d1://JOBS, with the binding of wrangler.jsonc.")
    return binding


class D1JobStore:
    """Jobs, documents and logs of every queue in one D1 database. Source: ``abc.JobStore``, ``abc.LogStore``,
    ``abc.SupportsScan`` and ``abc.TellsDurability``.

    Shape:  ``due_of`` narrows ``due`` to one queue: what looks after that queue, and after no other, asks so. ``trace``
            is told of each statement.
    Errors: ConfigError when opening a database that holds something else; Unavailable while D1 cannot answer;
            StorageFull when it is full, or takes no row as large.
    """

    def __init__(self, binding: Any, *, due_of: str | None = None, trace: Callable[[Trip], None] | None = None) -> None:
        self._database = Database(binding, trace=trace)
        self._due_of = due_of
        self._known: OrderedDict[tuple[str, str], Job] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    @property
    def durability(self) -> str:
        return "disk"

    # --- writing -----------------------------------------------------------------------------------------------------

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        record = encode_job(job).decode()
        columns = {**_columns(job), "record": record}
        patch = {name: None if data is None else to_text(data) for name, data in (documents or {}).items()}
        if expected == 0:
            kept = json.dumps({name: text for name, text in patch.items() if text is not None})
            statement: Statement = (STATEMENTS["insert"], (job.job_id, job.queue, *columns.values(), kept))
            done = await self._changed(job, statement)
        else:
            done = await self._update(job, expected, columns, json.dumps(patch) if patch else "")
        if not done:
            self._known.pop((job.job_id, job.queue), None)
            raise Conflict(
                f"job {clip(job.job_id)} has another version, not {expected}: somebody else changed it first"
            )
        self._remember(job, len(record))

    async def _update(self, job: Job, expected: int, columns: _Columns, patch: str) -> bool:
        where: list[Value] = [job.job_id, job.queue, expected, *([patch] if patch else [])]
        before = self._known.get((job.job_id, job.queue))
        if before is not None and before.version == expected:
            was = _columns(before)
            chosen = tuple(name for name in columns if name in _ALWAYS or columns[name] != was[name])
            sql = saving(chosen, guards=_GUARDS, with_documents=bool(patch))
            values = [columns[name] for name in chosen] + [was[name] for name in _GUARDS]
            if await self._changed(job, (sql, [*where, *values])):
                return True
        sql = saving(tuple(columns), with_documents=bool(patch))
        return await self._changed(job, (sql, [*where, *columns.values()]))

    async def _changed(self, job: Job, statement: Statement) -> bool:
        try:
            (rows,) = await self._database.write(statement)
        except Unavailable:
            if not await self._is_stored(job):
                raise
            return True
        return bool(rows)

    async def _is_stored(self, job: Job) -> bool:
        """Where the answer to a save was lost: was it done? Not, as long as nobody can tell."""
        try:
            rows = await self._rows("load", job.job_id, job.queue)
        except Unavailable:
            return False
        return bool(rows) and decode_job(rows[0]["record"]) == job

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        named = (job_id, queue)
        self._known.pop(named, None)
        delete, stored = (STATEMENTS["delete"], (*named, expected)), (STATEMENTS["stored"], named)
        _, rows = await self._database.write(delete, stored)
        if rows:
            raise Conflict(
                f"job {clip(job_id)} has version {rows[0]['version']}, not {expected}: somebody else changed it first"
            )

    def _remember(self, job: Job, size_bytes: int) -> None:
        if size_bytes > _KNOWN_BYTES:
            self._known.pop((job.job_id, job.queue), None)
            return
        self._known[job.job_id, job.queue] = job
        self._known.move_to_end((job.job_id, job.queue))
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        rows = await self._rows("load", job_id, queue)
        return self._decoded(rows)[0] if rows else None

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        rows = await self._rows("document", job_id, queue, name)
        text = rows[0]["data"] if rows else None
        return None if text is None else from_text(text)

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        return self._decoded(await self._rows("in_namespace", queue, _name(namespace), limit))

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        return self._decoded(await self._rows("find", job_id, limit))

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        if self._due_of is not None:
            return self._decoded(await self._rows("due_in", self._due_of, before, limit))
        return self._decoded(await self._rows("due", before, limit))

    async def next_due(self, queue: str) -> float | None:
        """When ``due`` will have the next record of this queue; None if it has none at all."""
        rows = await self._rows("next_due", queue)
        return float(rows[0]["due_at"]) if rows else None

    async def overdue(self, before: float, *, limit: int = 100) -> list[str]:
        """Queues that have a record with ``due_at`` <= before. Costs the number of queues."""
        return [row["queue"] for row in await self._rows("overdue", before, limit)]

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        """Source: ``abc.SupportsScan``. Shape: a cursor is the job id and the queue of the last record, with a space
        between; neither has one."""
        job_id, _, queue = cursor.partition(" ")
        limit = min(limit, _PAGE)
        rows = await self._rows("scan", job_id, queue, limit)
        following = f"{rows[-1]['job_id']} {rows[-1]['queue']}" if len(rows) == limit else ""
        return [decode_job(row["record"]) for row in rows], following

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        rows = await (self._rows("counts_of_all") if queue is None else self._rows("counts", queue))
        return {(_STATES[row["state"]], row["shape"]): row["n"] for row in rows}

    async def whole(self, queue: str, job_id: str) -> tuple[Job, dict[str, bytes]] | None:
        """A record with all its documents. Source: ``owned.SupportsWhole``."""
        found = self._wholes(await self._rows("whole", job_id, queue))
        return found[0] if found else None

    async def heads(self, queue: str, shape: str, limit: int) -> _Wholes:
        """The queued jobs of a shape that have waited longest, with all their documents. Source: as ``whole``."""
        return self._wholes(await self._rows("heads", queue, shape, limit))

    def _wholes(self, rows: Sequence[Row]) -> _Wholes:
        documents = ({name: from_text(text) for name, text in json.loads(row["documents"]).items()} for row in rows)
        return [*zip(self._decoded(rows), documents, strict=True)]

    # --- rows --------------------------------------------------------------------------------------------------------

    async def _rows(self, name: str, *values: str | float) -> list[Row]:
        (rows,) = await self._database.read((STATEMENTS[name], values))
        return rows

    def _decoded(self, rows: Iterable[Row]) -> list[Job]:
        jobs = []
        for row in rows:
            job = decode_job(row["record"])
            self._remember(job, len(row["record"]))
            jobs.append(job)
        return jobs

    # --- logs --------------------------------------------------------------------------------------------------------

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        sql = STATEMENTS["append_log"]
        appends: list[Statement] = [
            (sql, (job_id, queue, attempt, half, run.part, run.count, run.size_bytes, run.text))
            for run in runs_of(lines)
        ]
        *_, rows = await self._database.write(*appends, (STATEMENTS["log_total"], (job_id, queue, half)))
        return int(rows[0]["total"]) if rows else 0

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        since = max(since, 0)
        attempts, totals, rows = await self._database.read(
            (STATEMENTS["log_attempt"], (job_id, queue)),
            (STATEMENTS["log_total"], (job_id, queue, half)),
            (STATEMENTS["read_log"], (job_id, queue, half, since, max_bytes)),
        )
        total = int(totals[0]["total"]) if totals else 0
        start, lines = gather(((row["first"], row["part"], row["lines"]) for row in rows), since, max_bytes)
        attempt = int(attempts[0]["attempt"] or 0)
        return LogSlice(attempt=attempt, start=start if lines else total, lines=tuple(lines), total=total)

    async def drop_log(self, queue: str, job_id: str) -> None:
        await self._database.write((STATEMENTS["drop_log"], (job_id, queue)))

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        numbers = tuple(sorted({STATE_NUMBERS[state] for state in states}))
        found: list[Job] = []
        while numbers and len(found) < limit:
            wanted = min(limit - len(found), _PAGE)
            values = (queue, *(after or _BEFORE_ALL), wanted, *(() if shape is None else (shape,)))
            (rows,) = await self._database.read((listing(numbers, with_shape=shape is not None), values))
            found += self._decoded(rows)
            if len(rows) < wanted:
                break
            after = (found[-1].queued_at, found[-1].job_id)
        return found


def _name(namespace: str) -> str:
    return to_text(namespace.encode(errors="surrogatepass"))


def _columns(job: Job) -> _Columns:
    """What indexes and triggers need, in the order of the table."""
    names = [_name(name) for name in job.namespace_names] if job.is_active else []
    return {
        "version": job.version,
        "state": STATE_NUMBERS[job.state],
        "shape": job.requirements.shape,
        "queued_at": job.queued_at,
        "due_at": job.due_at,
        "namespace": names[0] if names else None,
        "others": json.dumps(names[1:]) if names[1:] else None,
    }
