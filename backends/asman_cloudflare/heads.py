"""What the longest waiting jobs of a queue are, per shape: as far as it is known.

Pure: no store, no clock. Of each shape the known part is a beginning of the line, up to its ``edge``; a job that comes
in behind the edge is not taken up, because others may stand before it that are not known.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from asman.job import Job

__all__ = ["Heads"]

_Place = tuple[float, str]

_END: _Place = (math.inf, "")


@dataclass(slots=True)
class _Line:
    """Shape: every queued job of the shape at or before ``edge`` is in it."""

    learned_at: float
    edge: _Place = _END
    places: list[_Place] = field(default_factory=list)
    jobs: dict[_Place, Job] = field(default_factory=dict)

    def add(self, job: Job) -> bool:
        place = (job.queued_at, job.job_id)
        if place > self.edge:
            return False
        insort(self.places, place)
        self.jobs[place] = job
        return True

    def cut(self, length: int) -> list[Job]:
        """Keep the first ones only; answers with the others."""
        gone, self.places = self.places[length:], self.places[:length]
        self.edge = self.places[-1]
        return [self.jobs.pop(place) for place in gone]


class Heads:
    """The beginnings of the lines of one queue.

    Shape:  a line longer than ``longest`` is cut to half of that; the shapes that nobody asks for go when there are
            more than ``most`` jobs in all.
    """

    def __init__(self, *, longest: int = 256, most: int = 2048) -> None:
        self._longest, self._most = longest, most
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._jobs: dict[str, tuple[str, Job]] = {}

    def first(self, shape: str, limit: int, since: float) -> list[Job] | None:
        """The first so many jobs; None if that is not known, or was learned before ``since``."""
        line = self._lines.get(shape)
        if line is None or line.learned_at < since or (line.edge != _END and len(line.places) < limit):
            return None
        self._lines.move_to_end(shape)
        return [line.jobs[place] for place in line.places[:limit]]

    def learn(self, shape: str, jobs: Iterable[Job], *, is_all: bool, at: float) -> None:
        """These are the first jobs of the shape, in order; ``is_all``: there are no more."""
        self._forget_line(shape)
        line = self._lines[shape] = _Line(learned_at=at)
        for job in jobs:
            self._add(shape, line, job)
        if not is_all:
            line.edge = line.places[-1] if line.places else (-math.inf, "")
        self._make_room(shape)

    def put(self, job: Job) -> None:
        """It is queued now."""
        self.drop(job.job_id)
        shape = job.requirements.shape
        line = self._lines.get(shape)
        if line is not None:
            self._add(shape, line, job)
            self._make_room(shape)

    def drop(self, job_id: str) -> None:
        """It is queued no more; one that is not in it is no error."""
        found = self._jobs.pop(job_id, None)
        if found is None:
            return
        shape, job = found
        line, place = self._lines[shape], (job.queued_at, job_id)
        del line.jobs[place], line.places[bisect_left(line.places, place)]

    def known(self, job_id: str) -> Job | None:
        found = self._jobs.get(job_id)
        return found[1] if found else None

    def clear(self) -> None:
        self._lines.clear()
        self._jobs.clear()

    def __len__(self) -> int:
        return len(self._jobs)

    def _add(self, shape: str, line: _Line, job: Job) -> None:
        if line.add(job):
            self._jobs[job.job_id] = (shape, job)
        if len(line.places) > self._longest:
            for gone in line.cut(self._longest // 2):
                del self._jobs[gone.job_id]

    def _make_room(self, current: str) -> None:
        while len(self._jobs) > self._most or len(self._lines) > self._most // 4:
            oldest = next(iter(self._lines))
            if oldest == current:
                return
            self._forget_line(oldest)

    def _forget_line(self, shape: str) -> None:
        line = self._lines.pop(shape, None)
        if line is not None:
            for job in line.jobs.values():
                del self._jobs[job.job_id]
