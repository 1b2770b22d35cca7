"""What happened in each queue within the last hour, minute by minute: for people who look at a queue. Pure.

Every saved step is counted by the server that took it, from the record before and after; sums over servers are right.
Nothing is stored: stores forget a finished job's place in the queue after a minute, and to keep it for a picture would
cost every step a write. So the numbers begin with the process, and ``Hour.since`` says when that was.

Waits and durations are kept as counts per magnitude and not one by one: a minute costs the same after ten jobs and
after a million, and medians of several servers can be made from their sums. They are right within 5 %.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asman.job import Job, State

__all__ = ["MINUTES", "Hour", "Minute", "Recent", "merge", "percentile", "read_hour", "write_hour"]

MINUTES = 60
"""How many are kept: the present one and those before it."""

_MINUTE_S = 60
_MOST_MINUTES = 20_000
"""Of all queues together; the queues that were quiet the longest go first."""

_GROWTH = math.log(1.1)
_LEAST_S = 0.001


@dataclass(slots=True, kw_only=True)
class Minute:
    """What happened in one minute.

    Shape:  ``finished`` counts per outcome; ``queued_change`` is by how much the queue grew or (below 0) shrank;
            ``waits`` and ``runs`` count per magnitude, for ``percentile``.
    """

    submitted: int = 0
    started: int = 0
    queued_change: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    waits: Counter[int] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)

    def add(self, other: Minute) -> None:
        self.submitted += other.submitted
        self.started += other.started
        self.queued_change += other.queued_change
        self.finished.update(other.finished)
        self.waits.update(other.waits)
        self.runs.update(other.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The last hour of one queue.

    Shape:  ``minutes`` maps the number of a minute since the epoch to what happened in it; quiet ones are left out.
    Units:  ``since`` in seconds since the epoch: what happened earlier was not counted.
    """

    since: float
    minutes: Mapping[int, Minute]


@dataclass(slots=True)
class _Queue:
    since: float
    minutes: dict[int, Minute] = field(default_factory=dict)


class Recent:
    """The counts of one app. Owns its memory and bounds it. Units: seconds since the epoch, from the caller."""

    def __init__(self, now: float, *, most_minutes: int = _MOST_MINUTES) -> None:
        self._since = now
        self._most = most_minutes
        self._kept = 0
        self._queues: OrderedDict[str, _Queue] = OrderedDict()

    def count(self, before: Job, after: Job, now: float) -> None:
        """Count one saved step. The cost depends on nothing but the step."""
        change = int(after.state is State.QUEUED) - int(before.state is State.QUEUED)
        is_submit = after.generation != before.generation and after.state is State.QUEUED
        is_claim = after.state is State.RUNNING and after.attempt > before.attempt
        is_end = before.is_active and after.state is State.FINISHED and after.outcome is not None
        if not (change or is_submit or is_claim or is_end):
            return
        minute = self._minute(after.queue, now)
        minute.queued_change += change
        minute.submitted += int(is_submit)
        if is_claim:
            minute.started += 1
            if before.state is State.QUEUED:
                minute.waits[_magnitude(after.claimed_at - before.changed_at)] += 1
        if is_end and after.outcome is not None:
            minute.finished[after.outcome.value] += 1
            if before.state is State.RUNNING and after.has_result and after.finished_at is not None:
                minute.runs[_magnitude(after.finished_at - after.claimed_at)] += 1

    def hour(self, queue: str, now: float) -> Hour:
        """What is known of the queue; of one that nobody used: nothing happened."""
        known = self._queues.get(queue)
        if known is None:
            return Hour(since=self._since, minutes={})
        self._forget_old(known, now)
        if not known.minutes:
            del self._queues[queue]
        return Hour(since=known.since, minutes=dict(known.minutes))

    def _minute(self, name: str, now: float) -> Minute:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue(self._since)
        self._queues.move_to_end(name)
        number = int(now // _MINUTE_S)
        if number not in queue.minutes:
            self._forget_old(queue, now)
            queue.minutes[number] = Minute()
            self._kept += 1
            self._make_room(name, now)
        return queue.minutes[number]

    def _forget_old(self, queue: _Queue, now: float) -> None:
        first = int(now // _MINUTE_S) - MINUTES + 1
        old = [number for number in queue.minutes if number < first]
        for number in old:
            del queue.minutes[number]
        self._kept -= len(old)

    def _make_room(self, current: str, now: float) -> None:
        """Queues go whole: one of which some minutes were missing would tell less than happened."""
        while self._kept > self._most and next(iter(self._queues)) != current:
            _, quiet = self._queues.popitem(last=False)
            self._kept -= len(quiet.minutes)
            self._forget_old(quiet, now)
            if any(number > (now // _MINUTE_S) - MINUTES for number in quiet.minutes):
                self._since = now  # whoever asks for it again is told from when on it is counted


def merge(hours: Iterable[Hour]) -> Hour:
    """The sum over several servers, counted since the last of them began. Errors: ValueError for none."""
    minutes: dict[int, Minute] = {}
    since = -math.inf
    for hour in hours:
        since = max(since, hour.since)
        for number, minute in hour.minutes.items():
            minutes.setdefault(number, Minute()).add(minute)
    if since == -math.inf:
        raise ValueError("there is no hour to merge")
    return Hour(since=since, minutes=minutes)


def _magnitude(seconds: float) -> int:
    """The number of the step, each a tenth wider than the one before, that the duration is in; 0 up to 1 ms."""
    return math.ceil(math.log(seconds / _LEAST_S) / _GROWTH) if seconds > _LEAST_S else 0


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration that this share of all durations does not exceed, within 5 %; None if there is none.

    Units:  seconds; ``share`` from 0 to 1.
    """
    rank = max(math.ceil(share * sum(counts.values())), 1)
    for magnitude in sorted(counts):
        rank -= counts[magnitude]
        if rank <= 0:
            return _LEAST_S * math.exp((magnitude - 0.5) * _GROWTH) if magnitude else 0.0
    return None


# --- between servers -------------------------------------------------------------------------------------------------


def write_hour(hour: Hour) -> dict[str, Any]:
    """As JSON can carry it."""
    return {
        "since": hour.since,
        "minutes": [
            [
                number,
                minute.submitted,
                minute.started,
                minute.queued_change,
                dict(minute.finished),
                list(minute.waits.items()),
                list(minute.runs.items()),
            ]
            for number, minute in hour.minutes.items()
        ],
    }


def read_hour(raw: Mapping[str, Any]) -> Hour:
    """Read what ``write_hour`` wrote."""
    return Hour(
        since=raw["since"],
        minutes={
            number: Minute(
                submitted=submitted,
                started=started,
                queued_change=change,
                finished=Counter(finished),
                waits=Counter(dict(waits)),
                runs=Counter(dict(runs)),
            )
            for number, submitted, started, change, finished, waits, runs in raw["minutes"]
        },
    )
