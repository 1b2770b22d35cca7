"""The record of one job in one queue, and how it is written down.

A record is frozen: ``state.transition`` makes the next one. It holds what decides something (state, lease, attempt,
namespaces, what is due when) and never the definition, the result or the logs: those are documents beside it.
Times are seconds since the epoch, UTC, by the server's clock. The wire's milliseconds are made in ``messages``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

__all__ = [
    "ANY_NAMESPACE",
    "DEFAULT_NAMESPACE",
    "Attempt",
    "Callback",
    "Job",
    "Outcome",
    "Reason",
    "Requirements",
    "State",
    "absent",
    "decode_job",
    "encode_job",
]

DEFAULT_NAMESPACE = "_"
ANY_NAMESPACE = "*"


class State(StrEnum):
    ABSENT = "Absent"
    """No record: what a job is before its first submit. Never stored, never sent."""
    QUEUED = "Queued"
    RUNNING = "Running"
    FINISHED = "Finished"
    REMOVED = "Removed"
    """Finished and off the listing; the result is kept until ``expires_at``."""


class Reason(StrEnum):
    """Why a job finished, in the words of the wire."""

    SUCCESS = "Success"
    ERROR = "Error"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"
    REPLACED = "JobReplacedByClient"
    DELETED = "Deleted"
    WORKER_LOST = "WorkerLost"

    @property
    def has_result(self) -> bool:
        """Success, Error and TimedOut leave a result; the others only end the job."""
        return self in (Reason.SUCCESS, Reason.ERROR, Reason.TIMED_OUT)


class Outcome(StrEnum):
    """What really happened: the wire calls a container that exited with 3 a ``Success``, this does not."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    REPLACED = "replaced"
    WORKER_LOST = "worker_lost"
    ERROR = "error"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a job asks of a worker.

    Shape:  ``gpus`` is a count; ``tags`` are sorted and must all be among the worker's.
    Units:  cores (may be fractional); bytes, 0 for "did not say"; seconds, None for "did not say".
    """

    cores: float = 1.0
    memory_bytes: int = 0
    gpus: int = 0
    max_duration_s: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def shape(self) -> str:
        """One text per distinct set of requirements: what stores index queued jobs by."""
        return _compact.encode([self.cores, self.memory_bytes, self.gpus, self.max_duration_s, *self.tags])

    @classmethod
    def from_shape(cls, shape: str) -> Requirements:
        cores, memory_bytes, gpus, max_duration_s, *tags = json.loads(shape)
        return cls(cores=cores, memory_bytes=memory_bytes, gpus=gpus, max_duration_s=max_duration_s, tags=tuple(tags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One past attempt, for people who ask what happened."""

    number: int
    worker: str
    started_at: float
    ended_at: float
    end: str
    """``reported``, ``lost``, ``released``, ``cancelled``, ``replaced``, ``deleted`` or ``taken_over``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A webhook that is owed, kept in the record so that it commits with the step that caused it.

    Shape:  ``payload`` is the submitter's JSON text; ``event`` is ``queued`` or ``finished``; ``event_id`` names one
            delivery for the receiver's own de-duplication. ``due_at`` None: waits for its event, or is done.
    """

    event: str
    namespace: str
    url: str
    payload: str = "{}"
    event_id: str = ""
    due_at: float | None = None
    tries: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job in one queue.

    Shape:  ``attempt`` rises with every claim and is the fencing token; it never falls while the record lives.
            ``generation`` rises with every submit that starts the job anew; ``lost`` counts lost attempts in it.
            ``protocol`` is the holder's: 1 mirrors the queue and names itself, 2 was assigned the job.
            ``namespaces`` are sorted (name, last submitted at) pairs. ``advertised`` are the members of the
            definition that the listing repeats (``requirements``, ``tags``), verbatim.
            ``replacements`` are (namespace, at) pairs: when a newer job of that namespace takes its place.
    """

    queue: str
    job_id: str
    state: State = State.ABSENT
    version: int = 0
    generation: int = 0
    queued_at: float = 0.0
    changed_at: float = 0.0
    attempt: int = 0
    lost: int = 0
    worker: str = ""
    protocol: int = 0
    claimed_at: float = 0.0
    lease_until: float | None = None
    reason: Reason | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    message: str = ""
    result_worker: str = ""
    finished_at: float | None = None
    listed_until: float | None = None
    expires_at: float = 0.0
    namespaces: tuple[tuple[str, float], ...] = ()
    replacements: tuple[tuple[str, float], ...] = ()
    callbacks: tuple[Callback, ...] = ()
    history: tuple[Attempt, ...] = ()
    debug: bool | None = None
    requirements: Requirements = field(default_factory=Requirements)
    advertised: Mapping[str, Any] = field(default_factory=dict)
    forgotten: bool = False
    """Expired: the documents are gone, the record only still says so."""

    @property
    def namespace_names(self) -> list[str]:
        return [name for name, _ in self.namespaces]

    @property
    def is_active(self) -> bool:
        return self.state in (State.QUEUED, State.RUNNING)

    @property
    def has_result(self) -> bool:
        return self.reason is not None and self.reason.has_result and not self.forgotten

    @property
    def due_at(self) -> float:
        """When maintenance must look at this record next; stores index it."""
        moments = [self.expires_at]
        if self.state is State.RUNNING and self.lease_until is not None:
            moments.append(self.lease_until)
        if self.state is State.FINISHED and self.listed_until is not None:
            moments.append(self.listed_until)
        moments += [at for _, at in self.replacements if self.is_active]
        moments += [c.due_at for c in self.callbacks if c.due_at is not None]
        return min(moments)

    def is_expired(self, now: float) -> bool:
        return self.state is not State.ABSENT and (self.forgotten or now >= self.expires_at)


def absent(queue: str, job_id: str) -> Job:
    """The record of a job that has none yet."""
    return Job(queue=queue, job_id=job_id)


_compact = json.JSONEncoder(separators=(",", ":"))


def encode_job(job: Job) -> bytes:
    """Write a record as JSON, the form every store keeps and any backend author can read.

    Members that hold their default are left out: most records are short, and this is on the path of every submit.
    """
    raw: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(job, name)
        if value != default:
            raw[name] = value
    for name in ("callbacks", "history"):
        if name in raw:
            raw[name] = [asdict(entry) for entry in raw[name]]
    if "requirements" in raw:
        raw["requirements"] = asdict(job.requirements)
    return _compact.encode(raw).encode()


def decode_job(data: bytes | str) -> Job:
    """Read what ``encode_job`` wrote; members that this release does not know are dropped, at every level."""
    raw = json.loads(data)
    known = {name: raw[name] for name in Job.__dataclass_fields__ if name in raw}
    known["state"] = State(raw.get("state", State.ABSENT))
    known["reason"] = Reason(raw["reason"]) if raw.get("reason") else None
    known["outcome"] = Outcome(raw["outcome"]) if raw.get("outcome") else None
    known["namespaces"] = tuple((name, at) for name, at in raw.get("namespaces", ()))
    known["replacements"] = tuple((name, at) for name, at in raw.get("replacements", ()))
    known["callbacks"] = tuple(Callback(**_known(Callback, c)) for c in raw.get("callbacks", ()))
    known["history"] = tuple(Attempt(**_known(Attempt, a)) for a in raw.get("history", ()))
    if "requirements" in raw:
        asked = _known(Requirements, raw["requirements"])
        known["requirements"] = Requirements(**{**asked, "tags": tuple(asked.get("tags", ()))})
    return Job(**known)


def _known(kind: type[Callback] | type[Attempt] | type[Requirements], raw: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name in kind.__dataclass_fields__}


_NO_DEFAULT = object()


def _default_of(f: Field[Any]) -> Any:
    if f.default_factory is not MISSING:
        return f.default_factory()
    return _NO_DEFAULT if f.default is MISSING else f.default


_DEFAULTS: dict[str, Any] = {f.name: _default_of(f) for f in fields(Job)}
