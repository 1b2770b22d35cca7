"""How a worker is, for its owner's tools: ``/healthz``, ``/readyz`` and ``/metrics`` on an address of this machine.

Off unless the owner names an address; loopback is meant. There is nothing to be changed here, and no queue, job or
secret to be learned, but how busy a machine is need not be everybody's business either.

``/healthz`` answers as long as the process does its work. ``/readyz`` says whether it would take a job now: the engine
answers, every queue is connected, and nothing keeps jobs out.

Source: what Kubernetes and load balancers ask of such paths; Prometheus text format.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from aiohttp import web

from asman.errors import AsmanError, ConfigError
from asman_worker.docker import EngineError
from asman_worker.telemetry import Telemetry

__all__ = ["Vitals", "status_server", "why_not_ready"]

_log = logging.getLogger(__name__)

_ENGINE_LIMIT_S = 3.0
_ENGINE_KNOWN_S = 1.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """A worker at one moment. Shape: ``waits_for`` are the reasons why no job is taken; numbers, never names."""

    worker: str
    version: str
    queues: int
    connected: int
    jobs: int
    draining: bool
    waits_for: tuple[str, ...] = ()


def why_not_ready(vitals: Vitals, engine_problem: str = "") -> tuple[str, ...]:
    """What keeps it from taking a job now; empty if nothing does."""
    reasons = []
    if engine_problem:
        reasons.append(f"the container engine does not answer: {engine_problem}")
    if vitals.connected < vitals.queues:
        reasons.append(f"{vitals.queues - vitals.connected} of {vitals.queues} queues not connected")
    return (*reasons, *vitals.waits_for)


@asynccontextmanager
async def status_server(
    address: str, look: Callable[[], Vitals], telemetry: Telemetry, ping: Callable[[], Awaitable[None]]
) -> AsyncIterator[str]:
    """Serve while inside; gives the address that is served, with the port that was found if 0 was asked for.

    Shape:  ``address`` is ``HOST:PORT`` or ``[IPv6]:PORT``; ``look`` answers at once; ``ping`` asks the engine.
    Errors: ConfigError if the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    app = web.Application()
    probe = _Probe(ping)

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", **_shown(look())})

    async def readyz(request: web.Request) -> web.Response:
        reasons = why_not_ready(look(), await probe.problem())
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=telemetry.text(), headers={"Content-Type": _METRICS_TYPE})

    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, int(port)).start()
        except OSError as error:
            raise ConfigError(
                f"the status server cannot listen on {address}: {error.strerror}",
                hint="Choose another --status HOST:PORT.",
            ) from error
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        _log.info("status is served", extra={"address": shown})
        if host not in _LOOPBACK:
            _log.warning("the status address is not this machine's own: whoever reaches it sees how busy it is")
        yield shown
    finally:
        await runner.cleanup()


def _shown(vitals: Vitals) -> dict[str, object]:
    shown = asdict(vitals)
    del shown["waits_for"]
    return shown


class _Probe:
    """Asks the engine, at most once a second however often the question comes."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._lock = asyncio.Lock()
        self._asked_at: float | None = None
        self._problem = ""

    async def problem(self) -> str:
        """Empty if it answers."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._asked_at is None or loop.time() - self._asked_at >= _ENGINE_KNOWN_S:
                self._problem = await self._ask()
                self._asked_at = loop.time()
            return self._problem

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(_ENGINE_LIMIT_S):
                await self._ping()
        except TimeoutError:
            return f"no answer within {_ENGINE_LIMIT_S:.0f} s"
        except (AsmanError, EngineError) as error:
            return error.message
        return ""
