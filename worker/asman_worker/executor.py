"""One job on this machine, from assignment to report, and the account of what all jobs hold.

A job goes through steps: limits, room, inputs, image, create, start, wait, outputs, report. The first that fails
names itself in the report. Nothing of a job's own making raises here: a refused limit, a missing image or a program
that fails is a report like any other.

What a job leaves is removed in the background. What a crash of the worker leaves is found again by its labels:
``resume`` takes it up, ``clean`` removes it.

If the task that awaits ``run`` is cancelled (the process ends), the container is left alone for ``resume``; ``stop``
is how a job ends early.

Source: contract, "Job lifecycle", "Finish message", "Housekeeping"; promises W3 to W6.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from asman.errors import AsmanError
from asman_worker.attempt import Assignment, Attempt, LogSink
from asman_worker.container import cache_volume
from asman_worker.docker import Container, Engine, EngineError, EngineInfo
from asman_worker.gpu import allocate
from asman_worker.grant import Grant, check_grant
from asman_worker.guard import GUARD_LABEL
from asman_worker.limits import Allotment, allot
from asman_worker.logs import LogPump
from asman_worker.occupancy import Occupancy
from asman_worker.probe import Abilities
from asman_worker.remains import Held, Key, Remains
from asman_worker.report import StepFailed, failure_report
from asman_worker.runtime import follow_container, insist
from asman_worker.secrets import SecretStore
from asman_worker.steps import PULL_STEP, RUN_STEP, Steps
from asman_worker.stock import Stock
from asman_worker.telemetry import Telemetry

__all__ = ["CANCELLED", "PULL_STEP", "RUN_STEP", "Assignment", "Executor", "FreeCapacity", "Held", "LogSink"]

_log = logging.getLogger(__name__)

CANCELLED: Mapping[str, Any] = {"reason": "Cancelled", "outcome": "cancelled", "result": {}}
"""What ``run`` answers for a job that was stopped; it is not to be reported."""

_MOST_REVOKED = 10_000
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCapacity:
    """What is not in use. Shape: ``jobs`` is how many jobs that ask for one core would be taken at once."""

    cores: float
    memory_bytes: int
    gpus: int
    jobs: int


class Executor:
    """Carries jobs out within one grant, on one engine.

    Shape:  ``session`` talks to the server; it is closed by whoever made it. ``data_directory`` must have the same
            path for the engine.
    Errors: BadRequest for a grant that cannot be kept.
    """

    def __init__(
        self,
        *,
        grant: Grant,
        worker_id: str,
        data_directory: Path,
        docker: Engine,
        session: aiohttp.ClientSession,
        secrets: SecretStore | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        check_grant(grant)
        self.grant = grant
        self.worker_id = worker_id
        self._engine = docker
        self._remains = Remains(docker, worker_id, data_directory, grant.runtime)
        self._telemetry = telemetry or Telemetry()
        caches = data_directory / "caches" / f"{self._remains.root.name}.json"
        self.stock = Stock(docker, caches, budget_bytes=grant.max_images_bytes, wanted=self._wanted)
        self._steps = Steps(
            grant=grant,
            worker_id=worker_id,
            engine=docker,
            remains=self._remains,
            session=session,
            scratch=self._remains.scratch,
            secrets=secrets,
            telemetry=self._telemetry,
            stock=self.stock,
        )
        self._jobs: dict[Key, Attempt] = {}
        self._revoked: dict[Key, None] = {}
        self._room = asyncio.Condition()
        self._background: set[asyncio.Task[None]] = set()
        self._occupancy = Occupancy()
        self._unseen: set[Key] = set()
        """Jobs that are being taken up again and whose devices are not known yet: none are handed out meanwhile."""

    # What the worker's other half calls ---------------------------------------------------------------------------

    async def run(self, assignment: Assignment, log: LogSink) -> dict[str, Any]:
        """Carry a job out, and answer with its report: ``{"reason", "outcome", "result"}``.

        A job that does not fit what is free at the moment waits until it does. After ``stop`` the answer is
        ``CANCELLED``. Cancelling the caller's task leaves the container running, for ``resume``.

        Shape:  ``result`` holds StatusCode, logs, duration (ms), isTimedOut, outputs; ``error`` and ``errorCode``
                (as in ``report.CODES``) where there is one; ``peakMemoryBytes`` where it is known;
                ``steps`` are when steps began, ``[name, ms]`` in order.
        """
        job = self._job(assignment, log)
        return await self._supervise(job, self._run(job))

    async def resume(self, assignment: Assignment, log: LogSink, skip_lines: int = 0) -> dict[str, Any] | None:
        """Take up a container of this attempt that an earlier process started; None if there is none.

        Its log is read again from the start, without sending the first ``skip_lines`` lines a second time. The time
        limit counts from the container's own start. Otherwise as ``run``.
        """
        self._unseen.add(assignment.key)
        try:
            container = await insist(lambda: self._remains.started(assignment.key))
            if container is None:
                return None
            job = self._job(assignment, log, resumed=True, skip_lines=skip_lines)
            return await self._supervise(job, self._take_up(job, container))
        finally:
            await self._seen(assignment.key)

    async def stop(self, queue: str, job_id: str, attempt: int) -> None:
        """End a job wherever it is: download, pull, run or upload. TERM, the grace, KILL; then remove what it left.

        Returns when the container and the folder are gone. ``run`` then answers ``CANCELLED``, also one that is
        called only after this: a stopped attempt is never started.
        """
        key = (queue, job_id, attempt)
        self._revoked[key] = None
        while len(self._revoked) > _MOST_REVOKED:
            del self._revoked[next(iter(self._revoked))]
        job = self._jobs.get(key)
        if job is not None and job.task is not None:
            job.revoked = True
            job.task.cancel()
            await asyncio.wait([job.task])
        try:
            await self._remains.remove_containers(key, self.grant.stop_grace_s)
            await self._steps.networks.release(job.network if job else "")
            await self._remains.remove_folder(self._remains.workspace(key), job.image if job else "")
        finally:
            if job is not None:
                job.gone.set()

    async def held(self) -> list[Held]:
        """Started containers of this worker that the engine has: running, or ended and not removed yet."""
        return await self._remains.held()

    async def clean(self, keep: set[Key]) -> None:
        """Remove own containers and folders that are neither in ``keep`` nor being worked on here."""
        networks = self._steps.networks
        await self._remains.clean(lambda key: key in keep or key in self._jobs, lambda name: name in networks.live)
        await self._remains.clean_folders(lambda: keep | self._jobs.keys())
        await self._steps.images.clean()

    def free(self) -> FreeCapacity:
        """What of the grant no job holds. Memory is held as stated, or by the share of a job's cores."""
        held = [job.allotment for job in self._jobs.values() if job.allotment is not None]
        cores = max(0.0, self.grant.cores - sum(a.cores for a in held))
        memory_bytes = max(0, self.grant.memory_bytes - sum(a.memory_bytes for a in held))
        share = self.grant.memory_bytes / self.grant.cores
        return FreeCapacity(
            cores=cores,
            memory_bytes=memory_bytes,
            gpus=len(self.grant.gpus) - sum(len(a.gpus) for a in held),
            jobs=int(min(cores, memory_bytes / share) + _ROUNDING),
        )

    async def start(self) -> None:
        """Have what jobs will need, or fail now: the guard of their network; and find out what the host allows.

        Errors: NoGuard, EngineError, Unavailable.
        """
        await self._steps.networks.start()
        await self._steps.abilities()

    async def engine_info(self) -> EngineInfo:
        """What the engine says about its host."""
        return await self._engine.info()

    async def abilities(self) -> Abilities:
        """What the engine's host lets this worker do; tried at the first call."""
        return await self._steps.abilities()

    async def disk_use(self) -> dict[Key, int]:
        """Bytes on disk of each job in progress."""
        return await self._steps.disk_use(list(self._jobs.values()))

    async def break_off(self, key: Key, error: AsmanError) -> None:
        """End a job at the step where it is; unlike ``stop`` it is reported, with this error."""
        job = self._jobs.get(key)
        if job is not None and not job.revoked:
            await self._steps.break_off(job, error)

    def _wanted(self) -> set[str]:
        """Images and volumes that jobs in progress need, and the image of their guards."""
        wanted = {name for job in self._jobs.values() for name in (job.image, cache_volume(job.key[0]))}
        return wanted | {self.grant.guard_image}

    async def settle(self) -> None:
        """Wait until what is removed in the background is gone; for an orderly end of the process."""
        while self._background:
            await asyncio.wait(self._background)
        await self._steps.networks.close()
        await self._steps.images.settle()

    # One job --------------------------------------------------------------------------------------------------------

    def _job(self, assignment: Assignment, log: LogSink, *, resumed: bool = False, skip_lines: int = 0) -> Attempt:
        breaks = self._remains.workspace(assignment.key).log_breaks

        def remember(stream: int, offset: int) -> None:
            with contextlib.suppress(OSError), breaks.open("a") as opened:
                opened.write(json.dumps([stream, offset]) + "\n")

        pump = LogPump(
            lambda lines: log(RUN_STEP, lines),
            skip_lines=skip_lines,
            breaks=_read_breaks(breaks) if resumed else None,
            on_break=remember,
        )
        key, telemetry = assignment.key, self._telemetry
        return Attempt(assignment=assignment, log=log, pump=pump, on_step=lambda step: telemetry.job_at(key, step))

    async def _supervise(self, job: Attempt, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Own the task of one job: answer with its report, or with ``CANCELLED`` once all is gone."""
        if job.key in self._jobs or job.key in self._revoked:
            work.close()
            if job.key in self._revoked:
                return dict(CANCELLED)
            raise RuntimeError(f"attempt {job.key[2]} of job {job.key[1]} is under way already")
        self._jobs[job.key] = job
        job.at_step("limits")
        job.task = asyncio.create_task(work, name=f"job {job.key[1][:12]}")
        try:
            try:
                report = await job.task
            except asyncio.CancelledError:
                if not job.revoked:
                    raise
            if not job.revoked:
                return report
            await job.gone.wait()
            return dict(CANCELLED)
        finally:
            try:
                if job.allotment is not None and (job.revoked or not job.interrupted):
                    await self._occupancy.look(job.allotment.gpus, why="a job has just ended there")
            finally:
                del self._jobs[job.key]
                self._telemetry.job_gone(job.key)
            async with self._room:
                self._room.notify_all()

    async def _run(self, job: Attempt) -> dict[str, Any]:
        """The steps of a fresh job."""
        async with self._reported(job) as reported:
            requirements = self._steps.read(job)
            self._steps.give_secrets(job)
            allotment = allot(requirements, self.grant)
            await insist(lambda: self._remains.remove_containers(job.key))
            allotment = await self._take_room(job, allotment, requirements.gpus)
            spec = await self._steps.prepare(job, allotment, await self._steps.fetch_inputs(job))
            reported.append(await self._steps.finish(job, await self._steps.run_container(job, spec)))
        reported[0]["result"]["steps"] = job.began
        return reported[0]

    async def _take_up(self, job: Attempt, container: Container) -> dict[str, Any]:
        """The steps of a job whose container exists."""
        async with self._reported(job) as reported:
            allotment = allot(self._steps.read(job), self.grant)
            named = container.labels.get("asman.gpus", "").split(",")
            gpus = tuple(gpu for gpu in self.grant.gpus if gpu.device_id in named)
            job.image = job.image or container.image
            job.allotment = replace(allotment, gpus=gpus)
            await self._steps.recover_outputs(job)
            await self._seen(job.key)
            guard = container.labels.get(GUARD_LABEL)
            job.network = f"container:{guard}" if guard else ""
            job.at_step("wait", is_news=False)
            await self._steps.recall_secrets(job, container.id)
            async with self._steps.watched(job):
                end = await follow_container(
                    self._engine, container.id, job.pump, limit_s=job.limit_s, grace_s=self.grant.stop_grace_s
                )
            reported.append(await self._steps.finish(job, end))
        return reported[0]

    @contextlib.asynccontextmanager
    async def _reported(self, job: Attempt) -> AsyncIterator[list[dict[str, Any]]]:
        """Collects the report: the one that the steps put there, or that of the step which failed."""
        reports: list[dict[str, Any]] = []
        try:
            async with job.failing():
                yield reports
        except StepFailed as failure:
            job.pump.finish()
            job.pump.add(str(failure))
            job.pump.finish()
            reports.append(failure_report(failure, job.pump.kept))
        except asyncio.CancelledError:
            job.interrupted = True
            raise
        finally:
            job.pump.close()
            self._leave(job)

    async def _seen(self, key: Key) -> None:
        """What a job that is taken up again holds is known now, or it holds nothing."""
        if key in self._unseen:
            async with self._room:
                self._unseen.discard(key)
                self._room.notify_all()

    async def _take_room(self, job: Attempt, allotment: Allotment, gpus: int) -> Allotment:
        """Wait until the job fits what is free, then take it; devices that others compute on are no room."""
        job.at_step("room")
        for tries in itertools.count(1):
            async with self._room:
                await self._room.wait_for(lambda: self._fits(allotment, gpus))
                used = [g.device_id for other in self._jobs.values() if other.allotment for g in other.allotment.gpus]
                devices = allocate(self.grant.gpus, used, gpus, last=self._occupancy.occupied)
                job.allotment = taken = replace(allotment, gpus=devices)
            if await self._occupancy.look(devices):
                return taken
            async with self._room:
                job.allotment = None
                self._room.notify_all()
            await self._occupancy.pause(tries)
        raise AssertionError("unreachable")

    def _fits(self, allotment: Allotment, gpus: int) -> bool:
        free = self.free()
        return (
            allotment.cores <= free.cores + _ROUNDING
            and allotment.memory_bytes <= free.memory_bytes
            and gpus <= free.gpus
            and not (gpus and self._unseen)
        )

    def _leave(self, job: Attempt) -> None:
        """Remove what the job left, in the background; unless it was stopped (``stop`` does it) or interrupted."""
        if job.revoked or job.interrupted:
            return
        cleaning = asyncio.create_task(self._remove(job), name=f"remove {job.key[1][:12]}")
        self._background.add(cleaning)
        cleaning.add_done_callback(self._background.discard)

    async def _remove(self, job: Attempt) -> None:
        try:
            await insist(lambda: self._remains.remove_containers(job.key))
            await insist(lambda: self._steps.networks.release(job.network))
            await self._remains.remove_folder(self._remains.workspace(job.key), job.image)
        except (AsmanError, EngineError, OSError) as error:
            _log.warning("what a job left could not be removed", extra={"job": job.key[1], "reason": str(error)})


def _read_breaks(file: Path) -> dict[int, list[int]]:
    breaks: dict[int, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            stream, offset = json.loads(line)
            breaks.setdefault(stream, []).append(offset)
    return breaks
