"""One job on one machine, step by step: inputs, image, container, outputs, report.

Each step has its own time limit, and the first that fails names itself in the report. A job's own failure is a
report, never an exception. What runs can be stopped at any step; then nothing is reported. Containers and folders of
an attempt go when it is over, and ``clean`` removes what an earlier process left behind, as far as it is this
worker's own.

Source: contract, "Job lifecycle" and the finish table; promises W1 to W6, P7, P9.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from asman.errors import AsmanError
from asman.matching import Capacity
from asman.units import show_duration
from asman_worker.docker import Container, Engine, EngineError, ImageInfo
from asman_worker.gpu import Gpu, allocate
from asman_worker.images import Images
from asman_worker.limits import (
    NETWORK,
    Allotment,
    ContainerSpec,
    Grant,
    JobFolders,
    allot,
    container_spec,
    create_body,
    image_of,
    labels_of,
    read_requirements,
    time_limit_s,
)
from asman_worker.logs import LogPump, merge_lines
from asman_worker.runtime import Exit, follow_container, run_container
from asman_worker.transfer import Transfer
from asman_worker.workspace import Workspace, collect_outputs, materialise, output_scan

__all__ = ["Assignment", "Executor", "Held", "Key", "LogSink"]

_log = logging.getLogger(__name__)

LogSink = Callable[[str, list[list[Any]]], None]
"""(step, lines); steps as the wire has them."""

Key = tuple[str, str, int]
"""(queue, job id, attempt)."""

_PULL = "docker image pull"
_RUN = "Running"
_KILLED = 137


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What is to be done. Shape: ``server_url`` is where inputs come from and outputs go, without a final slash."""

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

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt


@dataclass(slots=True, eq=False)
class _Run:
    """One attempt under way."""

    assignment: Assignment
    workspace: Workspace
    step: str = "inputs"
    container: str = ""
    gpus: tuple[Gpu, ...] = ()
    allotment: Allotment | None = None
    task: asyncio.Task[dict[str, Any]] | None = None
    is_stopped: bool = False
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class StepFailed(AsmanError):
    """A step of the job did not work; the message says which and why."""


