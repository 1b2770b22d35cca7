"""One job on this machine, from assignment to report, and the account of what all jobs hold.

A job goes through steps: limits, inputs, image, create, start, wait, outputs, report. The first that fails names
itself in the report. Nothing of a job's own making raises here: a refused limit, a missing image or a program that
fails is a report like any other.

What a job leaves is removed in the background: the container, the volumes that only it had, its folder. What a
crash of the worker leaves is found again by its labels: ``resume`` takes it up, ``clean`` removes it. Only containers
that carry this worker's id are ever touched.

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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from asman.errors import AsmanError
from asman.units import show_bytes, show_duration

from asman_worker.docker import Container, Engine, EngineError
from asman_worker.gpu import Gpu, allocate
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
from asman_worker.logs import Line, LogPump, merge_lines
from asman_worker.runtime import Exit, follow_container, insist, run_container
from asman_worker.transfer import Transfer
from asman_worker.workspace import Scan, Workspace, collect_outputs, materialise, output_scan

__all__ = ["CANCELLED", "PULL_STEP", "RUN_STEP", "Assignment", "Executor", "FreeCapacity", "Held", "LogSink"]

_log = logging.getLogger(__name__)

PULL_STEP = "docker image pull"
RUN_STEP = "Running"
CANCELLED: Mapping[str, Any] = {"reason": "Cancelled", "outcome": "cancelled", "result": {}}
"""What ``run`` answers for a job that was stopped; it is not to be reported."""

_MOST_REVOKED = 10_000
_HELPER_LIMIT_S = 60.0
_ROUNDING = 1e-9
_KILLED = 137

T = TypeVar("T")
Key = tuple[str, str, int]
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
class Held:
    """A container of this worker that the engine has."""

    queue: str
    job_id: str
    attempt: int
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCapacity:
    """What is not in use. Shape: ``jobs`` is how many jobs that ask for one core would be taken at once."""

    cores: float
    memory_bytes: int
    gpus: int
    jobs: int


class _StepFailed(Exception):
    """A step of a job failed; the message is for its submitter."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.message = message


