"""Every metric that this plugin adds to ``GET /metrics``: its name, type, labels, unit and meaning.

A table without a driver: the page ``docs/metrics.md`` is made from it, and the counters are made from it too, so
neither can say more than the other. Label values are few and known beforehand: no queue, job, worker or path.
"""

from __future__ import annotations

from asman.exposition import Family

__all__ = ["FAMILIES"]


def _counter(name: str, text: str, *labels: str, unit: str) -> Family:
    return Family(name=name, kind="counter", text=text, labels=labels, unit=unit)


def _histogram(name: str, text: str, *labels: str) -> Family:
    return Family(name=name, kind="histogram", text=text, labels=labels, unit="seconds")


def _gauge(name: str, text: str, unit: str) -> Family:
    return Family(name=name, kind="gauge", text=text, unit=unit)


FAMILIES: tuple[Family, ...] = (
    _counter(
        "asman_job_submits_total",
        "Submits by what they led to: a job queued, joined or answered from the cache",
        "led_to",
        unit="submits",
    ),
    _counter("asman_job_starts_total", "Attempts that were given to a worker", unit="attempts"),
    _counter("asman_job_finishes_total", "Jobs that ended, by outcome", "outcome", unit="jobs"),
    _counter("asman_job_attempts_ended_total", "Attempts that ended, by how", "how", unit="attempts"),
    _counter("asman_job_requeues_total", "Jobs that went from a worker back into the queue", unit="jobs"),
    _counter("asman_job_readoptions_total", "Requeued jobs that their worker took up again", unit="jobs"),
    _counter("asman_job_expiries_total", "Jobs whose data expired", unit="jobs"),
    _counter(
        "asman_webhook_attempts_total",
        "Webhook calls, by whether they are settled or owed still",
        "left",
        unit="calls",
    ),
    _histogram("asman_job_wait_seconds", "From queued to given to a worker"),
    _histogram("asman_job_run_seconds", "From given to a worker to its report"),
    _counter("asman_lease_losses_total", "Leases that ran out, or were not taken up again", unit="leases"),
    _counter(
        "asman_http_requests_total",
        "Requests answered, by route template, method and status",
        "route",
        "method",
        "status",
        unit="requests",
    ),
    _histogram("asman_http_request_seconds", "From a request to the first byte of its answer", "route"),
    _histogram("asman_store_seconds", "How long an operation of the job or blob store took", "operation"),
    _counter(
        "asman_store_errors_total",
        "Operations of the stores that failed, by the code of the error",
        "operation",
        "code",
        unit="operations",
    ),
    _gauge("asman_expiry_lag_seconds", "How late the most overdue record of the last sweep was", "seconds"),
    _histogram("asman_event_loop_lag_seconds", "How late the event loop ran a timer, looked at twice a second"),
    _gauge("process_virtual_memory_bytes", "Virtual memory of the server's process", "bytes"),
    _gauge("process_resident_memory_bytes", "Memory that the server's process holds", "bytes"),
    _gauge("process_start_time_seconds", "When the process started, since the epoch", "seconds"),
    _counter("process_cpu_seconds_total", "CPU time that the process used, user and system", unit="seconds"),
    _gauge("process_open_fds", "Open file descriptors of the process", "descriptors"),
    _gauge("process_max_fds", "File descriptors that the process may open", "descriptors"),
)
"""In the order of the page. The ``process_`` ones are the client library's own, and there on Linux only."""
