"""What a worker counts and measures, for its owner: one object per process, told of events, read as Prometheus text.

Whoever does something says so here in one call; nothing is collected by looking around, so an event costs the same
however many jobs there are. What is a matter of the moment (free cores, free disk) is asked of whoever knows it, when
somebody looks: ``gauge`` takes the question.

No queue, no job id and no secret is ever part of a metric: a queue's name is the only key to it.

Source: Prometheus text format; its advice on names and units.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from asman import __version__
from asman.job import Outcome

__all__ = ["PHASES", "STOPPED", "Telemetry"]

PHASES = ("limits", "room", "inputs", "image", "build", "create", "start", "wait", "outputs", "report")
"""Where a job can be: the names of the executor's steps."""

STOPPED = "stopped"
"""How a job ended that was revoked, cancelled, lost or handed back: not by itself, and not reported."""

_RUN_S = (0.5, 1, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400)
_STEP_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)
_DIRECTIONS = ("download", "upload")


class Telemetry:
    """Counters, histograms and gauges of one worker.

    Units:  seconds and bytes, as the names of the metrics say.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._at: dict[object, tuple[str, float]] = {}
        self._gauges: dict[str, Gauge] = {}
        self._info = Gauge("asman_worker_info", "The worker's version", ["version"], registry=self._registry)
        self._info.labels(__version__).set(1)
        self._jobs = Gauge("asman_worker_jobs", "Jobs here, by their step", ["phase"], registry=self._registry)
        self._taken = self._counter("asman_worker_jobs_taken", "Jobs that were taken")
        self._finished = self._counter("asman_worker_jobs_finished", "Jobs that ended here, by outcome", "outcome")
        self._run_s = self._histogram("asman_worker_job_seconds", "From taking a job to its end", _RUN_S)
        self._step_s = self._histogram(
            "asman_worker_step_seconds",
            "How long a step of a job took; start is its container's",
            _STEP_S,
            "step",
        )
        self._pull_s = self._histogram("asman_worker_pull_seconds", "Pulls of an image, done or failed", _STEP_S)
        self._moved = self._counter("asman_worker_transfer_bytes", "Bytes of inputs and outputs", "direction")
        self._log_dropped = self._counter("asman_worker_log_dropped_bytes", "Bytes of logs beyond what is kept")
        self._leases_lost = self._counter("asman_worker_leases_lost", "Jobs whose lease was lost while they ran")
        self._show_zeros()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=bounds)

    def _show_zeros(self) -> None:
        """A rate over a counter that first appears with 1 would miss that one."""
        for phase in PHASES:
            self._jobs.labels(phase)
        for outcome in (*(outcome.value for outcome in Outcome), STOPPED):
            self._finished.labels(outcome)
        for direction in _DIRECTIONS:
            self._moved.labels(direction)

    # -- events ------------------------------------------------------------------------------------------------------

    def job_taken(self) -> None:
        self._taken.inc()

    def job_at(self, key: object, phase: str) -> None:
        """A job begins a step; the one before it is over. An unknown step counts under its own name."""
        now = self._clock()
        self._step_over(key, now)
        self._at[key] = phase, now
        self._jobs.labels(phase).inc()

    def job_gone(self, key: object) -> None:
        """A job is at no step any more. Repeating it is harmless."""
        self._step_over(key, self._clock())

    def _step_over(self, key: object, now: float) -> None:
        phase, since = self._at.pop(key, ("", now))
        if phase:
            self._jobs.labels(phase).dec()
            self._step_s.labels(phase).observe(max(now - since, 0.0))

    def job_ended(self, outcome: str, seconds: float) -> None:
        self._finished.labels(outcome).inc()
        self._run_s.observe(max(seconds, 0.0))

    def pulled(self, seconds: float) -> None:
        self._pull_s.observe(seconds)

    def moved(self, direction: str, size_bytes: int) -> None:
        """A file of a job came or went. Shape: ``direction`` is download or upload."""
        self._moved.labels(direction).inc(size_bytes)

    def log_dropped(self, size_bytes: int) -> None:
        self._log_dropped.inc(size_bytes)

    def lease_lost(self) -> None:
        self._leases_lost.inc()

    # -- looking -----------------------------------------------------------------------------------------------------

    def gauge(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Show what ``read`` answers at the moment of looking; it must not block. An OSError of it is shown as NaN.

        Shape:  ``name`` without the prefix ``asman_worker_``; several calls with one name differ in their labels.
        """
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"asman_worker_{name}", text, sorted(labels), registry=self._registry)
        child = self._gauges[name].labels(**labels) if labels else self._gauges[name]
        child.set_function(partial(_read_or_nan, read))

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus 0.0.4."""
        return generate_latest(self._registry)


def _read_or_nan(read: Callable[[], float]) -> float:
    """One number that cannot be had must not take all the others away."""
    try:
        return read()
    except OSError:
        return math.nan
