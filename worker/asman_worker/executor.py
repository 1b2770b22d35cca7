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
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from asman.errors import AsmanError, LimitExceeded
from asman.job import Requirements
from asman.units import show_duration
from asman_worker.docker import Container, Engine, EngineError, EngineInfo
from asman_worker.gpu import allocate
from asman_worker.images import Images
from asman_worker.limits import (
    NETWORK,
    Allotment,
    ContainerSpec,
    Grant,
    JobFolders,
    allot,
    check_grant,
    container_spec,
    create_body,
    image_of,
    labels_of,
    read_requirements,
    time_limit_s,
)
from asman_worker.logs import LogPump
from asman_worker.remains import Held, Key, Remains
from asman_worker.report import StepFailed, explain, failure_report, first_cause, is_expected, notes, run_report
from asman_worker.runtime import Exit, follow_container, insist, run_container
from asman_worker.transfer import Transfer
from asman_worker.workspace import collect_outputs, materialise, output_scan

__all__ = ["CANCELLED", "PULL_STEP", "RUN_STEP", "Assignment", "Executor", "FreeCapacity", "Held", "LogSink"]

_log = logging.getLogger(__name__)

PULL_STEP = "docker image pull"
RUN_STEP = "Running"
CANCELLED: Mapping[str, Any] = {"reason": "Cancelled", "outcome": "cancelled", "result": {}}
"""What ``run`` answers for a job that was stopped; it is not to be reported."""

_MOST_REVOKED = 10_000
_NOFILE_REFUSED = "setting rlimit type 7"
_OUTPUTS_EVERY_S = 1.0
_ROUNDING = 1e-9

T = TypeVar("T")
LogSink = Callable[[str, list[list[Any]]], None]
"""Takes (step, lines); a line is ``[text, ms]``, or ``[text, ms, true]`` for stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at one job. Shape: ``server_url`` is the server's origin, for blobs and for the job's own links."""

    queue: str
    job_id: str
    attempt: int
    definition: Mapping[str, Any]
    server_url: str

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCapacity:
    """What is not in use. Shape: ``jobs`` is how many jobs that ask for one core would be taken at once."""

    cores: float
    memory_bytes: int
    gpus: int
    jobs: int


@dataclass(slots=True, kw_only=True)
class _Job:
    """One job that this process works on, and how far it has come."""

    assignment: Assignment
    log: LogSink
    pump: LogPump
    step: str = "limits"
    limit_s: float = 0.0
    image: str = ""
    allotment: Allotment | None = None
    revoked: bool = False
    interrupted: bool = False
    task: asyncio.Task[dict[str, Any]] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> Key:
        return self.assignment.key

    def at_step(self, step: str) -> None:
        self.step = step

    @contextlib.asynccontextmanager
    async def failing(self) -> AsyncIterator[None]:
        """Turn whatever goes wrong inside into the failure of the step at hand; a fault of ours is logged as well."""
        try:
            yield
        except StepFailed:
            raise
        except Exception as error:
            cause = first_cause(error)
            if not is_expected(cause):
                _log.exception("a step failed unexpectedly", extra={"job": self.key[1], "step": self.step})
            raise StepFailed(self.step, explain(cause)) from error


