"""The submit route, as one function from bytes to an answer: both the view and the thinner path call it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asman import operations as ops
from asman.errors import AsmanError, BadRequest, JobNotFound, clip
from asman.identity import check_queue_name
from asman.job import Job
from asman.matching import fits
from asman.messages import job_record
from asman.presence import Hub
from asman.routes.answers import Answer, error_answer, json_answer
from asman.services import Services
from asman.strict_json import decode_json

__all__ = ["answer_submit", "read_object"]

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_WAIT_MAX_S = 300
_RECHECK_S = 5.0


async def answer_submit(
    services: Services,
    hub: Hub,
    queue: str,
    body: bytes,
    *,
    prefer: str = "",
    args: Mapping[str, str] | None = None,
    source: str = "",
) -> Answer:
    """Submit and answer when the job is on stable storage, or with its result if the caller waits for that.

    Shape:  ``prefer`` is the Prefer header (``wait=SECONDS``, at most 300); ``args`` the query (``dry_run=1``).
    """
    try:
        check_queue_name(queue)
        submission = ops.read_submission(services, decode_json(body, services.config.limits))
        if args and args.get("dry_run") not in (None, "", "0", "false"):
            return json_answer(await _dry_run(services, hub, queue, submission))
        wait_s = _wait_seconds(prefer)
        receipt = await ops.submit(services, queue, submission, source=source)
        answer: dict[str, Any] = {
            "success": True,
            "jobId": submission.job_id,
            "cached": receipt.is_cached,
            "state": receipt.job.state.value,
        }
        if receipt.warnings:
            answer["warnings"] = list(receipt.warnings)
        kept = services.durability()
        done = json_answer(answer) if wait_s is None else await _waited(services, hub, receipt.job, wait_s, answer)
        return replace(done, headers={**done.headers, "asman-durability": kept}) if kept else done
    except AsmanError as error:
        return error_answer(error, ref="submit")


def _wait_seconds(prefer: str) -> float | None:
    found = _WAIT.search(prefer)
    return min(float(found[1]), _WAIT_MAX_S) if found else None


async def _waited(services: Services, hub: Hub, job: Job, wait_s: float, answer: dict[str, Any]) -> Answer:
    """Wait for the end, bounded; the store is read again at every news and every few seconds."""
    deadline = asyncio.get_running_loop().time() + wait_s
    async with hub.watch(job.queue, ops.topic(job.queue), job.job_id) as watch:
        while True:
            now = await services.jobs.load(job.queue, job.job_id) or job
            left_s = deadline - asyncio.get_running_loop().time()
            if not now.is_active or left_s <= 0:
                break
            await watch.wait(min(left_s, _RECHECK_S))
    answer["state"] = now.state.value
    answer["job"] = job_record(now)
    if not now.is_active:
        answer["data"] = await ops.read_result_of(services, now)
    return json_answer(answer, preference_applied=f"wait={wait_s:.0f}")


async def _dry_run(services: Services, hub: Hub, queue: str, submission: ops.Submission) -> dict[str, Any]:
    """What a submit would do: the id, whether a stored result would answer, who connected here would take it."""
    try:
        known = await ops.get_job(services, queue, submission.job_id)
    except AsmanError as error:
        if not isinstance(error, JobNotFound) and error.status != 410:
            raise
        known = None
    channel = hub.present(queue)
    workers = list(channel.connected.values()) if channel else []
    need = submission.definition.requirements
    fitting = [worker.worker for worker in workers if fits(need, worker.total)]
    answer = {
        "success": True,
        "dryRun": True,
        "jobId": submission.job_id,
        "cached": known is not None and known.has_result,
        "state": known.state.value if known is not None else None,
        "workers": len(workers),
        "wouldRun": bool(fitting),
        "fitting": fitting,
    }
    if submission.definition.warnings:
        answer["warnings"] = list(submission.definition.warnings)
    return answer


def read_object(body: bytes, services: Services) -> dict[str, Any]:
    """A JSON object from a request's body. Errors: BadJson, BadRequest."""
    value = decode_json(body, services.config.limits)
    if not isinstance(value, dict):
        raise BadRequest(f"the body is not an object: {clip(json.dumps(value)[:60])}")
    return value
