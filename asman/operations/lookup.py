"""Reading jobs: by queue, by id alone, as listing, as the whole finished record. Reads create nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asman.documents import DEFINITION, RESULT, read_document
from asman.errors import Expired, JobNotFound, clip
from asman.job import Job, Reason, State
from asman.matching import Capacity, rules
from asman.messages import is_listed, job_record, ms
from asman.services import Services

__all__ = [
    "Candidate",
    "find_job",
    "find_result",
    "get_job",
    "list_jobs",
    "read_definition_of",
    "read_result_of",
    "why",
]

_POSITION_COUNTED = 1_000
_LISTED_MAX = 1_000_000


def _is_there(job: Job | None, now: float) -> bool:
    return job is not None and job.reason is not Reason.DELETED and not job.is_expired(now)


async def get_job(services: Services, queue: str, job_id: str) -> Job:
    """The live record of a job in a queue. Errors: JobNotFound; Expired."""
    job = await services.jobs.load(queue, job_id)
    if job is None or job.reason is Reason.DELETED:
        raise JobNotFound("Job not found")
    if job.is_expired(services.clock()):
        raise Expired(f"job {clip(job_id)} has expired")
    return job


async def find_job(services: Services, job_id: str, queue: str | None = None) -> Job:
    """A record that knows the job: the queue's own if it has one, else that of any queue.

    Without a queue, one with a result comes first, the oldest of them.
    Errors: JobNotFound; Expired.
    """
    now = services.clock()
    if queue is not None:
        return await get_job(services, queue, job_id)
    found = await services.jobs.find(job_id)
    live = [j for j in found if _is_there(j, now)]
    with_result = sorted((j for j in live if j.has_result), key=lambda j: j.finished_at or 0.0)
    if with_result or live:
        return (with_result or live)[0]
    if any(j.is_expired(now) and j.reason is not Reason.DELETED for j in found):
        raise Expired(f"job {clip(job_id)} has expired")
    raise JobNotFound("Job not found")


async def read_definition_of(services: Services, job: Job) -> Any:
    """The definition as it was submitted, or None if it is gone."""
    return await read_document(services, job, DEFINITION)


async def read_result_of(services: Services, job: Job) -> dict[str, Any] | None:
    """The complete finished record, ``finished`` included; None if the job left no result.

    Shape:  the queue record plus ``finished``, as ``result.json`` answers. Who made it: ``worker`` and ``attempt``.
    """
    if not job.has_result:
        return None
    finished = await read_document(services, job, RESULT)
    if finished is None:
        return None
    return {**job_record(job), "state": State.FINISHED.value, "finished": finished}


async def find_result(services: Services, job_id: str, queue: str | None = None) -> dict[str, Any] | None:
    """The stored result of a job, None for one that is unknown, unfinished or ended without. Errors: Expired."""
    try:
        job = await find_job(services, job_id, queue)
    except JobNotFound:
        return None
    return await read_result_of(services, job)


async def list_jobs(services: Services, queue: str) -> list[Job]:
    """What the queue's listing shows, in queued order."""
    now = services.clock()
    states = (State.QUEUED, State.RUNNING, State.FINISHED)
    jobs = await services.jobs.list(queue, states=states, limit=_LISTED_MAX)
    return [job for job in jobs if is_listed(job, now)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker that might take the job: what it has in all and what of it is free."""

    worker: str
    total: Capacity
    free: Capacity
    takes: int


async def why(services: Services, queue: str, job_id: str, workers: Iterable[Candidate]) -> Mapping[str, Any]:
    """Why the job is where it is: its place in the queue, and each worker held against each rule.

    Shape:  ``position`` counts from 0 and stops at 1000; None if the job does not wait.
    """
    job = await get_job(services, queue, job_id)
    known = [_held_against(job, worker) for worker in workers]
    waits = job.state is State.QUEUED
    position = await _position(services, job) if waits else None
    return {
        "jobId": job.job_id,
        "state": job.state.value,
        "position": position,
        "queuedTime": ms(job.queued_at),
        "waitedSeconds": round(max(services.clock() - job.queued_at, 0.0), 3) if waits else None,
        "attempt": job.attempt,
        "workers": known,
        "reason": _reason_text(job, position, known),
    }


async def _position(services: Services, job: Job) -> int:
    ahead = await services.jobs.list(job.queue, states=(State.QUEUED,), limit=_POSITION_COUNTED)
    place = (job.queued_at, job.job_id)
    return sum(1 for other in ahead if (other.queued_at, other.job_id) < place)


def _held_against(job: Job, candidate: Candidate) -> dict[str, Any]:
    total = rules(job.requirements, candidate.total)
    free = rules(job.requirements, candidate.free)
    return {
        "id": candidate.worker,
        "fits": all(rule.passed for rule in total),
        "free": candidate.takes > 0 and all(rule.passed for rule in free),
        "rules": [
            {"rule": r.rule, "passed": r.passed, "asked": r.asked, "has": r.has, "freeNow": f.has}
            for r, f in zip(total, free, strict=True)
        ],
    }


def _reason_text(job: Job, position: int | None, workers: list[dict[str, Any]]) -> str:
    if job.state is State.RUNNING:
        return f"it runs on worker {job.worker}, attempt {job.attempt}"
    if position is None:
        return f"it has finished: {job.outcome}"
    if not workers:
        return "no worker is connected to this queue; start one with: asman worker QUEUE --server URL"
    fitting = [w for w in workers if w["fits"]]
    if not fitting:
        failed = sorted({r["rule"] for w in workers for r in w["rules"] if not r["passed"]})
        return f"no connected worker fits: {', '.join(failed)}"
    if not any(w["free"] for w in fitting):
        return f"the workers it fits are busy; {position} jobs are before it"
    return f"it is about to be given out; {position} jobs are before it"
