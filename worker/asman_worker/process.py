"""The worker as a process: everything opened in order, run until told to stop, closed in reverse.

Signals are the command's; here a stop is an event. The first asks for an orderly end: no more work, running jobs may
finish within ``drain_s``, the rest is handed back to the server and stopped. Reports that the server has not answered
stay on disk for the next start.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from asman import __version__
from asman.errors import Unavailable
from asman_worker.abilities import check_limits, check_network
from asman_worker.agent import Agent
from asman_worker.config import WorkerConfig
from asman_worker.disk import Disk
from asman_worker.docker import Engine, EngineInfo
from asman_worker.executor import Executor
from asman_worker.fences import check_engine, choose_runtime
from asman_worker.fingerprint import Identity, hold_identity
from asman_worker.gpu import choose, detect, parse_gpus
from asman_worker.grant import Grant, check_grant, default_memory_bytes, parse_volume
from asman_worker.holdings import Holdings
from asman_worker.intake import Intake
from asman_worker.outbox import Outbox
from asman_worker.reconcile import RunsHere, keep_clean, take_up_again
from asman_worker.secrets import SecretStore
from asman_worker.shelf import Shelf
from asman_worker.status import Vitals, status_server
from asman_worker.telemetry import Telemetry

__all__ = ["own_tasks", "read_grant", "run_worker", "serve"]

_log = logging.getLogger(__name__)

_LAST_REPORTS_S = 5.0
_APPARMOR = "/sys/module/apparmor/parameters/enabled"


async def read_grant(config: WorkerConfig, engine: Engine) -> Grant:
    """The owner's words, completed by what the host has.

    Errors: ConfigError, BadRequest for what cannot be kept; Unavailable if the engine does not answer.
    """
    info = await engine.info()
    choice = parse_gpus(config.gpus)
    wants_gpus = choice.count or choice.everything or choice.names
    gpus = choose(choice, await detect()) if wants_gpus else ()
    if wants_gpus and not gpus:
        _log.warning("no GPU was found, so none is lent; nvidia-smi must be in the worker's PATH for --gpus all")
    grant = Grant(
        cores=config.cpus,
        memory_bytes=config.memory_bytes or default_memory_bytes(info.memory_bytes),
        gpus=gpus,
        max_duration_s=config.max_job_duration_s,
        tags=frozenset(config.tags),
        profile=config.profile,
        images=config.allow_images,
        network=config.network,
        allow_networks=config.allow_networks,
        deny_networks=config.deny_networks,
        guard_image=config.guard_image,
        dns=config.dns,
        build={"on": True, "off": False}.get(config.build),
        cache_registry=config.cache_registry,
        pids=config.pids or None,
        capabilities=tuple(name.upper().removeprefix("CAP_") for name in config.allow_caps),
        allow_setuid=config.allow_setuid,
        runtime=choose_runtime(config.runtime, config.profile, info.runtimes),
        volumes=tuple(parse_volume(text) for text in config.volumes),
        max_input_bytes=config.max_inputs_bytes,
        max_layer_bytes=config.max_layer_bytes,
        max_image_bytes=config.max_image_bytes,
        max_images_bytes=config.max_images_bytes,
        disk_floor_bytes=config.disk_floor_bytes,
        fetch_limit_s=config.fetch_limit_s,
        pull_limit_s=config.pull_limit_s,
        build_limit_s=config.build_limit_s,
        upload_limit_s=config.upload_limit_s,
    )
    if config.max_outputs_bytes is not None:
        grant = replace(grant, max_output_bytes=config.max_outputs_bytes)
    check_grant(grant)
    for warning in check_engine(grant, info, host_has_apparmor=_host_has_apparmor(engine)):
        _log.warning(warning)
    return grant


def _host_has_apparmor(engine: Engine) -> bool:
    """Asked only of an engine on this host; another's kernel cannot be seen from here."""
    try:
        return engine.address.startswith("unix://") and Path(_APPARMOR).read_text().strip() == "Y"
    except OSError:
        return False