@dataclass(slots=True, kw_only=True)
class _Job:
    """One job that this process works on."""

    assignment: Assignment
    log: LogSink
    step: str = "limits"
    allotment: Allotment | None = None
    image: str = ""
    revoked: bool = False
    task: asyncio.Task[dict[str, Any]] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def at_step(self, step: str) -> None:
        self.step = step


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
        self._data = data_directory
        self._engine = docker
        self._session = session
        self._images = Images(docker)
        self._jobs: dict[Key, _Job] = {}
        self._revoked: dict[Key, None] = {}
        self._room = asyncio.Condition()
        self._start_gate: asyncio.Semaphore | None = None
        self._background: set[asyncio.Task[None]] = set()

    # What the worker's other half calls ---------------------------------------------------------------------------

    async def run(self, assignment: Assignment, log: LogSink) -> dict[str, Any]:
        """Carry a job out, and answer with its report: ``{"reason", "outcome", "result"}``.

        A job that does not fit what is free at the moment waits until it does. After ``stop`` the answer is
        ``CANCELLED``. Cancelling the caller's task leaves the container running, for ``resume``.

        Shape:  ``result`` holds StatusCode, logs, duration (ms), isTimedOut, outputs; ``error`` where there is one.
        """
        job = _Job(assignment=assignment, log=log)
        return await self._supervise(job, self._carry_out(job))

    async def resume(self, assignment: Assignment, log: LogSink, skip_lines: int = 0) -> dict[str, Any] | None:
        """Take up a container of this attempt that an earlier process started; None if there is none.

        Its log is read again from the start, without sending the first ``skip_lines`` lines a second time. The time
        limit counts from the container's own start. Otherwise as ``run``.
        """
        container = await self._find_started(assignment.key)
        if container is None:
            return None
        job = _Job(assignment=assignment, log=log)
        return await self._supervise(job, self._take_up(job, container, skip_lines))

    async def stop(self, queue: str, job_id: str, attempt: int) -> None:
        """End a job wherever it is: download, pull, run or upload. TERM, the grace, KILL; then remove what it left.

        Returns when the container and the folder are gone. ``run`` then answers ``CANCELLED``, also one that is
        called only after this: an attempt is never started twice.
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
            for container in await self._engine.list(self._labels(key)):
                if container.is_running:
                    await self._engine.stop(container.id, self.grant.stop_grace_s)
                await self._engine.remove(container.id)
            await self._remove_folder(self._workspace(key), job.image if job else "")
        finally:
            if job is not None:
                job.gone.set()

    async def held(self) -> list[Held]:
        """Containers of this worker that the engine has and that have been started, newest attempts included."""
        found = await self._engine.list({"asman.worker": self.worker_id})
        keys = ((_key_of(container), container) for container in found if container.state != "created")
        return [
            Held(queue=key[0], job_id=key[1], attempt=key[2], running=container.is_running)
            for key, container in keys
            if key is not None
        ]

    async def clean(self, keep: set[Key]) -> None:
        """Remove own containers and folders that are neither in ``keep`` nor being worked on here."""
        kept = keep | set(self._jobs)
        for container in await self._engine.list({"asman.worker": self.worker_id}):
            if _key_of(container) not in kept and _key_of(container) not in self._jobs:
                await self._engine.remove(container.id)
        folders = {self._workspace(key).folder for key in kept}
        for folder in await asyncio.to_thread(self._attempt_folders):
            if folder not in folders and folder not in {self._workspace(key).folder for key in self._jobs}:
                await self._remove_folder(Workspace(folder=folder), "")

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

    async def settle(self) -> None:
        """Wait until what is removed in the background is gone; for an orderly end of the process."""
        while self._background:
            await asyncio.wait(self._background)

    # One job --------------------------------------------------------------------------------------------------------

    async def _supervise(self, job: _Job, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        key = job.assignment.key
        if key in self._jobs or key in self._revoked:
            work.close()
            if key in self._revoked:
                return dict(CANCELLED)
            raise RuntimeError(f"attempt {key[2]} of job {key[1]} is under way already")
        self._jobs[key] = job
        job.task = asyncio.create_task(work, name=f"job {key[1][:12]}")
        try:
            return await job.task
        except asyncio.CancelledError:
            if not job.revoked:
                raise
            await job.gone.wait()
            return dict(CANCELLED)
        finally:
            if job.revoked:
                await job.gone.wait()
            del self._jobs[key]
            async with self._room:
                self._room.notify_all()

    async def _carry_out(self, job: _Job) -> dict[str, Any]:
        """The steps of a fresh job."""
        assignment, pump = job.assignment, LogPump(lambda lines: job.log(RUN_STEP, lines), on_break=self._on_break(job))
        try:
            async with self._reported(job):
                requirements = read_requirements(assignment.definition)
                limit_s = time_limit_s(assignment.definition, requirements, self.grant)
                job.image = image_of(assignment.definition, self.grant)
                allotment = allot(requirements, self.grant)
                await self._remove_leftovers(assignment.key)
                allotment = await self._take_room(job, allotment, requirements.gpus)
                folders = await self._fetch_inputs(job)
                spec = await self._prepare(job, allotment, folders)
                info = await self._engine.info()
                end = await run_container(
                    self._engine,
                    create_body(spec, host_cores=info.cores, selinux=info.selinux),
                    pump,
                    limit_s=limit_s,
                    grace_s=self.grant.stop_grace_s,
                    start_gate=await self._gate(),
                    at_step=job.at_step,
                )
                return await self._report(job, pump, end, limit_s)
        except _StepFailed as failure:
            return self._failed(job, pump, failure)
        finally:
            pump.close()
            self._leave(job)

    async def _take_up(self, job: _Job, container: Container, skip_lines: int) -> dict[str, Any]:
        """The steps of a job whose container exists."""
        definition = job.assignment.definition
        pump = LogPump(
            lambda lines: job.log(RUN_STEP, lines),
            skip_lines=skip_lines,
            breaks=await asyncio.to_thread(_read_breaks, self._workspace(job.assignment.key).log_breaks),
            on_break=self._on_break(job),
        )
        try:
            async with self._reported(job):
                job.at_step("resume")
                requirements = read_requirements(definition)
                limit_s = time_limit_s(definition, requirements, self.grant)
                job.image = image_of(definition, self.grant)
                job.allotment = _with_gpus(allot(requirements, self.grant), self._gpus_of(container))
                job.at_step("wait")
                end = await follow_container(
                    self._engine, container.id, pump, limit_s=limit_s, grace_s=self.grant.stop_grace_s
                )
                return await self._report(job, pump, end, limit_s)
        except _StepFailed as failure:
            return self._failed(job, pump, failure)
        finally:
            pump.close()
            self._leave(job)

    @contextlib.asynccontextmanager
    async def _reported(self, job: _Job) -> AsyncIterator[None]:
        """Turn whatever goes wrong inside into the failure of the step at hand; a fault of ours is logged as well."""
        try:
            yield
        except _StepFailed:
            raise
        except Exception as error:
            cause = _first(error)
            if not isinstance(cause, (AsmanError, EngineError, aiohttp.ClientError, OSError)):
                _log.exception("a step failed unexpectedly", extra={"job": job.assignment.job_id, "step": job.step})
            raise _StepFailed(job.step, _explain(cause)) from error

    async def _take_room(self, job: _Job, allotment: Allotment, gpus: int) -> Allotment:
        """Wait until the job fits what is free, then take it."""
        job.at_step("room")
        async with self._room:
            await self._room.wait_for(lambda: self._fits(allotment, gpus))
            used = [g.device_id for other in self._jobs.values() if other.allotment for g in other.allotment.gpus]
            job.allotment = _with_gpus(allotment, allocate(self.grant.gpus, used, gpus))
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
        assignment = job.assignment
        return await _within(
            self.grant.fetch_limit_s,
            "the inputs could not be fetched",
            materialise(
                self._workspace(assignment.key),
                assignment.definition,
                self._transfer(assignment),
                limit_bytes=self.grant.max_input_bytes,
            ),
        )

    async def _prepare(self, job: _Job, allotment: Allotment, folders: JobFolders) -> ContainerSpec:
        """Have the image, the network and the cache volume, and settle what the container will be."""
        job.at_step("image")
        assignment = job.assignment
        await insist(self._engine.ping)
        image = await self._images.ensure(job.image, _pull_lines(job.log), limit_s=self.grant.pull_limit_s)
        job.at_step("create")
        spec = container_spec(
            assignment.definition,
            allotment,
            self.grant,
            image=job.image,
            folders=folders,
            labels=labels_of(self.worker_id, assignment.queue, assignment.job_id, assignment.attempt),
            queue=assignment.queue,
            job_id=assignment.job_id,
            server_url=assignment.server_url,
            image_user=image.user,
            image_has_entrypoint=image.has_entrypoint,
        )
        if spec.network == NETWORK:
            await self._engine.ensure_network(NETWORK)
        for mount in spec.mounts:
            if mount.volume:
                await self._engine.ensure_volume(mount.volume)
        return spec

    async def _report(self, job: _Job, pump: LogPump, end: Exit, limit_s: float) -> dict[str, Any]:
        """Collect what the job left, and say how it ended."""
        outputs: dict[str, dict[str, str]] = {}
        skipped: tuple[tuple[str, str], ...] = ()
        for text in _notes(end, limit_s, job.allotment):
            pump.add(text)
        result: dict[str, Any] = {
            "StatusCode": _KILLED if end.timed_out else end.code,
            "duration": round(end.duration_s * 1000),
            "isTimedOut": end.timed_out,
        }
        if not end.timed_out:
            job.at_step("outputs")
            outputs, skipped = await self._collect(job, pump, result)
        job.at_step("report")
        pump.finish()
        if skipped:
            result["outputsSkipped"] = [{"name": name, "reason": reason} for name, reason in skipped]
        if end.oom_killed:
            result["oomKilled"] = True
        if pump.kept.dropped_bytes:
            result["logsDropped"] = pump.kept.dropped_bytes
        result |= {"logs": merge_lines(pump.kept.lines()), "outputs": outputs}
        if result.get("error"):
            return {"reason": "Error", "outcome": "error", "result": result}
        return {"reason": "TimedOut" if end.timed_out else "Success", "outcome": _outcome(end), "result": result}

    async def _collect(
        self, job: _Job, pump: LogPump, result: dict[str, Any]
    ) -> tuple[dict[str, dict[str, str]], tuple[tuple[str, str], ...]]:
        """The outputs and what was left out. If that fails the report keeps what is known of the run."""
        try:
            async with self._reported(job):
                root = self._workspace(job.assignment.key).outputs
                scan = await self._scan(job, root)
                for name, reason in scan.skipped:
                    pump.add(f"[asman] /outputs/{name} is left out: it is {reason}")
                work = collect_outputs(scan, root, self._transfer(job.assignment))
                return await _within(self.grant.upload_limit_s, "the outputs could not be uploaded", work), scan.skipped
        except _StepFailed as failure:
            result["error"] = _sentence(failure)
            pump.add(result["error"])
            return {}, ()

    async def _scan(self, job: _Job, root: Path) -> Scan:
        limits = {"max_files": self.grant.max_output_files, "max_bytes": self.grant.max_output_bytes}
        scan = None
        with contextlib.suppress(PermissionError):
            scan = await asyncio.to_thread(output_scan, root, **limits)
            if await asyncio.to_thread(_all_readable, root, scan):
                return scan
        await self._open_up(self._workspace(job.assignment.key), job.image)
        return await asyncio.to_thread(output_scan, root, **limits)

    def _failed(self, job: _Job, pump: LogPump, failure: _StepFailed) -> dict[str, Any]:
        """The report of a job that did not get to an exit code."""
        text = _sentence(failure)
        pump.add(text)
        pump.finish()
        result = {"logs": merge_lines(pump.kept.lines()), "error": text, "isTimedOut": False, "outputs": {}}
        return {"reason": "Error", "outcome": "error", "result": result}

    # Finding and removing -------------------------------------------------------------------------------------------

    def _labels(self, key: Key) -> dict[str, str]:
        queue, job_id, attempt = key
        return {
            "asman.worker": self.worker_id,
            "asman.job": job_id,
            "asman.attempt": str(attempt),
            "asman.queue": queue,
        }

    def _workspace(self, key: Key) -> Workspace:
        return Workspace.of(self._data, self.worker_id, *key)

    def _transfer(self, assignment: Assignment) -> Transfer:
        return Transfer(self._session, assignment.server_url, private_addresses=self.grant.rules.private_addresses)

    async def _find_started(self, key: Key) -> Container | None:
        found = [c for c in await self._engine.list(self._labels(key)) if c.state != "created"]
        return found[0] if found else None

    def _gpus_of(self, container: Container) -> tuple[Gpu, ...]:
        named = container.labels.get("asman.gpus", "").split(",")
        return tuple(gpu for gpu in self.grant.gpus if gpu.device_id in named)

    async def _gate(self) -> asyncio.Semaphore:
        """Starts saturate the engine at about twice its cores; more at once only makes all of them slower."""
        if self._start_gate is None:
            self._start_gate = asyncio.Semaphore(2 * (await self._engine.info()).cores)
        return self._start_gate

    def _on_break(self, job: _Job) -> Callable[[int, int], None]:
        file = self._workspace(job.assignment.key).log_breaks

        def remember(stream: int, offset: int) -> None:
            with contextlib.suppress(OSError), file.open("a") as opened:
                opened.write(json.dumps([stream, offset]) + "\n")

        return remember

    async def _remove_leftovers(self, key: Key) -> None:
        """A container of this very attempt, from a process that ended between create and start."""
        for container in await insist(lambda: self._engine.list(self._labels(key))):
            await self._engine.remove(container.id)

    def _leave(self, job: _Job) -> None:
        """Remove what the job left, in the background; unless it was stopped (``stop`` does it) or interrupted."""
        task = asyncio.current_task()
        if job.revoked or (task is not None and task.cancelling()):
            return
        cleaning = asyncio.create_task(self._remove(job), name=f"remove {job.assignment.job_id[:12]}")
        self._background.add(cleaning)
        cleaning.add_done_callback(self._background.discard)

    async def _remove(self, job: _Job) -> None:
        key = job.assignment.key
        try:
            for container in await insist(lambda: self._engine.list(self._labels(key))):
                await self._engine.remove(container.id)
            await self._remove_folder(self._workspace(key), job.image)
        except (AsmanError, EngineError, OSError) as error:
            _log.warning(
                "what a job left could not be removed", extra={"job": key[1], "attempt": key[2], "error": str(error)}
            )

    def _attempt_folders(self) -> list[Path]:
        return [path for path in Workspace.root(self._data, self.worker_id).glob("*/*/*") if path.is_dir()]

    async def _remove_folder(self, workspace: Workspace, image: str) -> None:
        try:
            await asyncio.to_thread(workspace.remove)
        except PermissionError as error:
            if not image:
                _log.warning("a folder cannot be removed", extra={"folder": workspace.folder, "error": str(error)})
                return
            await self._open_up(workspace, image)
            await asyncio.to_thread(workspace.remove)

    async def _open_up(self, workspace: Workspace, image: str) -> None:
        """Make files that the container's root left accessible to this process, where it is not root itself.

        Done by ``chmod`` of the job's own image, in a container with nothing but the right to do so.

        Errors: PermissionError if the image has no ``chmod``.
        """
        info = await self._engine.info()
        container = await self._engine.create(_open_up_body(workspace.outputs, image, self.worker_id, info.selinux))
        try:
            async with asyncio.timeout(_HELPER_LIMIT_S):
                await self._engine.start(container)
                code = await self._engine.wait(container)
        except (EngineError, TimeoutError) as error:
            raise PermissionError(f"files in /outputs belong to another user, and chmod failed: {error}") from error
        finally:
            await self._engine.remove(container)
        if code:
            raise PermissionError(f"files in /outputs belong to another user, and chmod ended with {code}")


def _open_up_body(outputs: Path, image: str, worker_id: str, selinux: bool) -> dict[str, Any]:
    mount = {"Type": "bind", "Source": str(outputs), "Target": "/outputs", "ReadOnly": False}
    return {
        "Image": image,
        "Entrypoint": ["chmod"],
        "Cmd": ["-R", "a+rwX", "/outputs"],
        "User": "0:0",
        "Labels": {"asman.worker": worker_id, "asman.helper": "chmod"},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE", "FOWNER"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Memory": 128 << 20,
            "MemorySwap": 128 << 20,
            "PidsLimit": 16,
            "Mounts": [] if selinux else [mount],
            "Binds": [f"{outputs}:/outputs:Z"] if selinux else [],
        },
    }


def _key_of(container: Container) -> Key | None:
    labels = container.labels
    try:
        return labels["asman.queue"], labels["asman.job"], int(labels["asman.attempt"])
    except (KeyError, ValueError):
        return None


def _with_gpus(allotment: Allotment, gpus: tuple[Gpu, ...]) -> Allotment:
    return Allotment(cores=allotment.cores, memory_bytes=allotment.memory_bytes, gpus=gpus)


def _read_breaks(file: Path) -> dict[int, list[int]]:
    breaks: dict[int, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            stream, offset = json.loads(line)
            breaks.setdefault(stream, []).append(offset)
    return breaks


def _pull_lines(log: LogSink) -> Callable[[str], None]:
    def say(text: str) -> None:
        line: Line = [text, int(time.time() * 1000)]
        log(PULL_STEP, [line])

    return say


async def _within(limit_s: float, what: str, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise AsmanError(f"{what} within {show_duration(limit_s)}") from error


def _all_readable(root: Path, scan: Scan) -> bool:
    import os

    return all(os.access(root.joinpath(*file.parts), os.R_OK) for file in scan.files)


def _notes(end: Exit, limit_s: float, allotment: Allotment | None) -> Iterator[str]:
    """Lines that the worker adds for an end that was not a plain success."""
    code = _KILLED if end.timed_out else end.code
    if end.timed_out:
        yield f"[asman] timed out: the container ran longer than {show_duration(limit_s)} and was stopped"
    elif end.oom_killed:
        limit = show_bytes(allotment.memory_bytes) if allotment else "its memory"
        yield f"[asman] out of memory: the container used more than {limit}; ask for more with requirements.memory"
    elif code == _KILLED:
        yield f"[asman] the container was killed after {show_duration(end.duration_s)}"
    if code:
        yield f"[asman] exit code {code}"


def _outcome(end: Exit) -> str:
    if end.timed_out:
        return "timed_out"
    if end.code == _KILLED and end.oom_killed:
        return "out_of_memory"
    return "failed" if end.code else "succeeded"


def _sentence(failure: _StepFailed) -> str:
    return f"[asman] step {failure.step} failed: {failure.message}"


def _explain(error: BaseException) -> str:
    if isinstance(error, AsmanError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, EngineError):
        return f"the container engine answered {error.status}: {error.message}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _first(error: BaseException) -> BaseException:
    """The first failure of several that happened at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