class Executor:
    """Carries jobs out on one engine, within one grant."""

    def __init__(
        self,
        *,
        grant: Grant,
        worker_id: str,
        data_directory: Path,
        docker: Engine,
        session: aiohttp.ClientSession,
    ) -> None:
        if grant.max_open_files is None:
            # An engine cannot raise a container's limit above its own; ours is its where both run on one host.
            grant = replace(grant, max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        self._grant, self._worker_id, self._data = grant, worker_id, data_directory
        self._engine, self._session = docker, session
        self._images = Images(docker)
        self._runs: dict[Key, _Run] = {}
        self._start_gate = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._made: set[str] = set()
        self._clearing: dict[Key, asyncio.Task[None]] = {}

    # -- carrying out --------------------------------------------------------------------------------------------------

    async def run(self, assignment: Assignment, log: LogSink) -> dict[str, Any]:
        """Carry a job out and answer with its report: ``{"reason", "outcome", "result"}``.

        Never raises for a job's own failure. A job that was stopped answers ``{"reason": "Cancelled"}``.
        """
        before = self._clearing.get(assignment.key)
        if before is not None:
            await asyncio.wait([before])
        run = self._new_run(assignment)
        return await self._to_the_end(run, self._carry_out(run, log))

    async def resume(self, assignment: Assignment, log: LogSink, skip_lines: int = 0) -> dict[str, Any] | None:
        """Take up a container of this attempt that an earlier process started, running or ended.

        Shape:  ``skip_lines`` lines of its log are kept but not sent again. None: there is no such container.
        """
        found = await self._find(assignment.key)
        if found is None:
            return None
        if found.state == "created":
            await self._engine.remove(found.id)
            return None
        run = self._new_run(assignment)
        run.container = found.id
        lent = {gpu.device_id: gpu for gpu in self._grant.gpus}
        names = found.labels.get("asman.gpus", "").split(",")
        run.gpus = tuple(lent[name] for name in names if name in lent)
        return await self._to_the_end(run, self._take_up(run, log, skip_lines))

    async def stop(self, queue: str, job_id: str, attempt: int) -> None:
        """End an attempt at whatever step it is: TERM, the grace, KILL; container and folders are gone afterwards."""
        run = self._runs.get((queue, job_id, attempt))
        if run is None:
            await self._remove_found((queue, job_id, attempt))
            return
        run.is_stopped = True
        if run.container:
            with contextlib.suppress(AsmanError, EngineError):
                await self._engine.stop(run.container, self._grant.stop_grace_s)
        if run.task is not None:
            run.task.cancel()
        await run.is_over.wait()

    def _new_run(self, assignment: Assignment) -> _Run:
        workspace = Workspace.of(self._data, self._worker_id, assignment.queue, assignment.job_id, assignment.attempt)
        run = _Run(assignment=assignment, workspace=workspace)
        self._runs[assignment.key] = run
        return run

    async def _to_the_end(self, run: _Run, work: Any) -> dict[str, Any]:
        """Have the work done in a task that ``stop`` can cancel, and clear up whatever happens."""
        run.task = asyncio.ensure_future(work)
        try:
            return await run.task
        except asyncio.CancelledError:
            if not run.is_stopped:
                raise
            return {"reason": "Cancelled"}
        finally:
            await self._over(run)

    async def _over(self, run: _Run) -> None:
        """The attempt is over: its container and folders go, after a stop at once, else in the background."""
        if run.is_stopped:
            await asyncio.shield(self._clear(run))
            self._forget(run)
            return
        key = run.assignment.key
        self._clearing[key] = asyncio.create_task(self._clear(run), name=f"clear {run.assignment.job_id[:12]}")
        self._clearing[key].add_done_callback(lambda _: self._clearing.pop(key, None))
        self._forget(run)

    def _forget(self, run: _Run) -> None:
        if self._runs.get(run.assignment.key) is run:
            del self._runs[run.assignment.key]
        run.is_over.set()

    async def _clear(self, run: _Run) -> None:
        if run.container:
            try:
                await self._engine.remove(run.container)
            except (AsmanError, EngineError) as error:
                _log.warning("a container could not be removed now", extra={"reason": str(error)})
        await self._remove_workspace(run.workspace)

    async def _remove_workspace(self, workspace: Workspace) -> None:
        try:
            await asyncio.to_thread(workspace.remove)
        except OSError as error:
            _log.warning("a job's folder could not be removed", extra={"reason": str(error)})

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _carry_out(self, run: _Run, log: LogSink) -> dict[str, Any]:
        pump = self._pump(run, log, skip_lines=0)
        try:
            spec = await self._prepare(run, log)
            info = await self._engine.info()
            body = create_body(spec, host_cores=info.cores, selinux=info.selinux)
            run.step = "container"
            with self._named(run):
                end = await run_container(
                    self._engine,
                    body,
                    pump,
                    limit_s=self._limit_s(run),
                    grace_s=self._grant.stop_grace_s,
                    start_gate=self._start_gate,
                    created=lambda container: setattr(run, "container", container),
                )
            return await self._ended(run, pump, end)
        except StepFailed as error:
            return _failed(pump, error)
        finally:
            pump.close()

    async def _take_up(self, run: _Run, log: LogSink, skip_lines: int) -> dict[str, Any]:
        pump = self._pump(run, log, skip_lines=skip_lines)
        run.step = "container"
        try:
            with self._named(run):
                end = await follow_container(
                    self._engine,
                    run.container,
                    pump,
                    limit_s=self._limit_s(run),
                    grace_s=self._grant.stop_grace_s,
                )
            return await self._ended(run, pump, end)
        except StepFailed as error:
            return _failed(pump, error)
        finally:
            pump.close()

    def _limit_s(self, run: _Run) -> float:
        definition = run.assignment.definition
        return time_limit_s(definition, read_requirements(definition), self._grant)

    async def _prepare(self, run: _Run, log: LogSink) -> ContainerSpec:
        """Everything before the container: what it may use, its files, its image."""
        assignment, definition = run.assignment, run.assignment.definition
        with self._named(run):
            requirements = read_requirements(definition)
            allotment = allot(requirements, self._grant)
            image = image_of(definition, self._grant)
            run.gpus = allocate(self._grant.gpus, self._gpus_in_use(), requirements.gpus)
            run.allotment = Allotment(cores=allotment.cores, memory_bytes=allotment.memory_bytes, gpus=run.gpus)
            folders = await self._fetch_inputs(run)
        run.step = "image"
        with self._named(run):
            info = await self._ensure_image(image, log)
        with self._named(run):
            spec = self._spec(assignment, run.allotment, image, info, folders)
            await self._ensure_surroundings(spec)
        return spec

    async def _fetch_inputs(self, run: _Run) -> JobFolders:
        async with _within(self._grant.fetch_limit_s, "the inputs could not be fetched"):
            return await materialise(
                run.workspace,
                run.assignment.definition,
                self._transfer(run),
                limit_bytes=self._grant.max_input_bytes,
            )

    async def _ensure_image(self, image: str, log: LogSink) -> ImageInfo:
        def say(text: str) -> None:
            log(_PULL, [[text, int(time.time() * 1000)]])

        return await self._images.ensure(image, say, limit_s=self._grant.pull_limit_s)

    def _spec(
        self, assignment: Assignment, allotment: Allotment, image: str, info: ImageInfo, folders: JobFolders
    ) -> ContainerSpec:
        queue, job_id, attempt = assignment.key
        return container_spec(
            assignment.definition,
            allotment,
            self._grant,
            image=image,
            folders=folders,
            labels=labels_of(self._worker_id, queue, job_id, attempt),
            queue=queue,
            job_id=job_id,
            server_url=assignment.server_url,
            image_user=info.user,
            image_has_entrypoint=info.has_entrypoint,
        )

    async def _ensure_surroundings(self, spec: ContainerSpec) -> None:
        """The network and the volumes that the container names; asked for once, they stay."""
        if spec.network == NETWORK and NETWORK not in self._made:
            await self._engine.ensure_network(NETWORK)
            self._made.add(NETWORK)
        for mount in spec.mounts:
            if mount.volume and mount.volume not in self._made:
                await self._engine.ensure_volume(mount.volume)
                self._made.add(mount.volume)

    async def _ended(self, run: _Run, pump: LogPump, end: Exit) -> dict[str, Any]:
        """The container has ended: the last lines, the outputs, the report."""
        pump.finish()
        result: dict[str, Any] = {
            "StatusCode": end.code,
            "duration": round(end.duration_s * 1000),
            "isTimedOut": end.timed_out,
            "outputs": {},
        }
        if end.oom_killed:
            result["oomKilled"] = True
        for text in _notes(run, end):
            pump.add(text)
        if not end.timed_out:
            run.step = "outputs"
            with self._named(run):
                await self._take_outputs(run, pump, result)
        pump.flush()
        result["logs"] = merge_lines(pump.kept.lines())
        if end.timed_out:
            return {"reason": "TimedOut", "outcome": "timed_out", "result": result}
        return {"reason": "Success", "outcome": _outcome(end), "result": result}

    async def _take_outputs(self, run: _Run, pump: LogPump, result: dict[str, Any]) -> None:
        grant, root = self._grant, run.workspace.outputs
        async with _within(grant.upload_limit_s, "the outputs could not be uploaded"):
            scan = await asyncio.to_thread(
                output_scan, root, max_files=grant.max_output_files, max_bytes=grant.max_output_bytes
            )
            result["outputs"] = await collect_outputs(scan, root, self._transfer(run))
        if scan.skipped:
            result["outputsSkipped"] = [{"name": name, "reason": why} for name, why in scan.skipped]
            for name, why in scan.skipped:
                pump.add(f"[asman] output {name} is left out: {why}")

    def _transfer(self, run: _Run) -> Transfer:
        return Transfer(self._session, run.assignment.server_url, private_addresses=self._grant.rules.private_addresses)

    def _pump(self, run: _Run, log: LogSink, *, skip_lines: int) -> LogPump:
        breaks = run.workspace.log_breaks
        return LogPump(
            lambda lines: log(_RUN, lines),
            skip_lines=skip_lines,
            breaks=_read_breaks(breaks),
            on_break=lambda stream, offset: _note_break(breaks, stream, offset),
        )

    @contextlib.contextmanager
    def _named(self, run: _Run) -> Iterator[None]:
        """Failures of a step become one error that says which step it was."""
        try:
            yield
        except StepFailed:
            raise
        except BaseExceptionGroup as group:
            raise _step_failed(run.step, _first(group)) from group
        except (AsmanError, EngineError, OSError, aiohttp.ClientError) as error:
            raise _step_failed(run.step, error) from error

    def _gpus_in_use(self) -> list[str]:
        return [gpu.device_id for run in self._runs.values() for gpu in run.gpus]

    # -- what is there -------------------------------------------------------------------------------------------------

    def free(self) -> Capacity:
        """What of the grant no attempt holds now."""
        runs = list(self._runs.values())
        taken = [run.allotment for run in runs if run.allotment is not None]
        return Capacity(
            cores=self._grant.cores - sum(a.cores for a in taken),
            memory_bytes=self._grant.memory_bytes - sum(a.memory_bytes for a in taken),
            gpus=len(self._grant.gpus) - len(self._gpus_in_use()),
            max_duration_s=self._grant.max_duration_s,
            tags=self._grant.tags,
        )

    async def held(self) -> list[Held]:
        """The containers of this worker that the engine has, whatever their state."""
        return [held for held, _ in await self._own()]

    async def _own(self) -> list[tuple[Held, Container]]:
        found = await self._engine.list({"asman.worker": self._worker_id})
        own = []
        for container in found:
            labels = container.labels
            try:
                attempt = int(labels.get("asman.attempt", ""))
            except ValueError:
                continue
            held = Held(
                queue=labels.get("asman.queue", ""),
                job_id=labels.get("asman.job", ""),
                attempt=attempt,
                running=container.is_running,
            )
            own.append((held, container))
        return own

    async def _find(self, key: Key) -> Container | None:
        queue, job_id, attempt = key
        labels = {"asman.worker": self._worker_id, "asman.job": job_id, "asman.attempt": str(attempt)}
        found = [c for c in await self._engine.list(labels) if c.labels.get("asman.queue") == queue]
        return found[0] if found else None

    async def _remove_found(self, key: Key) -> None:
        """An attempt that this process does not carry out, but whose container may be there."""
        container = await self._find(key)
        if container is not None:
            await self._engine.stop(container.id, self._grant.stop_grace_s)
            await self._engine.remove(container.id)
        await self._remove_workspace(Workspace.of(self._data, self._worker_id, *key))

    async def clean(self, keep: set[Key]) -> None:
        """Remove containers and folders of this worker that are neither kept nor under way."""
        wanted = keep | set(self._runs)
        for held, container in await self._own():
            if held.key not in wanted and held.key not in self._runs:
                await self._engine.remove(container.id)
        folders = {Workspace.of(self._data, self._worker_id, *key).folder for key in wanted}
        root = Workspace.root(self._data, self._worker_id)
        for folder in await asyncio.to_thread(lambda: sorted(root.glob("*/*/*"))):
            busy = {run.workspace.folder for run in self._runs.values()}
            if folder not in folders and folder not in busy:
                await self._remove_workspace(Workspace(folder=folder))

    async def close(self) -> None:
        """Wait for what is being cleared up in the background."""
        while self._clearing:
            await asyncio.gather(*self._clearing.values(), return_exceptions=True)


def _outcome(end: Exit) -> str:
    if end.code == 0:
        return "succeeded"
    return "out_of_memory" if end.oom_killed else "failed"


def _notes(run: _Run, end: Exit) -> list[str]:
    """What the log says of an end that was not a good one; a good one adds nothing."""
    if end.timed_out:
        return [f"[asman] the job ran for {show_duration(end.duration_s)}, which is its limit, and was stopped"]
    if end.code == 0:
        return []
    notes = []
    if end.oom_killed and run.allotment is not None:
        notes.append(f"[asman] the job needed more than its {run.allotment.memory_bytes} bytes of memory")
    elif end.code == _KILLED:
        notes.append(f"[asman] the container was killed after {show_duration(end.duration_s)}")
    return [*notes, f"[asman] the container exited with {end.code}"]


def _failed(pump: LogPump, error: StepFailed) -> dict[str, Any]:
    pump.finish()
    pump.add(f"[asman] {error.message}")
    pump.flush()
    result = {
        "error": error.message,
        "logs": merge_lines(pump.kept.lines()),
        "isTimedOut": False,
        "outputs": {},
    }
    return {"reason": "Error", "outcome": "error", "result": result}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _step_failed(step: str, error: BaseException) -> StepFailed:
    text = getattr(error, "message", "") or str(error) or type(error).__name__
    hint = getattr(error, "hint", "")
    return StepFailed(f"{step}: {text}" + (f" ({hint})" if hint else ""), hint=hint)


@contextlib.asynccontextmanager
async def _within(limit_s: float, what: str) -> AsyncIterator[None]:
    """A step's time limit."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise AsmanError(f"{what} within {show_duration(limit_s)}") from error


def _read_breaks(path: Path) -> dict[int, list[int]]:
    """Where an earlier process cut unfinished lines: stream -> offsets."""
    breaks: dict[int, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            stream, offset = line.split()
            breaks.setdefault(int(stream), []).append(int(offset))
    return breaks


def _note_break(path: Path, stream: int, offset: int) -> None:
    with contextlib.suppress(OSError), path.open("a") as file:
        file.write(f"{stream} {offset}\n")
