"""Log lines of a job: taken from its worker, kept for readers, told to those who watch.

Two halves: ``build`` (fetching and building the image) and ``run`` (the container). Cursors count the lines of one
attempt from its start and are never used again; a new attempt starts both halves at 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asman.abc import LogHalf
from asman.completion import to_the_end
from asman.errors import JobNotFound
from asman.job import Job, State
from asman.messages import encode, encode_event, frame
from asman.operations.lookup import find_job
from asman.operations.step import topic
from asman.services import Services

__all__ = ["BUILD_STEPS", "LogPage", "half_of", "keep_lines", "read_lines", "read_lines_of"]

BUILD_STEPS = frozenset(("cloning repo", "docker image pull", "docker build", "docker image push"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Shape: ``lines`` are ``[text, ms]`` or ``[text, ms, true]``; ``next`` is the cursor to ask with again."""

    lines: list[Any]
    start: int
    next: int
    is_final: bool
    attempt: int


def half_of(step: str) -> LogHalf:
    return "build" if step in BUILD_STEPS else "run"


async def keep_lines(
    services: Services, job: Job, step: str, lines: Sequence[Any], payload: dict[str, Any] | None = None
) -> None:
    """Store lines of the running attempt and tell the watchers. What is stored is told, as a step is.

    Without lines there is nothing to store, and the watchers hear that the worker has begun this step.

    Shape:  ``payload`` is the frame's payload as the worker sent it, if it may be passed on as it is.
    """
    texts = [encode(line) for line in lines]
    told = payload or {"jobId": job.job_id, "step": step, "logs": list(lines)}
    header = {"kind": "logs", "job_id": job.job_id}
    message = encode_event(header, frame("JobStatusPayload", told))
    await to_the_end(_keep(services, job, half_of(step), texts, message))


async def _keep(services: Services, job: Job, half: LogHalf, lines: list[bytes], message: bytes) -> None:
    if lines:
        await services.logs.append_log(job.queue, job.job_id, attempt=job.attempt, half=half, lines=lines)
    await services.notifier.publish(topic(job.queue), message)


async def read_lines(services: Services, job_id: str, half: LogHalf, since: int, queue: str | None = None) -> LogPage:
    """A page of lines from ``since`` on. An unknown job has none, and is not final.

    Errors: Expired.
    """
    try:
        job = await find_job(services, job_id, queue)
    except JobNotFound:
        return LogPage(lines=[], start=since, next=0, is_final=False, attempt=0)
    return await read_lines_of(services, job, half, since)


async def read_lines_of(services: Services, job: Job, half: LogHalf, since: int) -> LogPage:
    """As ``read_lines``, for a record at hand. A cursor beyond the end belongs to an older attempt: from 0 again."""
    kept = await services.logs.read_log(job.queue, job.job_id, half=half, since=since)
    if since > kept.total:
        kept = await services.logs.read_log(job.queue, job.job_id, half=half, since=0)
    ended = not job.is_active and job.state is not State.ABSENT
    return LogPage(
        lines=[json.loads(line) for line in kept.lines],
        start=kept.start,
        next=kept.start + len(kept.lines) if kept.lines else kept.total,
        is_final=ended,
        attempt=kept.attempt,
    )
