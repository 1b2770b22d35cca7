"""Queue routes: the listing, the status and the last hour of one queue. What scales its workers is in ``scaling``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from quart import Blueprint, Response

from asman import operations as ops
from asman.identity import check_queue_name
from asman.job import Job, State
from asman.messages import frame, job_record, ms
from asman.presence import Channel, WorkerSeat
from asman.recent import MINUTES, Minute, percentile
from asman.routes.answers import json_answer
from asman.routes.context import hours, hub, respond, services
from asman.routes.page import page_response

__all__ = ["queues"]

queues = Blueprint("queues", __name__)

_STATUS_S = 2.0


@queues.get("/q/<queue>")
async def listing_or_page(queue: str) -> Response:
    return page_response() or await listing(queue)


@queues.get("/q/<queue>/j")
async def listing(queue: str) -> Response:
    listed = await ops.list_jobs(services(), check_queue_name(queue))
    records = {job.job_id: job_record(job) for job in listed}
    return respond(json_answer({"data": records}, cache_control="no-cache"))


@queues.get("/q/<queue>/status")
@queues.get("/<queue>/status")
async def status(queue: str) -> Response:
    """What the queue holds and who serves it; each worker is asked, for at most two seconds in all."""
    listed = await ops.list_jobs(services(), check_queue_name(queue))
    channel = hub().present(queue)
    answers = await _ask_workers(channel) if channel is not None else {}
    return respond(json_answer(_status_body(queue, listed, channel, answers), cache_control="no-store"))


@queues.get("/q/<queue>/history")
async def history(queue: str) -> Response:
    """What happened within the last hour, minute by minute; kept in memory only, so it says since when it counts."""
    check_queue_name(queue)
    now = services().clock()
    gathered = await hours().gather(queue)
    counts = await services().jobs.counts(queue)
    queued = sum(count for (state, _), count in counts.items() if state is State.QUEUED)
    whole = Minute()
    for minute in gathered.hour.minutes.values():
        whole.add(minute)
    since = max(gathered.hour.since, (now // 60 - MINUTES + 1) * 60)
    body = {
        "queue": queue,
        "time": ms(now),
        "since": ms(since),
        "servers": gathered.servers,
        "queued": queued,
        "hour": _happened(whole),
        "minutes": list(reversed(list(_minutes(gathered.hour.minutes, since, now, queued)))),
    }
    return respond(json_answer(body, cache_control="no-store"))


def _minutes(minutes: Mapping[int, Minute], since: float, now: float, queued: int) -> Iterator[dict[str, Any]]:
    """From the present one back to the first, and how many jobs waited at the end of each.

    Shape:  ``queued`` is how many wait now.
    """
    for number in range(int(now // 60), int(since // 60) - 1, -1):
        minute = minutes.get(number, Minute())
        yield {"start": number * 60_000, **_happened(minute), "queued": queued}
        queued = max(queued - minute.queued_change, 0)


def _happened(minute: Minute) -> dict[str, Any]:
    return {
        "submitted": minute.submitted,
        "started": minute.started,
        "finished": dict(minute.finished),
        "wait": _durations(minute.waits),
        "run": _durations(minute.runs),
    }


def _durations(counts: Mapping[int, int]) -> dict[str, Any]:
    """Units: seconds; null where nothing was measured."""
    shares = {"median": percentile(counts, 0.5), "p90": percentile(counts, 0.9)}
    return {"count": sum(counts.values()), **{k: None if v is None else round(v, 3) for k, v in shares.items()}}


async def _ask_workers(channel: Channel) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    ask = frame("StatusRequest").decode()
    for seat in channel.workers.values():
        if seat.status is None or seat.status.done():
            seat.status = loop.create_future()
            seat.outbox.put(ask, lasting=True)
    waiting = [seat.status for seat in channel.workers.values() if seat.status is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=_STATUS_S)
    return {seat.worker: _worker_answer(seat) for seat in channel.workers.values()}


def _worker_answer(seat: WorkerSeat) -> dict[str, Any]:
    """The worker's own words without the definitions in them, which may hold what is not for everybody."""
    basic = _basic(seat.registration)
    if seat.status is None or not seat.status.done():
        return {**basic, "queue": {}, "answered": False}
    answer: Mapping[str, Any] = seat.status.result()
    held = answer.get("queue")
    jobs = {
        str(job_id): {"jobId": str(job_id), "finished": bool(entry.get("finished"))}
        for job_id, entry in (held.items() if isinstance(held, dict) else ())
        if isinstance(entry, dict)
    }
    return {**basic, **{k: answer[k] for k in ("time", "id", "cpus", "gpus") if k in answer}, "queue": jobs}


def _other_servers(channel: Channel | None) -> dict[str, Any]:
    """What the other servers said of themselves last; nobody is asked for it."""
    servers = channel.neighbours.servers.values() if channel else ()
    return {
        server.server: {
            "id": server.server,
            "clientCount": server.clients,
            "workers": {
                name: {
                    **_basic(worker.registration),
                    "queue": {job_id: {"jobId": job_id, "finished": False} for job_id in worker.held},
                }
                for name, worker in server.workers.items()
            },
            "jobs": {
                job_id: {"state": State.RUNNING.value} for worker in server.workers.values() for job_id in worker.held
            },
        }
        for server in servers
    }


def _basic(registration: Mapping[str, Any]) -> dict[str, Any]:
    return {k: registration[k] for k in ("time", "id", "cpus", "gpus", "maxJobDuration") if k in registration}


def _status_body(queue: str, listed: list[Job], channel: Channel | None, answers: dict[str, Any]) -> dict[str, Any]:
    clients = len(channel.clients) if channel else 0
    return {
        "jobs": {job.job_id: job_record(job) for job in listed},
        "otherServers": _other_servers(channel),
        "localWorkers": answers,
        "clientCount": clients,
        "queueInfo": {
            "address": queue,
            "serverId": hub().server,
            "broadcastChannel": "memory" if hub().is_alone else services().config.notifier_url.split(":", 1)[0],
            "jobCount": len(listed),
            "localWorkerCount": len(answers),
            "otherWorkerCount": len(channel.neighbours.workers) if channel else 0,
            "clientCount": clients,
            "jobStates": [
                {
                    "id": job.job_id[:6],
                    "state": job.state.value,
                    "worker": job.worker[:6] if job.state is State.RUNNING else "none",
                }
                for job in listed
            ],
        },
    }
