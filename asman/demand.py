"""What the jobs of a queue ask for, and how many workers of a size that makes. Pure: counters in, numbers out.

Stores count jobs per state and shape (a distinct set of requirements), so everything here costs the number of shapes
and never the number of jobs.

The number of workers is made of shares: a shape of which ``k`` jobs fit into one worker at a time gives each of its
jobs a share of ``1/k``, and the shares are added up exactly and rounded up. So a job of 3 cores takes a whole worker
of 4, as it really does, where a sum of cores would let two thirds of it overlap. Mixed sizes may come out one too many
or one too few, which the next look at the queue mends: a job that found no place is still queued then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from asman.job import Requirements, State

__all__ = ["Counts", "Demand", "Needs", "WorkerSize", "demand", "desired_workers", "needs_of", "queued_shapes"]

Counts = Mapping[tuple[State, str], int]
"""How many jobs per (state, shape), as ``JobStore.counts`` answers."""

_ROUNDING = 1e-9
"""0.3 cores hold three jobs of 0.1, although 0.3 / 0.1 is 2.9999999999999996."""


class Needs(StrEnum):
    """What kind of worker a job waits for: one with a GPU, or any."""

    CPU = "cpu"
    GPU = "gpu"


def needs_of(need: Requirements) -> Needs:
    return Needs.GPU if need.gpus else Needs.CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What outstanding jobs ask for.

    Shape:  ``backlog`` is how many are queued, ``running`` how many run; ``cores`` and ``gpus`` are sums over both.
    """

    backlog: int = 0
    running: int = 0
    cores: float = 0.0
    gpus: int = 0

    @property
    def length(self) -> int:
        return self.backlog + self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSize:
    """What one more worker would have. None: not said, and then no bound on how many jobs share the worker; a job
    that nothing said bounds has a worker to itself.
    """

    cores: float | None = None
    gpus: int | None = None

    def holds(self, need: Requirements) -> int:
        """How many jobs of these requirements one worker runs at a time; 0 if not even one fits."""
        bounds = []
        if self.cores is not None and need.cores > 0:
            bounds.append(math.floor(self.cores / need.cores + _ROUNDING))
        if need.gpus:
            bounds.append(1 if self.gpus is None else self.gpus // need.gpus)
        return min(bounds, default=1)


def _shapes(counts: Counts, needs: Needs | None, states: Iterable[State]) -> Iterator[tuple[State, Requirements, int]]:
    wanted = frozenset(states)
    for (state, shape), count in counts.items():
        if state in wanted:
            need = Requirements.from_shape(shape)
            if needs in (None, needs_of(need)):
                yield state, need, count


def demand(counts: Counts, needs: Needs | None = None) -> Demand:
    """Sum up what is queued and running; ``needs`` narrows to the jobs that need this kind of worker."""
    backlog = running = gpus = 0
    cores = 0.0
    for state, need, count in _shapes(counts, needs, (State.QUEUED, State.RUNNING)):
        backlog += count if state is State.QUEUED else 0
        running += count if state is State.RUNNING else 0
        cores += need.cores * count
        gpus += need.gpus * count
    return Demand(backlog=backlog, running=running, cores=cores, gpus=gpus)


def queued_shapes(counts: Counts, needs: Needs | None = None) -> list[str]:
    """The shapes of which jobs are queued."""
    return [need.shape for _, need, _ in _shapes(counts, needs, (State.QUEUED,))]


def desired_workers(
    counts: Counts, size: WorkerSize, *, needs: Needs | None = None, occupied: int = 0
) -> tuple[int, int]:
    """How many workers of this size run everything at once, and how many queued jobs fit on none of them.

    Shape:  ``occupied`` is how many workers are known to hold a job: never fewer are wanted while anything runs, for
            taking one away would end what it does. A queued job that is too large wants no worker, since no number
            of them helps; one that runs already is somewhere, and counts as one worker.
    Units:  workers; jobs. Both are 0 when nothing is queued or running.
    """
    share = Fraction(0)
    too_large, something_runs = 0, False
    for state, need, count in _shapes(counts, needs, (State.QUEUED, State.RUNNING)):
        together = size.holds(need)
        something_runs = something_runs or state is State.RUNNING
        if together:
            share += Fraction(count, together)
        elif state is State.RUNNING:
            share += count
        else:
            too_large += count
    return max(math.ceil(share), occupied if something_runs else 0), too_large
