"""Giving jobs up: cancel and delete."""

from __future__ import annotations

from asman.errors import JobNotFound, TransitionRefused, clip
from asman.identity import check_job_id, check_queue_name
from asman.job import ANY_NAMESPACE, Job, Reason
from asman.operations.step import step
from asman.services import Services
from asman.state import Cancelled, Deleted

__all__ = ["CANCEL_TEXT", "cancel", "delete"]

CANCEL_TEXT = "cancelled by a client"
_MARK_KEPT_S = 3600.0
"""How long the mark of a deleted job keeps its attempt number: longer than any late report takes."""


async def cancel(services: Services, queue: str, job_id: str, namespace: str, message: str = "") -> Job:
    """Give the job up for one namespace, or for all (``*``); final at once when nobody else holds it.

    Errors: BadName; JobNotFound; TransitionRefused if it has finished or the namespace does not hold it.
    """
    now = services.clock()
    event = Cancelled(
        at=now,
        namespace=namespace,
        listed_until=now + services.config.listed_s,
        message=(message or CANCEL_TEXT)[:500],
    )
    await _known(services, queue, job_id)
    return (await step(services, queue, job_id, event)).after


async def delete(services: Services, queue: str, job_id: str, namespace: str = ANY_NAMESPACE) -> Job:
    """Drop the job and its result, logs included, when no other namespace holds it.

    Errors: BadName; JobNotFound; TransitionRefused if the namespace does not hold it.
    """
    now = services.clock()
    await _known(services, queue, job_id)
    event = Deleted(at=now, namespace=namespace, forget_at=now + _MARK_KEPT_S)
    try:
        return (await step(services, queue, job_id, event)).after
    except TransitionRefused as error:
        raise TransitionRefused(f"namespace {clip(namespace)} does not hold job {clip(job_id)}") from error


async def _known(services: Services, queue: str, job_id: str) -> Job:
    job = await services.jobs.load(check_queue_name(queue), check_job_id(job_id))
    if job is None or job.reason is Reason.DELETED or job.is_expired(services.clock()):
        raise JobNotFound("Job not found")
    return job
