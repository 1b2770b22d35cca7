"""What of the grant is free, over all queues, and whose turn it is when there is not enough for all. Pure.

All queues of a worker draw on one grant, but each has its own socket, and a server that is told of free room may fill
it at once. So every queue is offered all that is free, the first job that comes is taken, and one that no longer fits
is handed back. To keep that from happening again and again, and so that a busy queue cannot starve a quiet one, a
queue that missed its chance gets the next one alone, for a moment.

What a job holds is its allotment (``limits.allot``): its cores, and the memory it asked for or the share of its cores.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asman.errors import AsmanError
from asman.matching import fits
from asman_worker.grant import LEAST_CORES, LEAST_MEMORY_BYTES, Grant
from asman_worker.limits import allot, read_requirements

__all__ = ["Free", "Ledger", "Need", "Turns", "can_ever_run", "read_need"]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one job holds while it runs. Units: cores; bytes."""

    cores: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Shape: ``jobs`` is how many more jobs are welcome now. Units: cores; bytes."""

    cores: float
    memory_bytes: int
    gpus: int
    jobs: int


def read_need(definition: Mapping[str, Any], grant: Grant) -> Need:
    """What a job will hold. One that cannot run here at all holds nothing: running it only tells its submitter why."""
    try:
        requirements = read_requirements(definition)
        allotment = allot(requirements, grant)
    except AsmanError:
        return Need()
    return Need(cores=allotment.cores, memory_bytes=allotment.memory_bytes, gpus=requirements.gpus)


def can_ever_run(definition: Mapping[str, Any], grant: Grant) -> bool:
    """Is the job within the grant at all? A mirroring worker leaves others to those who can."""
    try:
        return fits(read_requirements(definition), grant.capacity)
    except AsmanError:
        return True


class Ledger:
    """Reservations against one grant. ``most_jobs`` bounds how many are ever taken, 0 for no bound."""

    def __init__(self, grant: Grant, *, most_jobs: int = 0) -> None:
        self._grant = grant
        self._held: dict[object, Need] = {}
        self._most_jobs = most_jobs
        self.taken = 0

    @property
    def is_used_up(self) -> bool:
        return bool(self._most_jobs) and self.taken >= self._most_jobs

    @property
    def free(self) -> Free:
        """What can still be given out.

        Cores are offered only as far as there is memory for them, because a job that does not ask for memory gets
        the share of its cores: otherwise the server would send jobs that have to be handed back.
        """
        cores, memory, gpus = self._left()
        share = self._grant.memory_bytes / self._grant.cores
        usable = max(min(cores, memory / share), 0.0)
        usable = math.floor(usable * 1000 + 1e-3) / 1000
        jobs = math.ceil(usable) if usable >= LEAST_CORES and memory >= LEAST_MEMORY_BYTES else 0
        if self._most_jobs:
            jobs = max(min(jobs, self._most_jobs - self.taken), 0)
        return Free(cores=usable, memory_bytes=max(memory, 0), gpus=max(gpus, 0), jobs=jobs)

    def _left(self) -> tuple[float, int, int]:
        held = self._held.values()
        return (
            self._grant.cores - sum(need.cores for need in held),
            self._grant.memory_bytes - sum(need.memory_bytes for need in held),
            len(self._grant.gpus) - sum(need.gpus for need in held),
        )

    def has_room(self, need: Need) -> bool:
        cores, memory, gpus = self._left()
        return (
            need.cores <= cores + _ROUNDING
            and need.memory_bytes <= memory
            and need.gpus <= gpus
            and not self.is_used_up
        )

    def reserve(self, key: object, need: Need) -> None:
        """Take it, whether or not there is room: a container that is found running holds what it holds."""
        self._held[key] = need
        self.taken += 1

    def release(self, key: object) -> None:
        self._held.pop(key, None)


class Turns:
    """Who is offered what becomes free. With one queue it is always that one.

    Shape:  ``is_open`` says whether a queue can be offered anything now (it is connected).
    """

    def __init__(self, is_open: Callable[[str], bool]) -> None:
        self._is_open = is_open
        self._waiting: deque[str] = deque()
        self._alone: str | None = None

    @property
    def alone(self) -> str | None:
        """The queue that is offered free capacity alone now; None: all are."""
        return self._alone

    def may_offer(self, queue: str) -> bool:
        return self._alone in (None, queue)

    def missed(self, queue: str) -> None:
        """A job of the queue came and did not fit any more."""
        if queue not in self._waiting:
            self._waiting.append(queue)

    def took(self, queue: str, others: tuple[str, ...]) -> None:
        """The queue used its turn; if it had it alone, the others have missed theirs."""
        if self._alone == queue:
            self._alone = None
            for other in others:
                self.missed(other)
        if queue in self._waiting:
            self._waiting.remove(queue)

    def next(self) -> str | None:
        """Something became free: give the turn to who waits longest, None if nobody does."""
        while self._alone is None and self._waiting:
            queue = self._waiting.popleft()
            if self._is_open(queue):
                self._alone = queue
        return self._alone

    def lapse(self, queue: str) -> None:
        """The queue did not use its turn in time: it seems to have no work."""
        if self._alone == queue:
            self._alone = None
