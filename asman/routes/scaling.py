"""What autoscalers read of a queue: Prometheus text, and one JSON document with the number of workers wanted.

Both are made from counters and the heads of the queue; a read costs the number of distinct requirements, creates
nothing, and answers for an unknown queue as for an empty one. What is said of workers is what this server knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quart import Blueprint, Response, request

from asman import operations as ops
from asman.demand import Demand, Needs, WorkerSize, demand, desired_workers
from asman.errors import BadRequest, Unprocessable, clip
from asman.exposition import CONTENT_TYPE, QUEUE_FAMILIES, Sample, exposition
from asman.identity import check_queue_name
from asman.matching import Capacity
from asman.neighbours import Connected
from asman.presence import Channel
from asman.routes.answers import Answer, json_answer
from asman.routes.context import hub, respond, services

__all__ = ["ConnectedWorker", "connected_workers", "read_scale_query", "scaling"]

scaling = Blueprint("scaling", __name__)

_MOST = 1_000_000
_PARAMETERS = ("needs", "cpus_per_worker", "gpus_per_worker")


# --- workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedWorker:
    """A worker as scaling sees it. Units: cores; ``free_`` is what could take a job at this moment."""

    cores: float
    gpus: int
    free_cores: float
    free_gpus: int
    is_busy: bool

    @property
    def kind(self) -> Needs:
        return Needs.GPU if self.gpus else Needs.CPU


def connected_workers(channel: Channel | None) -> list[ConnectedWorker]:
    """Every worker that is known to serve the queue, on any server; nobody connected is an empty list."""
    return [_connected(worker) for worker in channel.connected.values()] if channel is not None else []


def _connected(worker: Connected) -> ConnectedWorker:
    """Nothing is free while a worker takes no jobs (full, draining)."""
    free = worker.free if worker.takes > 0 else Capacity(cores=0.0, gpus=0)
    return ConnectedWorker(
        cores=worker.total.cores,
        gpus=worker.total.gpus,
        free_cores=max(free.cores, 0.0),
        free_gpus=max(free.gpus, 0),
        is_busy=bool(worker.held),
    )


# --- Prometheus ------------------------------------------------------------------------------------------------------


@scaling.get("/q/<queue>/metrics")
@scaling.get("/<queue>/metrics")
async def metrics(queue: str) -> Response:
    load = await ops.queue_load(services(), check_queue_name(queue))
    workers = connected_workers(hub().present(queue))
    text = exposition(QUEUE_FAMILIES, _queue_samples(load, workers))
    return respond(Answer(body=text.encode(), content_type=CONTENT_TYPE))


def _queue_samples(load: ops.QueueLoad, workers: list[ConnectedWorker]) -> Iterable[Sample]:
    whole = demand(load.counts)
    yield "queue_length", (), whole.length
    yield "queue_jobs", ("queued",), whole.backlog
    yield "queue_jobs", ("running",), whole.running
    for needs in Needs:
        yield "queue_backlog", (needs.value,), demand(load.counts, needs).backlog
        yield "queue_oldest_wait_seconds", (needs.value,), load.oldest_wait_s[needs]
    yield "queue_requested_cpus", (), whole.cores
    yield "queue_requested_gpus", (), whole.gpus
    yield "queue_workers", (), len(workers)
    yield "queue_worker_cpus", (), sum(worker.cores for worker in workers)
    yield "queue_worker_gpus", (), sum(worker.gpus for worker in workers)
    yield "queue_worker_free_cpus", (), sum(worker.free_cores for worker in workers)
    yield "queue_worker_free_gpus", (), sum(worker.free_gpus for worker in workers)


# --- the scale signal ------------------------------------------------------------------------------------------------


@scaling.get("/q/<queue>/scale")
async def scale(queue: str) -> Response:
    """How many workers the queue wants. With ``needs`` only jobs and workers of that kind are counted."""
    check_queue_name(queue)
    needs, size = read_scale_query(request.args.to_dict(flat=False))
    load = await ops.queue_load(services(), queue, needs)
    workers = [w for w in connected_workers(hub().present(queue)) if needs in (None, w.kind)]
    wanted, too_large = desired_workers(load.counts, size, needs=needs, occupied=sum(w.is_busy for w in workers))
    asked: Demand = demand(load.counts, needs)
    body = {
        "queue": queue,
        "backlog": asked.backlog,
        "running": asked.running,
        "length": asked.length,
        "oldestWaitSeconds": round(max(load.oldest_wait_s.values()), 3),
        "requested": {"cpus": round(asked.cores, 6), "gpus": asked.gpus},
        "workers": len(workers),
        "free": {
            "cpus": round(sum(w.free_cores for w in workers), 6),
            "gpus": sum(w.free_gpus for w in workers),
        },
        "tooLarge": too_large,
        "desiredWorkers": wanted,
    }
    return respond(json_answer(body, cache_control="no-store"))


def read_scale_query(query: Mapping[str, list[str]]) -> tuple[Needs | None, WorkerSize]:
    """What a caller wants to know. A misspelt parameter is refused: it would scale to a wrong number without a word.

    Errors: BadRequest for an unknown or repeated parameter and for what is no number; Unprocessable out of range.
    """
    for name, values in query.items():
        if name not in _PARAMETERS:
            raise BadRequest(f"there is no parameter {clip(name)}; there are: {', '.join(_PARAMETERS)}")
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; give it once")
    given = {name: values[0].strip() for name, values in query.items()}
    return _needs(given.get("needs", "")), WorkerSize(
        cores=_cores(given.get("cpus_per_worker", "")), gpus=_gpus(given.get("gpus_per_worker", ""))
    )


def _needs(text: str) -> Needs | None:
    if not text:
        return None
    try:
        return Needs(text)
    except ValueError as error:
        raise BadRequest(f"needs is {clip(text)}; it is cpu or gpu, or left out for both") from error


def _cores(text: str) -> float | None:
    if not text:
        return None
    try:
        cores = float(text)
    except ValueError as error:
        raise BadRequest(f"cpus_per_worker is {clip(text)}, not a number of cores such as 4 or 0.5") from error
    if not 0 < cores <= _MOST:  # also refuses NaN and infinity
        raise Unprocessable(
            f"cpus_per_worker is {clip(text)}; a worker has more than 0 and at most {_MOST} cores",
            hint="Give the --cpus that the workers are started with, or leave it out for one job per worker.",
        )
    return cores


def _gpus(text: str) -> int | None:
    if not text:
        return None
    try:
        gpus = float(text)
    except ValueError as error:
        raise BadRequest(f"gpus_per_worker is {clip(text)}, not a whole number of GPUs") from error
    if not 0 <= gpus <= _MOST or not math.floor(gpus) == gpus:
        raise Unprocessable(
            f"gpus_per_worker is {clip(text)}; a worker has a whole number of GPUs from 0 to {_MOST}",
            hint="Give the --gpus that the workers are started with.",
        )
    return int(gpus)
