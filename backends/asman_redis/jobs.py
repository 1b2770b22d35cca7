"""The job store and log store on Redis: what each method asks.

Owns the mapping between records and keys; the changes themselves are in ``scripts``. Every method is one round trip,
shared with whatever else is asked at that moment; what concerns the whole store asks each partition in the same one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping
from heapq import merge
from itertools import count, islice
from types import TracebackType
from typing import Any, Self

from asman.abc import LogHalf, LogSlice
from asman.errors import Conflict, clip
from asman.job import Job, State, decode_job, encode_job
from asman_redis import logs, scripts
from asman_redis.address import read_address
from asman_redis.batcher import Batcher, Script
from asman_redis.keys import STATES, Keys, encoded, sortable
from asman_redis.opening import ServerClock, opened

__all__ = ["RedisJobStore"]

_PAGE = 2_000
"""Records in one reply: a longer list is read in pages, so that it never holds Redis for long."""
_STATE_OF = {number: State(name) for name, number in STATES.items()}


class RedisJobStore:
    """Jobs, documents and logs in Redis. Source: ``abc.JobStore``, ``abc.LogStore``, ``keys`` for the layout.

    Errors: ConfigError when opening an address where no usable Redis is; Unavailable when Redis cannot answer now.
    """

    def __init__(self, url: str) -> None:
        self._address = read_address(url)
        self._keys = Keys(self._address.prefix)
        self._token, self._changes = secrets.token_hex(6), count()
        self._clock = ServerClock(self._keys.layout)
        self._durability = ""
        self._redis: Batcher

    async def __aenter__(self) -> Self:
        self._redis, self._durability = await opened(self._address, self._keys, self._clock, self._found_again)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.stop()
        await self._redis.close()

    def _found_again(self, durability: str) -> None:
        self._durability = durability

    @property
    def durability(self) -> str:
        """Of the weakest primary, as it was set when the connection was made last."""
        return self._durability

    def clock(self) -> float:
        """By Redis TIME, carried on by this machine's steady clock between two looks. Never runs backwards."""
        return self._clock.now(self._redis)

    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        since_ms = await self._redis.call(
            scripts.LEAD, [f"{self._keys.bases[0]}lead:{role}"], holder, int(for_s * 1000)
        )
        return None if since_ms < 0 else since_ms / 1000

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def load(self, queue: str, job_id: str) -> Job | None:
        record = await self._redis.ask("HGET", self._job(queue, job_id), "r")
        return decode_job(record) if record is not None else None

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        base, q = self._keys.of(job.queue)
        names = job.namespace_names if job.is_active else []
        beside: list[Any] = []
        for name, data in (documents or {}).items():
            beside += (name, "0", b"") if data is None else (name, "1", bytes(data))
        stored = await self._redis.call(
            scripts.SAVE,
            [f"{base}job:{q}:{job.job_id}"],
            base,
            q,
            job.job_id,
            expected,
            job.version,
            self._new_token(),
            STATES[job.state.value] + job.requirements.shape,
            sortable(job.queued_at) + job.job_id,
            repr(job.due_at + 0.0),
            "".join(f"{encoded(name)} " for name in names),
            encode_job(job),
            *beside,
        )
        _check_saved(job.job_id, expected, stored)

    def _new_token(self) -> str:
        """Names one change, so that a repeat of it is known as such."""
        return f"{self._token}{next(self._changes):x}"

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        found: bytes | None = await self._redis.ask("HGET", self._job(queue, job_id), f"doc:{name}")
        return found

    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        base, q = self._keys.of(queue)
        stored = await self._redis.call(scripts.DELETE, [f"{base}job:{q}:{job_id}"], base, q, job_id, expected)
        _check_saved(job_id, expected, stored)

    async def in_namespace(self, queue: str, namespace: str, *, limit: int = 100) -> list[Job]:
        base, q = self._keys.of(queue)
        return await self._listed(queue, scripts.LIST, f"{base}names:{q}:{encoded(namespace)}", limit, None)

    async def find(self, job_id: str, *, limit: int = 100) -> list[Job]:
        asked = [self._redis.call(scripts.FIND, [f"{b}all"], b, job_id, limit) for b in self._keys.bases]
        runs = [_pairs(answer) for answer in await asyncio.gather(*asked)]
        return [decode_job(record) for _, record in islice(merge(*runs), limit)]

    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        asked = [self._redis.call(scripts.DUE, [f"{b}due"], b, repr(before + 0.0), limit) for b in self._keys.bases]
        runs = [_dated(answer) for answer in await asyncio.gather(*asked)]
        return [decode_job(record) for _, _, record in islice(merge(*runs), limit)]

    async def counts(self, queue: str | None) -> dict[tuple[State, str], int]:
        if queue is None:
            asked = [self._redis.ask("HGETALL", f"{base}count") for base in self._keys.bases]
        else:
            base, q = self._keys.of(queue)
            asked = [self._redis.ask("HGETALL", f"{base}count:{q}")]
        total: dict[tuple[State, str], int] = {}
        for answer in await asyncio.gather(*asked):
            for field, number in _pairs(answer):
                key = (_STATE_OF[field[:1].decode()], field[1:].decode())
                if key[0] is not State.REMOVED:
                    total[key] = total.get(key, 0) + int(number)
        return total

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[list[Job], str]:
        number, _, behind = cursor.partition(":")
        at = int(number or 0)
        base, start = self._keys.bases[at], f"({behind}" if behind else "-"
        found = await self._redis.call(scripts.SCAN, [f"{base}all"], base, start, limit)
        pairs = list(_pairs(found))
        jobs = [decode_job(record) for _, record in pairs if record is not None]
        if len(pairs) == limit:
            return jobs, f"{at}:{pairs[-1][0].decode()}"
        return jobs, f"{at + 1}:" if at + 1 < len(self._keys.bases) else ""

    # --- logs --------------------------------------------------------------------------------------------------------

    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
        base, q = self._keys.of(queue)
        chunks = [value for chunk in logs.chunks(lines) for value in chunk]
        total: int = await self._redis.call(
            scripts.APPEND,
            [f"{base}log:{q}:{job_id}"],
            base,
            q,
            job_id,
            attempt,
            half,
            self._new_token(),
            logs.HALF_BYTES,
            *chunks,
        )
        return total

    async def read_log(
        self, queue: str, job_id: str, *, half: LogHalf, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        base, q = self._keys.of(queue)
        attempt, total, is_there, found = await self._redis.call(
            scripts.READ_LOG, [f"{base}log:{q}:{job_id}"], half, since, max_bytes
        )
        if not is_there:
            return LogSlice(attempt=attempt, start=0, lines=(), total=0)
        start, lines = logs.gather(_pairs(found), min(max(since, 0), total), total, max_bytes)
        return LogSlice(attempt=attempt, start=start, lines=tuple(lines), total=total)

    async def drop_log(self, queue: str, job_id: str) -> None:
        base, q = self._keys.of(queue)
        await self._redis.call(scripts.DROP_LOG, [f"{base}log:{q}:{job_id}"], base, q, job_id)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _job(self, queue: str, job_id: str) -> str:
        base, q = self._keys.of(queue)
        return f"{base}job:{q}:{job_id}"

    async def _listed(
        self, queue: str, script: Script, key: str, limit: int, after: tuple[float, str] | None, *more: str
    ) -> list[Job]:
        """Records in the order of their places."""
        base, q = self._keys.of(queue)
        start = "-" if after is None else f"({sortable(after[0])}{after[1]}"
        jobs: list[Job] = []
        while len(jobs) < limit:
            page = min(_PAGE, limit - len(jobs))
            found = list(_pairs(await self._redis.call(script, [key], base, q, start, page, *more)))
            jobs += [decode_job(record) for _, record in found]
            if len(found) < page:
                break
            start = f"({found[-1][0].decode()}"
        return jobs

    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> list[Job]:
        base, q = self._keys.of(queue)
        numbers = "".join(sorted({STATES[state.value] for state in states if state is not State.ABSENT}))
        if len(numbers) == 1 and shape is not None:
            return await self._listed(queue, scripts.LIST, f"{base}kind:{q}:{numbers}{shape}", limit, after)
        more = [numbers] if shape is None else [numbers, shape]
        return await self._listed(queue, scripts.MERGE, f"{base}count:{q}", limit, after, *more)


def _pairs(flat: Any) -> Iterable[Any]:
    """Pairs from a flat reply; a cluster's client makes a mapping of some of them itself."""
    if isinstance(flat, Mapping):
        return flat.items()
    return zip(flat[::2], flat[1::2], strict=True)


def _dated(flat: Any) -> Iterable[tuple[float, bytes, bytes]]:
    """(due at, name, record), from a flat list of names and times and behind it one of records."""
    count = len(flat) // 3
    return zip(map(float, flat[1 : 2 * count : 2]), flat[: 2 * count : 2], flat[2 * count :], strict=True)


def _check_saved(job_id: str, expected: int, stored: bytes) -> None:
    if stored != b"OK":
        raise Conflict(
            f"job {clip(job_id)} has version {stored.decode()}, not {expected}: somebody else changed it first"
        )