async def run_worker(
    config: WorkerConfig, stop: asyncio.Event, *, intake: Intake | None = None, secrets: SecretStore | None = None
) -> None:
    """Serve the queues until ``stop`` is set (or the worker's number of jobs is done), then leave in good order.

    Shape:  ``intake`` is the owner's switch for taking jobs; ``secrets`` what jobs may ask for by name.
    Errors: ConfigError; Unavailable if the container engine does not answer at the start.
    """
    telemetry = Telemetry()
    with hold_identity(
        Path(config.data_directory), worker_id=config.worker_id, generate=config.generate_id
    ) as identity:
        async with Engine() as engine, aiohttp.ClientSession() as session:
            await engine.ping()
            info, grant = await engine.info(), await read_grant(config, engine)
            _check_engine(config, info, grant)
            executor = Executor(
                grant=grant,
                worker_id=identity.worker_id,
                data_directory=identity.directory,
                docker=engine,
                session=session,
                secrets=secrets,
                telemetry=telemetry,
            )
            await executor.start()
            async with own_tasks() as spawn:
                info, intake = await engine.info(), intake or Intake()
                paths = (identity.directory, Path(info.data_root or identity.directory))
                disk = Disk(
                    paths=paths, floor=grant.disk_floor_bytes, stock=executor.stock, jobs=executor, intake=intake
                )
                await disk.look()
                spawn(disk.run())
                await serve(
                    config,
                    stop,
                    identity,
                    executor,
                    grant,
                    session,
                    spawn,
                    arch=info.arch,
                    intake=intake,
                    telemetry=telemetry,
                    ping=engine.ping,
                )
            await executor.settle()


def _check_engine(config: WorkerConfig, info: EngineInfo, grant: Grant) -> None:
    """Errors: ConfigError for an engine that cannot keep what is promised, unless the owner does without it."""
    for sentence in check_limits(info.lacks, config.without_limits):
        _log.warning(sentence)
    check_network(info.kind, grant.network_class, trusted=grant.profile == "trusted")


