"""What the server itself does, measured: requests, store operations, sweeps, the event loop, the process.

A ``Meter`` in the middle of every request. What is told of each one is added to plain numbers, which become metrics
when somebody looks: the client library's own counters lock, keep an object per bucket, and made a submit dearer by
10 us where this makes it 6 (of 135). The event loop is the only one who adds, so no lock is needed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from asman.errors import AsmanError, StorageFull, Unavailable
from asman_metrics.families import FAMILIES

__all__ = ["LOOP_LOOK_S", "ServerMeter"]

LOOP_LOOK_S = 0.5
"""How often the event loop is looked at: twice a second costs nothing, and a stall longer than that is never missed."""

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STORE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_ALARMING = (Unavailable.code, StorageFull.code, AsmanError.code)
"""Shown as zero as soon as an operation is known: a rate over a counter that appears with its first 1 would miss it."""

_TABLE = {family.name: family for family in FAMILIES}


class _Durations(Collector):
    """A histogram by one label. Shape: per label value the count of each bucket, the last for what is above all bounds,
    and behind them the sum.
    """

    def __init__(self, name: str, bounds: tuple[float, ...]) -> None:
        self._family, self._bounds = _TABLE[name], bounds
        self._rows: dict[str, list[float]] = {}

    def add(self, label: str, seconds: float) -> bool:
        """Add one; True if the label is new."""
        row = self._rows.get(label)
        is_new = row is None
        if row is None:
            row = self._rows[label] = [0] * (len(self._bounds) + 1) + [0.0]
        row[bisect_left(self._bounds, seconds)] += 1
        row[-1] += seconds
        return is_new

    def collect(self) -> Iterator[Metric]:
        metric = HistogramMetricFamily(self._family.name, self._family.text, labels=self._family.labels)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for label, row in list(self._rows.items()):
            metric.add_metric([label], list(zip(bounds, accumulate(row[:-1]), strict=True)), row[-1])
        yield metric


class _Requests(Collector):
    """A counter by route, method and status."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, int], int] = {}

    def collect(self) -> Iterator[Metric]:
        family = _TABLE["asman_http_requests_total"]
        metric = CounterMetricFamily(family.name, family.text, labels=family.labels)
        for (route, method, status), count in list(self.counts.items()):
            metric.add_metric([route, method, str(status)], count)
        yield metric


class ServerMeter:
    """One app's measurements, in a registry that others add to. Source: ``abc.Meter``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = _Requests()
        self._request_s = _Durations("asman_http_request_seconds", _REQUEST_S)
        self._store_s = _Durations("asman_store_seconds", _STORE_S)
        for collector in (self._requests, self._request_s, self._store_s):
            registry.register(collector)
        errors, loop = _TABLE["asman_store_errors_total"], _TABLE["asman_event_loop_lag_seconds"]
        lag = _TABLE["asman_expiry_lag_seconds"]
        self._store_errors = Counter(errors.name, errors.text, errors.labels, registry=registry)
        self._loop_lag_s = Histogram(loop.name, loop.text, registry=registry, buckets=_LAG_S)
        self._expiry_lag_s = Gauge(lag.name, lag.text, registry=registry)
        ProcessCollector(registry=registry)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._look_later(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        key, counts = (route, method, status), self._requests.counts
        counts[key] = counts.get(key, 0) + 1
        self._request_s.add(route, seconds)

    def stored(self, operation: str, seconds: float, code: str) -> None:
        if self._store_s.add(operation, seconds):
            for alarming in _ALARMING:
                self._store_errors.labels(operation, alarming)
        if code:
            self._store_errors.labels(operation, code).inc()

    def swept(self, lag_s: float) -> None:
        self._expiry_lag_s.set(lag_s)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        wanted = loop.time() + LOOP_LOOK_S
        self._timer = loop.call_at(wanted, self._look, loop, wanted)

    def _look(self, loop: asyncio.AbstractEventLoop, wanted: float) -> None:
        self._loop_lag_s.observe(max(loop.time() - wanted, 0.0))
        self._look_later(loop)
