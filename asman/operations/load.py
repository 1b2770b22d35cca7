"""How loaded a queue is: its counters, and how long the head of each shape has waited. Reads create nothing.

Costs the number of distinct requirements among the queued jobs, whatever their number: the counters are kept by the
store, and the longest waiting job of a shape is the first one of its index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from asman.demand import Counts, Needs, needs_of, queued_shapes
from asman.job import Job, State
from asman.services import Services

__all__ = ["QueueLoad", "queue_load"]

_HEADS_AT_ONCE = 32
"""Reads under way at a time: a queue of a thousand shapes must not fill the store's own queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """Shape: ``counts`` per (state, shape); ``oldest_wait_s`` has every kind asked for, 0 where nothing waits."""

    counts: Counts
    oldest_wait_s: Mapping[Needs, float]


async def queue_load(services: Services, queue: str, needs: Needs | None = None) -> QueueLoad:
    """The load of a queue, its waits for one kind of worker or for each; an unknown queue is an empty one.

    Units:  seconds since the job was queued, by the server's clock.
    """
    counts = await services.jobs.counts(queue)
    waits = dict.fromkeys((needs,) if needs else Needs, 0.0)
    shapes, now = queued_shapes(counts, needs), services.clock()
    for first in range(0, len(shapes), _HEADS_AT_ONCE):
        some = shapes[first : first + _HEADS_AT_ONCE]
        for job in await asyncio.gather(*(_head(services, queue, shape) for shape in some)):
            if job is not None and not job.is_expired(now):
                kind = needs_of(job.requirements)
                waits[kind] = max(waits[kind], now - job.queued_at)
    return QueueLoad(counts=counts, oldest_wait_s=waits)


async def _head(services: Services, queue: str, shape: str) -> Job | None:
    found = await services.jobs.list(queue, states=(State.QUEUED,), shape=shape, limit=1)
    return found[0] if found else None