@asynccontextmanager
async def own_tasks() -> AsyncIterator[Any]:
    """Tasks that the process owns; what is left at the end is cancelled and waited for."""
    running: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        running.add(task)
        task.add_done_callback(running.discard)
        return task

    try:
        yield spawn
    finally:
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def serve(
    config: WorkerConfig,
    stop: asyncio.Event,
    identity: Identity,
    executor: RunsHere,
    grant: Grant,
    session: aiohttp.ClientSession,
    spawn: Any,
    *,
    arch: str = "",
    intake: Intake | None = None,
    telemetry: Telemetry | None = None,
    ping: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """The queues over one executor: agents, what an earlier process left, the end in good order."""
    outbox, shelf = Outbox(identity.directory / "outbox"), Shelf(identity.directory / "held")
    outbox.load()
    holdings = Holdings(
        executor=executor,
        grant=grant,
        outbox=outbox,
        shelf=shelf,
        worker_id=identity.worker_id,
        most_jobs=config.ephemeral,
        spawn=spawn,
        intake=intake,
        telemetry=telemetry,
    )
    agents = [
        Agent(
            config=config,
            queue=queue,
            worker_id=identity.worker_id,
            holdings=holdings,
            session=session,
            arch=arch,
        )
        for queue in config.queues
    ]
    async with _seen(config, holdings, agents, stop, telemetry, ping):
        followed = await take_up_again(executor, holdings, queues=config.queues, server=config.server)
        _log.info(
            "worker started",
            extra={"worker": identity.worker_id, "cpus": grant.cores, "queues": len(agents), "taken_up": followed},
        )
        spawn(keep_clean(executor, holdings))
        serving = [spawn(agent.run()) for agent in agents]
        await _until_stopped(config, stop, holdings, serving)
        await _leave(config, holdings, agents)


@asynccontextmanager
async def _seen(
    config: WorkerConfig,
    holdings: Holdings,
    agents: list[Agent],
    stop: asyncio.Event,
    telemetry: Telemetry | None,
    ping: Callable[[], Awaitable[None]] | None,
) -> AsyncIterator[None]:
    """While inside, the owner's tools can see how the worker is, if an address for that is set."""
    if telemetry is None or ping is None or not config.status_address:
        yield
        return

    def look() -> Vitals:
        leaving = stop.is_set() or holdings.ledger.is_used_up
        return Vitals(
            worker=holdings.worker_id,
            version=__version__,
            queues=len(agents),
            connected=sum(agent.is_open for agent in agents),
            jobs=len(holdings.keys),
            draining=leaving or not holdings.intake.is_open,
            waits_for=(*(["leaving"] if leaving else []), *holdings.intake.reasons),
        )

    _measure(telemetry, holdings, look, Path(config.data_directory))
    async with status_server(config.status_address, look, telemetry, ping):
        yield


def _measure(telemetry: Telemetry, holdings: Holdings, look: Callable[[], Vitals], data: Path) -> None:
    """What is a matter of the moment, asked when somebody looks."""
    grant, ledger = holdings.grant, holdings.ledger
    amounts = (
        ("cores", "Cores lent to jobs", grant.cores, lambda: ledger.free.cores),
        ("memory_bytes", "Memory lent to jobs", grant.memory_bytes, lambda: ledger.free.memory_bytes),
        ("gpus", "GPUs lent to jobs", len(grant.gpus), lambda: ledger.free.gpus),
    )
    for name, text, granted, free in amounts:
        telemetry.gauge(name, text, partial(float, granted), state="granted")
        telemetry.gauge(name, text, free, state="free")
    free_space = "Free space on the file system of a place"
    telemetry.gauge("disk_free_bytes", free_space, lambda: shutil.disk_usage(data).free, place="data")
    telemetry.gauge("queues", "Queues that are served", lambda: look().queues)
    telemetry.gauge("queues_connected", "Queues whose server is connected", lambda: look().connected)
    telemetry.gauge("draining", "1 while no jobs are taken", lambda: look().draining)
    telemetry.gauge("reports_unanswered", "Reports that the server has not answered", lambda: len(holdings.outbox))


async def _until_stopped(
    config: WorkerConfig, stop: asyncio.Event, holdings: Holdings, serving: list[asyncio.Task[None]]
) -> None:
    """Until a stop is asked for, or an ephemeral worker has done its jobs. An agent that fails ends the worker."""
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            if holdings.ledger.is_used_up and not holdings.keys and not holdings.unsent(config.queues):
                _log.info("all jobs of an ephemeral worker are done")
                return
            holdings.changed.clear()
            changed = asyncio.create_task(holdings.changed.wait())
            done, _ = await asyncio.wait({stopped, changed, *serving}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            for task in done & set(serving):
                task.result()
                raise Unavailable("the connection to the server ended for good")
    finally:
        stopped.cancel()


async def _leave(config: WorkerConfig, holdings: Holdings, agents: list[Agent]) -> None:
    """No more work; what runs may finish for a while; the rest is handed back; last reports are given a moment."""
    _log.info("leaving", extra={"running": len(holdings.keys), "drain_s": config.drain_s})
    for agent in agents:
        agent.stop_taking()
    await _wait_for(holdings, config.drain_s, lambda: not holdings.keys)
    await asyncio.gather(*(agent.hand_back() for agent in agents))
    await _wait_for(holdings, _LAST_REPORTS_S, lambda: not holdings.unsent(config.queues))
    if unsent := holdings.unsent(config.queues):
        _log.warning("reports are kept for the next start", extra={"reports": unsent})


async def _wait_for(holdings: Holdings, limit_s: float, is_so: Any) -> None:
    try:
        async with asyncio.timeout(limit_s):
            while not is_so():
                holdings.changed.clear()
                await holdings.changed.wait()
    except TimeoutError:
        return