class Executor:
    """Carries jobs out within one grant, on one engine.

    Shape:  ``session`` talks to the server; it is closed by whoever made it. ``data_directory`` must have the same
            path for the engine.
    Errors: BadRequest for a grant that cannot be kept.
    """

    def __init__(
        self, *, grant: Grant, worker_id: str, data_directory: Path, docker: Engine, session: aiohttp.ClientSession
    ) -> None:
        check_grant(grant)
        self.grant = grant
        self.worker_id = worker_id
        self._engine = docker
        self._session = session
        self._images = Images(docker)
        self._remains = Remains(docker, worker_id, data_directory)
        self._jobs: dict[Key, _Job] = {}
        self._revoked: dict[Key, None] = {}
        self._room = asyncio.Condition()
        self._start_gate: asyncio.Semaphore | None = None
        self._sets_nofile = True
        self._open_volumes: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()

    # What the worker's other half calls ---------------------------------------------------------------------------

    async def run(self, assignment: Assignment, log: LogSink) -> dict[str, Any]:
        """Carry a job out, and answer with its report: ``{"reason", "outcome", "result"}``.

        A job that does not fit what is free at the moment waits until it does. After ``stop`` the answer is
        ``CANCELLED``. Cancelling the caller's task leaves the container running, for ``resume``.

        Shape:  ``result`` holds StatusCode, logs, duration (ms), isTimedOut, outputs; ``error`` where there is one.
        """
        job = self._job(assignment, log)
        return await self._supervise(job, self._run(job))

    async def resume(self, assignment: Assignment, log: LogSink, skip_lines: int = 0) -> dict[str, Any] | None:
        """Take up a container of this attempt that an earlier process started; None if there is none.

        Its log is read again from the start, without sending the first ``skip_lines`` lines a second time. The time
        limit counts from the container's own start. Otherwise as ``run``.
        """
        container = await insist(lambda: self._remains.started(assignment.key))
        if container is None:
            return None
        job = self._job(assignment, log, resumed=True, skip_lines=skip_lines)
        return await self._supervise(job, self._take_up(job, container))

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
            await self._remains.remove_folder(self._remains.workspace(key), job.image if job else "")
        finally:
            if job is not None:
                job.gone.set()

    async def held(self) -> list[Held]:
        """Started containers of this worker that the engine has: running, or ended and not removed yet."""
        return await self._remains.held()

    async def clean(self, keep: set[Key]) -> None:
        """Remove own containers and folders that are neither in ``keep`` nor being worked on here."""
        await self._remains.clean(lambda key: key in keep or key in self._jobs)
        await self._remains.clean_folders(lambda: keep | self._jobs.keys())

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

    async def engine_info(self) -> EngineInfo:
        """What the engine says about its host."""
        return await self._engine.info()

    async def settle(self) -> None:
        """Wait until what is removed in the background is gone; for an orderly end of the process."""
        while self._background:
            await asyncio.wait(self._background)

    # One job --------------------------------------------------------------------------------------------------------

    def _job(self, assignment: Assignment, log: LogSink, *, resumed: bool = False, skip_lines: int = 0) -> _Job:
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
        return _Job(assignment=assignment, log=log, pump=pump)

    async def _supervise(self, job: _Job, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Own the task of one job: answer with its report, or with ``CANCELLED`` once all is gone."""
        if job.key in self._jobs or job.key in self._revoked:
            work.close()
            if job.key in self._revoked:
                return dict(CANCELLED)
            raise RuntimeError(f"attempt {job.key[2]} of job {job.key[1]} is under way already")
        self._jobs[job.key] = job
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
            del self._jobs[job.key]
            async with self._room:
                self._room.notify_all()

    async def _run(self, job: _Job) -> dict[str, Any]:
        """The steps of a fresh job."""
        async with self._reported(job) as reported:
            requirements = self._read(job)
            allotment = allot(requirements, self.grant)
            await insist(lambda: self._remains.remove_containers(job.key))
            allotment = await self._take_room(job, allotment, requirements.gpus)
            spec = await self._prepare(job, allotment, await self._fetch_inputs(job))
            reported.append(await self._finish(job, await self._run_container(job, spec)))
        return reported[0]

    async def _run_container(self, job: _Job, spec: ContainerSpec) -> Exit:
        """Run it to its end; a second time without ``nofile`` where the engine may not set that.

        An engine without privileges (rootless, or inside a container) cannot raise the number of open files above
        its own. What containers then get is the engine's own number, which is lower than ours.
        """
        info = await self._engine.info()
        if not self._sets_nofile:
            spec = replace(spec, ulimits=tuple(limit for limit in spec.ulimits if limit[0] != "nofile"))
        try:
            async with self._watched(job):
                return await run_container(
                    self._engine,
                    create_body(spec, host_cores=info.cores, selinux=info.selinux),
                    job.pump,
                    limit_s=job.limit_s,
                    grace_s=self.grant.stop_grace_s,
                    start_gate=self._gate(info),
                    at_step=job.at_step,
                )
        except EngineError as error:
            if "nofile" not in dict(spec.ulimits) or _NOFILE_REFUSED not in error.message:
                raise
            _log.warning("the engine may not set the number of open files; jobs get the engine's own")
            self._sets_nofile = False
        await self._remains.remove_containers(job.key)
        return await self._run_container(job, spec)

    async def _take_up(self, job: _Job, container: Container) -> dict[str, Any]:
        """The steps of a job whose container exists."""
        async with self._reported(job) as reported:
            allotment = allot(self._read(job), self.grant)
            named = container.labels.get("asman.gpus", "").split(",")
            gpus = tuple(gpu for gpu in self.grant.gpus if gpu.device_id in named)
            job.allotment = Allotment(cores=allotment.cores, memory_bytes=allotment.memory_bytes, gpus=gpus)
            job.at_step("wait")
            async with self._watched(job):
                end = await follow_container(
                    self._engine, container.id, job.pump, limit_s=job.limit_s, grace_s=self.grant.stop_grace_s
                )
            reported.append(await self._finish(job, end))
        return reported[0]

    @contextlib.asynccontextmanager
    async def _watched(self, job: _Job) -> AsyncIterator[None]:
        """While inside, end the container of a job that fills ``/outputs`` beyond what the owner allows."""
        watch = asyncio.create_task(self._watch_outputs(job), name=f"outputs of {job.key[1][:12]}")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch_outputs(self, job: _Job) -> None:
        """Look every second, less often where looking takes long; the overshoot is what is written in between.

        The report needs no word from here: collecting the outputs meets the same limit and says so.
        """
        loop, root = asyncio.get_running_loop(), self._remains.workspace(job.key).outputs
        limits = {"max_files": self.grant.max_output_files, "max_bytes": self.grant.max_output_bytes}
        pause_s = _OUTPUTS_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            begun = loop.time()
            try:
                await asyncio.to_thread(output_scan, root, **limits)
            except LimitExceeded:
                with contextlib.suppress(AsmanError, EngineError):
                    await self._remains.stop_containers(job.key, self.grant.stop_grace_s)
            except OSError:
                pass  # the job moves its files about, or keeps them to itself until it has ended
            pause_s = max(_OUTPUTS_EVERY_S, 20 * (loop.time() - begun))

    @contextlib.asynccontextmanager
    async def _reported(self, job: _Job) -> AsyncIterator[list[dict[str, Any]]]:
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

    def _read(self, job: _Job) -> Requirements:
        """Everything in the definition that can be refused before anything is done for it."""
        definition = job.assignment.definition
        requirements = read_requirements(definition)
        job.limit_s = time_limit_s(definition, requirements, self.grant)
        job.image = image_of(definition, self.grant)
        return requirements

    async def _take_room(self, job: _Job, allotment: Allotment, gpus: int) -> Allotment:
        """Wait until the job fits what is free, then take it."""
        job.at_step("room")
        async with self._room:
            await self._room.wait_for(lambda: self._fits(allotment, gpus))
            used = [g.device_id for other in self._jobs.values() if other.allotment for g in other.allotment.gpus]
            devices = allocate(self.grant.gpus, used, gpus)
            job.allotment = Allotment(cores=allotment.cores, memory_bytes=allotment.memory_bytes, gpus=devices)
            return job.allotment

    def _fits(self, allotment: Allotment, gpus: int) -> bool:
        free = self.free()
        return (
            allotment.cores <= free.cores + _ROUNDING
            and allotment.memory_bytes <= free.memory_bytes
            and gpus <= free.gpus
        )

    async def _fetch_inputs(self, job: _Job) -> JobFolders:
        job.at_step("inputs")
        work = materialise(
            self._remains.workspace(job.key),
            job.assignment.definition,
            self._transfer(job),
            limit_bytes=self.grant.max_input_bytes,
        )
        return await _within(self.grant.fetch_limit_s, "the inputs could not be fetched", work)

    async def _prepare(self, job: _Job, allotment: Allotment, folders: JobFolders) -> ContainerSpec:
        """Have the image, the network and the cache volume, and settle what the container will be."""
        job.at_step("image")
        await insist(self._engine.ping)
        image = await self._images.ensure(job.image, _pull_lines(job.log), limit_s=self.grant.pull_limit_s)
        job.at_step("create")
        queue, job_id, attempt = job.key
        spec = container_spec(
            job.assignment.definition,
            allotment,
            self.grant,
            image=job.image,
            folders=folders,
            labels=labels_of(self.worker_id, queue, job_id, attempt),
            queue=queue,
            job_id=job_id,
            server_url=job.assignment.server_url,
            image_user=image.user,
            image_has_entrypoint=image.has_entrypoint,
        )
        if spec.network == NETWORK:
            await self._engine.ensure_network(NETWORK)
        for mount in spec.mounts:
            if mount.volume:
                await self._ensure_volume(mount.volume, spec)
        return spec

    async def _ensure_volume(self, name: str, spec: ContainerSpec) -> None:
        await self._engine.ensure_volume(name)
        if not spec.runs_as_root and name not in self._open_volumes:
            await self._engine.open_volume(name, spec.image, {"asman.helper": self.worker_id})
            self._open_volumes.add(name)

    async def _finish(self, job: _Job, end: Exit) -> dict[str, Any]:
        """Collect what the job left, and say how it ended. A failure here keeps what is known of the run."""
        pump, memory_bytes = job.pump, job.allotment.memory_bytes if job.allotment else 0
        pump.finish()
        for text in notes(end, limit_s=job.limit_s, memory_bytes=memory_bytes):
            pump.add(text)
        outputs: dict[str, dict[str, str]] = {}
        skipped: tuple[tuple[str, str], ...] = ()
        error = ""
        if not end.timed_out:
            try:
                async with job.failing():
                    outputs, skipped = await self._collect(job)
            except StepFailed as failure:
                error = str(failure)
                pump.add(error)
        job.at_step("report")
        pump.finish()
        return run_report(end, pump.kept, outputs=outputs, skipped=skipped, error=error)

    async def _collect(self, job: _Job) -> tuple[dict[str, dict[str, str]], tuple[tuple[str, str], ...]]:
        """The outputs, and what was left out with the reason."""
        job.at_step("outputs")
        scan = await self._remains.scan(
            job.key, job.image, max_files=self.grant.max_output_files, max_bytes=self.grant.max_output_bytes
        )
        for name, reason in scan.skipped:
            job.pump.add(f"[asman] /outputs/{name} is left out: it is {reason}")
        work = collect_outputs(scan, self._remains.workspace(job.key).outputs, self._transfer(job))
        outputs = await _within(self.grant.upload_limit_s, "the outputs could not be uploaded", work)
        return outputs, scan.skipped

    def _transfer(self, job: _Job) -> Transfer:
        private = self.grant.rules.private_addresses
        return Transfer(self._session, job.assignment.server_url, private_addresses=private)

    def _gate(self, info: EngineInfo) -> asyncio.Semaphore:
        """Starts saturate the engine at about twice its cores; more at once only makes all of them slower."""
        if self._start_gate is None:
            self._start_gate = asyncio.Semaphore(2 * info.cores)
        return self._start_gate

    def _leave(self, job: _Job) -> None:
        """Remove what the job left, in the background; unless it was stopped (``stop`` does it) or interrupted."""
        if job.revoked or job.interrupted:
            return
        cleaning = asyncio.create_task(self._remove(job), name=f"remove {job.key[1][:12]}")
        self._background.add(cleaning)
        cleaning.add_done_callback(self._background.discard)

    async def _remove(self, job: _Job) -> None:
        try:
            await insist(lambda: self._remains.remove_containers(job.key))
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


def _pull_lines(log: LogSink) -> Callable[[str], None]:
    def say(text: str) -> None:
        log(PULL_STEP, [[text, int(time.time() * 1000)]])

    return say


async def _within(limit_s: float, what: str, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise AsmanError(f"{what} within {show_duration(limit_s)}") from error
