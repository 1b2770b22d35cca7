"""The counters of one app: fed by every saved step, read as Prometheus text.

Everything is told from the record before and after a step, so nothing is counted that was not saved and no step has
to remember to count. A step is told on the server that took it: sums over servers are right, and a restart sets the
counters back to zero, as Prometheus expects. Gauges (what is queued now) are the server's own and not repeated here.

No label carries a queue, job or worker name: a queue's name is the only key to it, and such labels never end.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from asman.config import Config
from asman.hookspecs import hookimpl
from asman.job import Callback, Job, Outcome, State
from asman_metrics.families import FAMILIES
from asman_metrics.server import ServerMeter

__all__ = ["Metrics"]

_WAIT_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400)
_RUN_S = (0.5, 1, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400)
_ENDS = ("reported", "lost", "released", "cancelled", "replaced", "deleted", "taken_over")
_ANSWERS = ("queued", "joined", "cached")
_TABLE = {family.name: family for family in FAMILIES}


class Metrics:
    """A plugin of its own with the hooks ``asman_job_changed``, ``asman_meter`` and ``asman_metrics_text``.

    Shape:  ``meter`` measures the server into the same registry.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._submits = self._counter("asman_job_submits_total")
        self._starts = self._counter("asman_job_starts_total")
        self._finishes = self._counter("asman_job_finishes_total")
        self._ends = self._counter("asman_job_attempts_ended_total")
        self._requeues = self._counter("asman_job_requeues_total")
        self._readoptions = self._counter("asman_job_readoptions_total")
        self._expiries = self._counter("asman_job_expiries_total")
        self._callbacks = self._counter("asman_webhook_attempts_total")
        self._losses = self._counter("asman_lease_losses_total")
        self._wait = self._histogram("asman_job_wait_seconds", _WAIT_S)
        self._run = self._histogram("asman_job_run_seconds", _RUN_S)
        self._show_zeros()
        self.meter = ServerMeter(self._registry)

    def _counter(self, name: str) -> Counter:
        family = _TABLE[name]
        return Counter(family.name, family.text, family.labels, registry=self._registry)

    def _histogram(self, name: str, bounds: tuple[float, ...]) -> Histogram:
        family = _TABLE[name]
        return Histogram(family.name, family.text, family.labels, registry=self._registry, buckets=bounds)

    def _show_zeros(self) -> None:
        """Label values are known beforehand: a rate over a counter that appears with its first 1 would miss it."""
        for led_to in _ANSWERS:
            self._submits.labels(led_to)
        for outcome in Outcome:
            self._finishes.labels(outcome.value)
        for how in _ENDS:
            self._ends.labels(how)
        for left in ("settled", "owed"):
            self._callbacks.labels(left)

    @hookimpl
    def asman_job_changed(self, job: Job, before: Job) -> None:
        """Count one saved step."""
        self._count_submit(before, job)
        self._count_claim(before, job)
        self._count_end(before, job)
        self._count_callbacks(before.callbacks, job.callbacks)
        if job.forgotten and not before.forgotten:
            self._expiries.inc()

    @hookimpl
    def asman_meter(self, config: Config) -> ServerMeter:
        """What the server tells how long it took."""
        return self.meter

    @hookimpl
    def asman_metrics_text(self) -> bytes:
        """All counters, in the text format of Prometheus 0.0.4."""
        return generate_latest(self._registry)

    def _count_submit(self, before: Job, after: Job) -> None:
        """Only a submit adds a namespace or renews one; one that starts the job anew raises its generation."""
        if not set(after.namespaces) - set(before.namespaces):
            return
        if after.generation != before.generation:
            self._submits.labels("queued").inc()
        else:
            self._submits.labels("joined" if after.is_active else "cached").inc()

    def _count_claim(self, before: Job, after: Job) -> None:
        if after.state is not State.RUNNING:
            return
        if after.attempt > before.attempt:
            self._starts.inc()
            if before.state is State.QUEUED:
                self._wait.observe(max(after.claimed_at - before.changed_at, 0.0))
        elif before.state is State.QUEUED:
            self._readoptions.inc()

    def _count_end(self, before: Job, after: Job) -> None:
        was_running = before.state is State.RUNNING
        if was_running and after.history and after.history[-1:] != before.history[-1:]:
            self._ends.labels(after.history[-1].end).inc()
            if after.history[-1].end == "lost":
                self._losses.inc()
        if was_running and after.state is State.QUEUED:
            self._requeues.inc()
        if before.is_active and after.state is State.FINISHED and after.outcome is not None:
            self._finishes.labels(after.outcome.value).inc()
            if was_running and after.has_result and after.finished_at is not None:
                self._run.observe(max(after.finished_at - after.claimed_at, 0.0))

    def _count_callbacks(self, before: tuple[Callback, ...], after: tuple[Callback, ...]) -> None:
        tries = {callback.event_id: callback.tries for callback in before}
        for callback in after:
            if callback.tries > tries.get(callback.event_id, callback.tries):
                self._callbacks.labels("settled" if callback.done else "owed").inc()
