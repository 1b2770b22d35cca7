"""Metrics as text: families with name, type, labels and meaning, and the text format that Prometheus reads.

One table says what the core shows; the page ``docs/metrics.md`` is made from it, and plugins that show more write
their own table of the same kind. Refuses to count anything: whoever knows a number gives it.

Source: Prometheus text format 0.0.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "QUEUE_FAMILIES", "SERVER_FAMILIES", "Family", "Sample", "exposition", "with_label"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric. Shape: ``kind`` is gauge, counter or histogram; ``name`` as it is shown, ``_total`` included."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    unit: str = ""


Sample = tuple[str, Sequence[str], float]
"""(family, label values in the order of the family's labels, value)."""


def _gauge(name: str, text: str, *labels: str, unit: str = "") -> Family:
    return Family(name=name, kind="gauge", text=text, labels=labels, unit=unit)


QUEUE_FAMILIES: tuple[Family, ...] = (
    _gauge("queue_length", "The number of outstanding jobs in the queue", unit="jobs"),
    _gauge("queue_jobs", "Outstanding jobs by state (queued, running)", "state", unit="jobs"),
    _gauge("queue_backlog", "Queued jobs by the kind of worker they need (cpu, gpu)", "needs", unit="jobs"),
    _gauge(
        "queue_oldest_wait_seconds",
        "How long the longest waiting job has been queued, 0 if none waits",
        "needs",
        unit="seconds",
    ),
    _gauge("queue_requested_cpus", "Cores that queued and running jobs ask for", unit="cores"),
    _gauge("queue_requested_gpus", "GPUs that queued and running jobs ask for", unit="GPUs"),
    _gauge("queue_workers", "Workers connected for the queue", unit="workers"),
    _gauge("queue_worker_cpus", "Cores those workers offer", unit="cores"),
    _gauge("queue_worker_gpus", "GPUs those workers offer", unit="GPUs"),
    _gauge("queue_worker_free_cpus", "Cores of those workers that could take a job now", unit="cores"),
    _gauge("queue_worker_free_gpus", "GPUs of those workers that could take a job now", unit="GPUs"),
)
"""``GET /q/QUEUE/metrics``. ``queue_length`` has no label: autoscalers filter on none."""

SERVER_FAMILIES: tuple[Family, ...] = (
    _gauge("asman_jobs", "Jobs on the lists of all queues, by state (queued, running, finished)", "state", unit="jobs"),
    _gauge("asman_sockets", "Open sockets of this server, by who holds them (client, worker)", "role", unit="sockets"),
    _gauge("asman_open_queues", "Queues with somebody connected here", unit="queues"),
    _gauge("asman_workers", "Registered workers connected here", unit="workers"),
    _gauge("asman_clients", "Client sockets connected here", unit="sockets"),
)
"""``GET /metrics``, what the core itself knows."""


def exposition(families: Iterable[Family], samples: Iterable[Sample]) -> str:
    """The text of these families, each with all its samples, in the order of the families."""
    by_name: dict[str, list[tuple[Sequence[str], float]]] = {}
    for name, values, value in samples:
        by_name.setdefault(name, []).append((values, value))
    lines = []
    for family in families:
        lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
        for values, value in by_name.get(family.name, ()):
            named = ",".join(f'{k}="{_escaped(v)}"' for k, v in zip(family.labels, values, strict=True))
            lines.append(f"{family.name}{{{named}}} {_shown(value)}" if named else f"{family.name} {_shown(value)}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _shown(value: float) -> str:
    """Whole numbers without a point, as older scrapers of ``queue_length`` read them; never an exponent for those."""
    return str(int(value)) if float(value).is_integer() else repr(round(float(value), 6))


def with_label(text: str, name: str, value: str) -> str:
    """The same text with one more label on every sample: whose numbers these are."""
    label = f'{name}="{_escaped(value)}"'
    lines = []
    for line in text.split("\n"):
        found = None if line.startswith("#") else _SAMPLE.match(line)
        if found is None:
            lines.append(line)
            continue
        metric, labels, shown = found.groups()
        lines.append(f"{metric}{{{label}{',' + labels if labels else ''}}} {shown}")
    return "\n".join(lines)
