"""Queue routes: the listing and the status of one queue. What scales its workers is in ``scaling``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from quart import Blueprint, Response

from asman import operations as ops
from asman.identity import check_queue_name
from asman.job import Job, State
from asman.messages import frame, job_record
from asman.presence import Channel, WorkerSeat
from asman.routes.answers import json_answer
from asman.routes.context import hub, respond, services

__all__ = ["queues"]

queues = Blueprint("queues", __name__)

_STATUS_S = 2.0


@queues.get("/q/<queue>")
@queues.get("/q/<queue>/j")
async def listing(queue: str) -> Response:
    listed = await ops.list_jobs(services(), check_queue_name(queue))
    return respond(json_answer({"data": {job.job_id: job_record(job) for job in listed}}, cache_control="no-cache"))


@queues.get("/q/<queue>/status")
@queues.get("/<queue>/status")
async def status(queue: str) -> Response:
    """What the queue holds and who serves it; each worker is asked, for at most two seconds in all."""
    listed = await ops.list_jobs(services(), check_queue_name(queue))
    channel = hub().present(queue)
    answers = await _ask_workers(channel) if channel is not None else {}
    return respond(json_answer(_status_body(queue, listed, channel, answers), cache_control="no-store"))


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
