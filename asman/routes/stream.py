"""The follow stream of a job: its state and log lines as server-sent events, until it ends.

Driven by events, not by polling: the queue's channel wakes it, and the store is read again at the latest every few
seconds. Each event carries an id ``attempt-build-run`` of cursors, so a reader that comes back with
``Last-Event-ID`` (or ``?build_since=&run_since=``) goes on where it was. A comment every 15 s keeps the line open.

Source: published stream events (``state``, ``build-log``, ``run-log``, ``final``), with ids and heartbeats added.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from quart import Blueprint, Response, request

from asman import operations as ops
from asman.errors import Expired, JobNotFound
from asman.identity import check_queue_name
from asman.job import Job
from asman.messages import encode
from asman.presence import Hub
from asman.routes.context import hub, services
from asman.services import Services

__all__ = ["follow", "stream"]

stream = Blueprint("stream", __name__)

_HEARTBEAT_S = 15.0
_UNKNOWN_GRACE_S = 5.0
_LONGEST_S = 30 * 60.0
_EVENT_ID = re.compile(r"(\d{1,9})-(\d{1,12})-(\d{1,12})\Z", re.ASCII)
_CURSOR = re.compile(r"\d{1,12}", re.ASCII)


@dataclass(slots=True)
class _Position:
    """How far a reader is. Shape: cursors of the attempt's two halves."""

    attempt: int = 0
    build: int = 0
    run: int = 0

    @property
    def event_id(self) -> str:
        return f"{self.attempt}-{self.build}-{self.run}"


@stream.get("/q/<queue>/j/<job_id>/stream")
async def stream_job(queue: str, job_id: str) -> Response:
    position = _start(request.headers.get("Last-Event-ID", ""), request.args.to_dict())
    events = follow(services(), hub(), check_queue_name(queue), job_id, position)
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
    response = Response(events, headers=headers)
    response.timeout = None
    return response


def _start(last_id: str, args: dict[str, str]) -> _Position:
    found = _EVENT_ID.match(last_id)
    if found:
        return _Position(int(found[1]), int(found[2]), int(found[3]))
    return _Position(0, _cursor(args.get("build_since", "")), _cursor(args.get("run_since", "")))


def _cursor(text: str) -> int:
    return int(text) if _CURSOR.fullmatch(text) else 0


def _event(kind: str, data: Any, position: _Position) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), position.event_id.encode(), encode(data))


async def follow(
    services: Services, hub: Hub, queue: str, job_id: str, position: _Position | None = None
) -> AsyncIterator[bytes]:
    """Encoded events until the job has ended. An unknown job ends the stream after a short grace."""
    position = position or _Position()
    clock = asyncio.get_running_loop().time
    began = clock()
    said: tuple[str, str | None] | None = None
    async with hub.watch(queue, ops.topic(queue), job_id) as watch:
        while not hub.closing:
            job = await _job(services, queue, job_id)
            if job is not None:
                told = _state_of(job)
                if told != said:
                    said = told
                    yield _event("state", _state_data(job), position)
                async for event in _new_lines(services, job, position):
                    yield event
                if not job.is_active:
                    yield _event("final", _state_data(job), position)
                    return
            elif clock() - began >= _UNKNOWN_GRACE_S:
                yield _event("final", {"state": "Unknown", "reason": "job not found"}, position)
                return
            if clock() - began > _LONGEST_S:
                data = {"state": "Timeout", "reason": "Stream max duration exceeded"}
                yield _event("final", data, position)
                return
            wait_s = _HEARTBEAT_S if job is not None else max(_UNKNOWN_GRACE_S - (clock() - began), 0.05)
            if not await watch.wait(wait_s):
                yield b": still here\n\n"


async def _job(services: Services, queue: str, job_id: str) -> Job | None:
    try:
        return await ops.get_job(services, queue, job_id)
    except (JobNotFound, Expired):
        return None


def _state_of(job: Job) -> tuple[str, str | None]:
    return job.state.value if job.is_active else "Finished", job.reason.value if job.reason else None


def _state_data(job: Job) -> dict[str, Any]:
    state, reason = _state_of(job)
    data: dict[str, Any] = {"state": state}
    if not job.is_active:
        data["reason"] = reason or "Unknown"
        data["outcome"] = job.outcome.value if job.outcome else None
        if job.exit_code is not None:
            data["exitCode"] = job.exit_code
        if job.message:
            data["message"] = job.message
    else:
        data |= {"attempt": job.attempt, "worker": job.worker}
    return data


async def _new_lines(services: Services, job: Job, position: _Position) -> AsyncIterator[bytes]:
    for half in ("build", "run"):
        while True:
            since = position.build if half == "build" else position.run
            page = await ops.read_lines_of(services, job, half, since)
            if page.attempt and page.attempt != position.attempt:
                if position.attempt:
                    position.build = position.run = 0
                    position.attempt = page.attempt
                    continue
                position.attempt = page.attempt
            if not page.lines:
                break
            if half == "build":
                position.build = page.next
            else:
                position.run = page.next
            yield _event(f"{half}-log", {"lines": page.lines, "cursor": page.next}, position)
