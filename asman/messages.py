"""Every shape on the wire: queue records, socket frames, events between servers. Pure.

Records become the published JSON here and nowhere else: times turn into whole milliseconds, absent members are
left out, never null. Members that only this project has stand beside the published ones.

Source: published queue record, StateChange and socket frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from asman.job import Job, Reason, State

__all__ = [
    "PROTOCOL",
    "decode_event",
    "encode",
    "encode_event",
    "frame",
    "is_listed",
    "is_shown",
    "job_record",
    "jobs_frame",
    "ms",
]

PROTOCOL = 2
"""The newest worker protocol this release speaks."""

_UNLISTED = (Reason.CANCELLED, Reason.REPLACED, Reason.DELETED)


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_escaped = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode(value: Any) -> bytes:
    """Compact JSON, UTF-8, lone surrogates escaped as they came."""
    try:
        return _compact.encode(value).encode()
    except UnicodeEncodeError:
        return _escaped.encode(value).encode()


def ms(seconds: float) -> int:
    """Whole milliseconds since the epoch, as all times on the wire."""
    return round(seconds * 1000)


def is_listed(job: Job, now: float) -> bool:
    """Does the queue's listing show this record? What nobody wants any more and what has left is not shown."""
    if job.is_active:
        return not job.is_expired(now)
    if job.state is not State.FINISHED or job.reason in _UNLISTED or job.is_expired(now):
        return False
    return job.listed_until is None or now < job.listed_until


def is_shown(job: Job) -> bool:
    """May a ``JobStateUpdates`` frame carry this record? Unlike the listing it also says how a job left."""
    return job.state in (State.QUEUED, State.RUNNING, State.FINISHED) and not job.forgotten


def job_record(job: Job) -> dict[str, Any]:
    """The queue record of a job as listings and frames carry it.

    Units:  milliseconds since the epoch for ``queuedTime``, ``time``, ``leaseUntil`` and ``expiresAt``.
    """
    record: dict[str, Any] = {
        "queuedTime": ms(job.queued_at),
        "state": job.state.value,
        "time": ms(job.changed_at),
        "worker": job.worker,
        "namespaces": job.namespace_names,
        "attempt": job.attempt,
        "generation": job.generation,
        "expiresAt": ms(job.expires_at),
        **job.advertised,
    }
    if job.debug is not None:
        record["debug"] = job.debug
    if job.lease_until is not None:
        record["leaseUntil"] = ms(job.lease_until)
    if job.reason is not None:
        record["finishedReason"] = job.reason.value
    if job.outcome is not None:
        record["outcome"] = job.outcome.value
    if job.exit_code is not None:
        record["exitCode"] = job.exit_code
    if job.message:
        record["message"] = job.message
    if job.history:
        record["attempts"] = [
            {"attempt": a.number, "worker": a.worker, "start": ms(a.started_at), "end": ms(a.ended_at), "how": a.end}
            for a in job.history
        ]
    return record


def frame(kind: str, payload: Mapping[str, Any] | None = None) -> bytes:
    """One socket message: ``{"type": kind, "payload": {...}}``; without payload the member is left out."""
    message: dict[str, Any] = {"type": kind}
    if payload is not None:
        message["payload"] = payload
    return encode(message)


def jobs_frame(jobs: Iterable[Job], *, subset: bool) -> bytes:
    """``JobStates`` (the whole queue: receivers replace) or, for a ``subset``, ``JobStateUpdates`` (they merge)."""
    kind = "JobStateUpdates" if subset else "JobStates"
    records = {job.job_id: job_record(job) for job in jobs}
    return frame(kind, {"state": {"jobs": records}, "isSubset": subset})


def encode_event(header: Mapping[str, Any], message: bytes = b"") -> bytes:
    """What servers tell each other: a one-line JSON header, then the socket frame to hand on as it is.

    The frame is encoded once, where the change was made, and forwarded unread.
    """
    return encode(header) + b"\n" + message


def decode_event(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take ``encode_event`` apart."""
    header, _, message = data.partition(b"\n")
    return json.loads(header), message
