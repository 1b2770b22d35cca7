"""Routes about the server itself: health, readiness, metrics, the OpenAPI document."""

from __future__ import annotations

from quart import Blueprint, Response

from asman import __version__
from asman.contract import openapi
from asman.errors import AsmanError, Unavailable
from asman.exposition import CONTENT_TYPE, SERVER_FAMILIES, Sample, exposition, with_label
from asman.job import State
from asman.routes.answers import Answer, json_answer, text_answer
from asman.routes.context import base_url, hub, respond, services

__all__ = ["health"]

health = Blueprint("health", __name__)


@health.get("/healthz")
async def healthz() -> Response:
    return respond(text_answer("OK"))


@health.get("/readyz")
async def readyz() -> Response:
    """Ready: the job store and the blob store answer."""
    checks = {}
    for name, ask in (("jobs", services().jobs.counts), ("blobs", services().blobs.stat)):
        try:
            await ask("_readyz")
            checks[name] = "ok"
        except (AsmanError, OSError) as error:
            raise Unavailable(f"the {name} store does not answer: {type(error).__name__}") from error
    if hub().closing:
        raise Unavailable("the server is stopping")
    return respond(
        json_answer(
            {"ready": True, "checks": checks, "durability": services().durability(), "version": __version__},
            cache_control="no-store",
        )
    )


@health.get("/metrics")
async def metrics() -> Response:
    """Numbers of the whole server; queue names are secrets and appear nowhere.

    A server with a name puts it on every sample, so that those of several behind one address stay apart.
    """
    counts = await services().jobs.counts(None)
    by_state = dict.fromkeys((State.QUEUED, State.RUNNING, State.FINISHED), 0)
    for (state, _), count in counts.items():
        if state in by_state:
            by_state[state] += count
    channels = hub().channels
    clients = sum(len(channel.clients) for channel in channels)
    samples: list[Sample] = [
        *(("asman_jobs", (state.value.lower(),), count) for state, count in by_state.items()),
        ("asman_sockets", ("client",), clients),
        ("asman_sockets", ("worker",), hub().sockets - clients),
        ("asman_open_queues", (), len(channels)),
        ("asman_workers", (), sum(len(channel.workers) for channel in channels)),
        ("asman_clients", (), clients),
    ]
    more = services().plugins.hook.asman_metrics_text() or b""
    text = exposition(SERVER_FAMILIES, samples) + more.decode()
    if services().config.server_id:
        text = with_label(text, "server", services().config.server_id)
    return respond(Answer(body=text.encode(), content_type=CONTENT_TYPE))


@health.get("/openapi.json")
async def openapi_json() -> Response:
    return respond(json_answer(openapi(__version__, base_url())))
