"""What workers do with jobs: take, keep, report, hand back. And what happens when they fall silent.

A claim is a lease. Which job a worker gets is decided by requirements first, then by who waited longest: the store
counts queued jobs per distinct set of requirements, so finding the next job costs the number of such sets, not the
number of jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from asman.completion import to_the_end
from asman.documents import DEFINITION, RESULT, blob_key, extend_documents, pack, read_document
from asman.errors import BadMessage, Conflict, LeaseLost, StorageFull, TransitionRefused, Unavailable, clip
from asman.job import Job, Outcome, Reason, Requirements, State
from asman.matching import Capacity, fits
from asman.operations.blobs import output_keys
from asman.operations.step import Step, step
from asman.operations.submit import expiry
from asman.services import Services
from asman.state import Claimed, Lapsed, Released, Renewed, Reported

__all__ = [
    "announce",
    "claim",
    "give_back",
    "lease_end",
    "outcome_of",
    "release",
    "renew",
    "report",
    "rescue",
    "running_on",
    "shorten_lease",
]

_CLAIM_ROUNDS = 4
_SLACK = 16
"""Heads read beyond what is wanted, for claims that reserve some meanwhile."""


def lease_end(services: Services) -> float:
    return services.clock() + services.config.lease_s


async def claim(
    services: Services, queue: str, worker: str, free: Capacity, limit: int, reserved: set[str] | None = None
) -> list[tuple[Job, Any]]:
    """Give up to ``limit`` jobs to a worker, longest waiting first among those that fit what it has free.

    A claim that is cancelled or fails hands back at once what it took: its worker never hears of it.

    Shape:  (record, definition) pairs; the records are leased to the worker under a new attempt. ``reserved`` holds
            the ids that other claims of this server are busy with: they pass each other by instead of colliding.
    """
    taken: list[Job] = []
    reserved = set() if reserved is None else reserved
    try:
        for _ in range(_CLAIM_ROUNDS):
            wanted = await _candidates(services, queue, free, limit - len(taken), reserved)
            if not wanted:
                break
            had = len(taken)
            try:
                await to_the_end(_take_all(services, wanted, worker, taken))
            finally:
                reserved.difference_update(job.job_id for job in wanted)
            free = _less(free, taken[had:])
            if len(taken) - had == len(wanted):
                break
        definitions = await asyncio.gather(*(read_document(services, job, DEFINITION) for job in taken))
    except (Exception, asyncio.CancelledError):
        if taken:
            await to_the_end(_hand_back(services, queue, worker, taken))
        raise
    return list(zip(taken, definitions, strict=True))


async def _candidates(services: Services, queue: str, free: Capacity, limit: int, reserved: set[str]) -> list[Job]:
    """The oldest queued jobs that fit together into what is free; they are reserved when this returns."""
    if limit <= 0:
        return []
    counts = await services.jobs.counts(queue)
    shapes = [s for state, s in counts if state is State.QUEUED and fits(Requirements.from_shape(s), free)]
    while True:
        enough = limit + len(reserved) + _SLACK
        states = (State.QUEUED,)
        heads = [await services.jobs.list(queue, states=states, shape=shape, limit=enough) for shape in shapes]
        chosen = _choose(services, [job for head in heads for job in head], free, limit, reserved)
        others_took = limit + len(reserved) + _SLACK > enough  # reserved meanwhile: there may be more behind them
        if len(chosen) == limit or not others_took or all(len(head) < enough for head in heads):
            break
    reserved.update(job.job_id for job in chosen)
    return chosen


def _choose(services: Services, heads: list[Job], free: Capacity, limit: int, reserved: set[str]) -> list[Job]:
    now = services.clock()
    chosen: list[Job] = []
    for job in sorted(heads, key=lambda j: (j.queued_at, j.job_id)):
        if len(chosen) == limit:
            break
        if job.job_id not in reserved and fits(job.requirements, free) and not job.is_expired(now):
            chosen.append(job)
            free = _less(free, [job])
    return chosen


def _less(free: Capacity, jobs: list[Job]) -> Capacity:
    for job in jobs:
        need = job.requirements
        memory = free.memory_bytes
        free = replace(
            free,
            cores=free.cores - need.cores,
            memory_bytes=None if memory is None else memory - need.memory_bytes,
            gpus=free.gpus - need.gpus,
        )
    return free


async def _take_all(services: Services, wanted: list[Job], worker: str, taken: list[Job]) -> None:
    """Claim each of them. What was won is added to ``taken``, also when another claim fails."""
    answers = await asyncio.gather(*(_take(services, job, worker) for job in wanted), return_exceptions=True)
    taken += [answer for answer in answers if isinstance(answer, Job)]
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


async def _hand_back(services: Services, queue: str, worker: str, taken: list[Job]) -> None:
    with suppress(Unavailable, StorageFull):  # without a store the leases end by themselves
        await release(services, queue, worker, {job.job_id: job.attempt for job in taken})


async def _take(services: Services, job: Job, worker: str) -> Job | None:
    event = Claimed(at=services.clock(), worker=worker, protocol=2, lease_until=lease_end(services))
    try:
        return (await step(services, job.queue, job.job_id, event, known=job, is_carried=True)).after
    except Conflict:
        return None  # somebody else was faster, or it was cancelled


async def announce(services: Services, queue: str, job_id: str, worker: str) -> Job | None:
    """A mirroring worker (protocol 1) says that it runs the job; None if the job is not to be had.

    A job that was put back while the worker was away is taken up again under its attempt.
    """
    lease_until = lease_end(services)

    def decide(job: Job) -> Claimed | Renewed:
        last = job.history[-1] if job.history else None
        if job.state is State.QUEUED and last and last.end == "lost" and last.worker == worker:
            return Renewed(at=services.clock(), worker=worker, attempt=None, lease_until=lease_until)
        return Claimed(at=services.clock(), worker=worker, protocol=1, lease_until=lease_until)

    try:
        return (await step(services, queue, job_id, decide)).after
    except Conflict:
        return None


async def renew(
    services: Services, queue: str, worker: str, held: Mapping[str, int | None], *, lease_until: float | None = None
) -> tuple[dict[str, int], list[str]]:
    """Keep (or take up again) what a worker holds.

    Shape:  ``held`` maps job ids to attempts; the answer is (kept with attempts, lost).
    """
    until = lease_end(services) if lease_until is None else lease_until

    async def keep(job_id: str, attempt: int | None) -> tuple[str, int | None]:
        event = Renewed(at=services.clock(), worker=worker, attempt=attempt, lease_until=until)
        try:
            return job_id, (await step(services, queue, job_id, event)).after.attempt
        except (LeaseLost, TransitionRefused):
            return job_id, None

    answers = await asyncio.gather(*(keep(job_id, attempt) for job_id, attempt in held.items()))
    kept = {job_id: attempt for job_id, attempt in answers if attempt is not None}
    return kept, [job_id for job_id, attempt in answers if attempt is None]


async def shorten_lease(services: Services, queue: str, worker: str, held: Mapping[str, int | None]) -> None:
    """The connection is gone: the worker has a short time to come back for its jobs."""

    async def shorten(job_id: str, attempt: int | None) -> None:
        now = services.clock()

        def decide(job: Job) -> Renewed:
            until = min(job.lease_until or now, now + services.config.reconnect_grace_s)
            return Renewed(at=now, worker=worker, attempt=attempt, lease_until=until)

        job = await services.jobs.load(queue, job_id)
        if job is None or job.state is not State.RUNNING or job.worker != worker:
            return
        try:
            await step(services, queue, job_id, decide)
        except Conflict:
            return

    await asyncio.gather(*(shorten(job_id, attempt) for job_id, attempt in held.items()))


async def running_on(services: Services, queue: str, worker: str) -> list[Job]:
    """Running jobs of the queue that this worker holds. Costs the number of running jobs."""
    running = await services.jobs.list(queue, states=(State.RUNNING,), limit=1_000_000)
    return [job for job in running if job.worker == worker]


async def report(
    services: Services, queue: str, job_id: str, worker: str, attempt: int | None, value: Mapping[str, Any]
) -> Step:
    """Accept how a job ended, with its result, exactly once per generation.

    Shape:  ``value`` is the wire's finished value: reason, result {StatusCode, logs, outputs, ...}, outcome.
    Errors: LeaseLost when the job has been given to somebody else since; BadMessage for an unusable value.
    """
    reason = _reason(value)
    now = services.clock()
    job = await services.jobs.load(queue, job_id)
    if job is None:
        raise LeaseLost(f"job {clip(job_id)} is not known in this queue; {worker} reported it")
    event = Reported(
        at=now,
        worker=worker,
        attempt=attempt,
        reason=reason,
        outcome=outcome_of(value),
        exit_code=_exit_code(value),
        listed_until=now + services.config.listed_s,
        expires_at=expiry(services, job, now),
    )
    return await to_the_end(_accept(services, job, event, value))


async def _accept(services: Services, job: Job, event: Reported, value: Mapping[str, Any]) -> Step:
    """Store the result and take the step; blobs live as long as what refers to them."""
    expires_at = max(event.expires_at, job.expires_at)
    for key in output_keys(value):
        await services.blobs.extend(key, expires_at)
    document = await pack(services, RESULT, value, expires_at=expires_at)
    try:
        documents = {RESULT: document}
        done = await step(services, job.queue, job.job_id, event, documents=documents, known=job, is_carried=True)
    except Conflict:
        await _discard(services, document)
        raise
    if done.after is done.before:
        await _discard(services, document)
    else:
        await extend_documents(services, done.after)
    return done


async def _discard(services: Services, document: bytes) -> None:
    key = blob_key(document)
    if key is not None:
        await services.blobs.delete(key)


def _reason(value: Mapping[str, Any]) -> Reason:
    try:
        reason: Reason | None = Reason(str(value.get("reason")))
    except ValueError:
        reason = None
    if reason is None or not reason.has_result:
        shown = clip(value.get("reason"))
        raise BadMessage(f"reason is {shown}; a worker reports Success, Error or TimedOut")
    return reason


def _exit_code(value: Mapping[str, Any]) -> int | None:
    result = value.get("result")
    code = result.get("StatusCode") if isinstance(result, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def outcome_of(value: Mapping[str, Any]) -> Outcome:
    """The truth about an end: from the result itself where it tells, else from what the worker says."""
    reason, code = value.get("reason"), _exit_code(value)
    if reason == Reason.TIMED_OUT:
        return Outcome.TIMED_OUT
    if reason == Reason.ERROR:
        return Outcome.ERROR
    if code in (0, None):
        return Outcome.SUCCEEDED
    stated = value.get("outcome")
    return Outcome.OUT_OF_MEMORY if stated == Outcome.OUT_OF_MEMORY else Outcome.FAILED


async def release(services: Services, queue: str, worker: str, held: Mapping[str, int | None]) -> list[str]:
    """A draining worker hands jobs back; they are queued again at once. Answers with those it really held."""

    async def back(job_id: str, attempt: int | None) -> str | None:
        try:
            event = Released(at=services.clock(), worker=worker, attempt=attempt)
            await step(services, queue, job_id, event)
        except Conflict:
            return None
        return job_id

    answers = await asyncio.gather(*(back(job_id, attempt) for job_id, attempt in held.items()))
    return [job_id for job_id in answers if job_id is not None]


async def give_back(services: Services, queue: str, job_id: str) -> None:
    """The holder came back without this job: it counts as a lost attempt, without waiting for the lease."""
    await _lapse(services, queue, job_id, holder_is_gone=True)


async def rescue(services: Services, job: Job) -> None:
    """The lease ran out: queue the job again, or give it up after too many lost attempts."""
    await _lapse(services, job.queue, job.job_id)


async def _lapse(services: Services, queue: str, job_id: str, *, holder_is_gone: bool = False) -> None:
    now = services.clock()
    event = Lapsed(
        at=now,
        max_attempts=services.config.max_attempts,
        listed_until=now + services.config.listed_s,
        holder_is_gone=holder_is_gone,
    )
    try:
        await step(services, queue, job_id, event)
    except Conflict:
        return  # renewed, finished or cancelled meanwhile
