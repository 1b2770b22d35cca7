"""The steps of one job that touch this machine: inputs, image, container, run, outputs. Each may fail by its name.

What order they come in, who holds what, and what happens to a job that is stopped is ``executor``'s.

Source: contract, "Job lifecycle", "Finish message"; promises W3 to W6.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from asman.errors import AsmanError
from asman.job import Requirements
from asman.units import show_duration
from asman_worker import quota
from asman_worker.attempt import UPLOAD_STEP, Attempt
from asman_worker.container import CACHE, ContainerSpec, JobFolders, create_body, labels_of
from asman_worker.docker import Engine, EngineError, EngineInfo
from asman_worker.grant import Grant
from asman_worker.guard import GUARD_LABEL, guard_name
from asman_worker.images import Images
from asman_worker.job_image import PULL_STEP, JobImages
from asman_worker.limits import (
    Allotment,
    container_spec,
    image_of,
    network_class,
    read_requirements,
    recipe_of,
    time_limit_s,
)
from asman_worker.meter import Meter, disk_use, filled_up
from asman_worker.network import Networks
from asman_worker.probe import Abilities, probe
from asman_worker.remains import Key, Remains
from asman_worker.report import StepFailed, code_of, explain, notes, run_report
from asman_worker.runtime import Exit, insist, run_container
from asman_worker.secrets import Secret, SecretStore, secrets_asked_for, with_values
from asman_worker.stock import Stock
from asman_worker.telemetry import Telemetry
from asman_worker.transfer import Transfer
from asman_worker.workspace import OutputsTooLarge, Scan, collect_outputs, materialise

__all__ = ["PULL_STEP", "RUN_STEP", "StepTimedOut", "Steps"]

_log = logging.getLogger(__name__)

RUN_STEP = "Running"

_NOFILE_REFUSED = "setting rlimit type 7"

T = TypeVar("T")


class StepTimedOut(AsmanError):
    """The owner's time for one step was over."""

    status = 504
    code = "step_timed_out"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Steps:
    """What the steps of all jobs of one worker share: its engine, its grant, its images."""

    def __init__(
        self,
        *,
        grant: Grant,
        worker_id: str,
        engine: Engine,
        remains: Remains,
        session: aiohttp.ClientSession,
        scratch: Path,
        stock: Stock,
        secrets: SecretStore | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.grant = grant
        self.worker_id = worker_id
        self._engine = engine
        self._remains = remains
        self._session = session
        self._secrets = secrets or SecretStore(None)
        self._telemetry = telemetry or Telemetry()
        self._stock = stock
        self._images = Images(engine, stock=stock, max_bytes=grant.max_image_bytes, on_pulled=self._telemetry.pulled)
        self.networks = Networks(engine, worker_id, grant, self._images)
        self.images = JobImages(
            engine=engine,
            grant=grant,
            worker_id=worker_id,
            images=self._images,
            stock=stock,
            networks=self.networks,
            scratch=scratch,
            session=session,
            secret_for=self._secrets.secret_for,
        )
        self._start_gate: asyncio.Semaphore | None = None
        self._sets_nofile = True
        self._open_volumes: set[tuple[str, str]] = set()
        self._probing = asyncio.Lock()
        self._abilities: Abilities | None = None

    async def abilities(self) -> Abilities:
        """What the engine's host lets this worker do; tried once."""
        async with self._probing:
            if self._abilities is None:
                self._abilities = await probe(self._engine, self._remains.root, self.worker_id)
            return self._abilities

    def read(self, job: Attempt) -> Requirements:
        """Everything in the definition that can be refused before anything is done for it."""
        definition = job.assignment.definition
        requirements = read_requirements(definition)
        job.limit_s = time_limit_s(definition, requirements, self.grant)
        job.recipe = recipe_of(definition, self.grant)
        job.image = "" if job.recipe else image_of(definition, self.grant)
        network_class(definition, self.grant)
        return requirements

    def give_secrets(self, job: Attempt) -> None:
        """What the job asks for by name, before any work is done for it. Errors: SecretRefused."""
        job.take_secrets(self._secrets.for_job(job.assignment.definition, queue=job.key[0], image=job.image))

    async def recall_secrets(self, job: Attempt, container: str) -> None:
        """What a container that exists was given: its own word counts, the file may have changed since."""
        asked = secrets_asked_for(job.assignment.definition)
        if not asked:
            return
        env = await insist(lambda: self._engine.environment(container))
        job.take_secrets({v: Secret(name=name, value=env[v]) for v, name in asked.items() if env.get(v)})

    async def fetch_inputs(self, job: Attempt) -> JobFolders:
        job.at_step("inputs")
        work = materialise(
            self._remains.workspace(job.key),
            job.assignment.definition,
            self._transfer(job),
            limit_bytes=self.grant.max_input_bytes,
        )
        code = "fetch_timed_out"
        return await _within(job, self.grant.fetch_limit_s, code, "the inputs could not be fetched", work)

    async def prepare(self, job: Attempt, allotment: Allotment, folders: JobFolders) -> ContainerSpec:
        """Have the image, the network and the cache volume, and settle what the container will be."""
        image = await _breakable(job, self.images.ensure(job, allotment))
        job.at_step("create")
        abilities = await self.abilities()
        async with asyncio.TaskGroup() as group:
            if abilities.mounts:
                group.create_task(self._attach_outputs(job))
            job.network = await self.networks.take(network_class(job.assignment.definition, self.grant))
        queue, job_id, attempt = job.key
        guard = guard_name(job.network)
        spec = container_spec(
            with_values(job.assignment.definition, job.secrets),
            allotment,
            self.grant,
            image=job.image,
            folders=await self._with_resolvers(job, folders),
            labels=labels_of(self.worker_id, queue, job_id, attempt) | ({GUARD_LABEL: guard} if guard else {}),
            queue=queue,
            job_id=job_id,
            server_url=job.assignment.server_url,
            network_mode=job.network,
            image_user=image.user,
            image_has_entrypoint=image.has_entrypoint,
        )
        if abilities.bounds_layers and not spec.read_only_root:
            spec = replace(spec, layer_bytes=self.grant.max_layer_bytes)
        for mount in spec.mounts:
            if mount.target == CACHE:
                await self._ensure_volume(mount.volume, spec)
        return spec

    async def _attach_outputs(self, job: Attempt) -> None:
        """Give the outputs a file system of their own; where that fails after all, they are watched."""
        workspace = self._remains.workspace(job.key)
        shape = quota.geometry(self.grant.max_output_bytes, self.grant.max_output_files)
        executes = not self.grant.rules.read_only_root
        try:
            await quota.attach(workspace.outputs_image, workspace.outputs, shape, may_execute=executes)
        except OSError as error:
            _log.warning("outputs are watched for want of a mount", extra={"job": job.key[1], "reason": str(error)})
            with contextlib.suppress(OSError):
                quota.detach(workspace.outputs)

    async def recover_outputs(self, job: Attempt) -> None:
        """After a restart of the machine: what the container left is in an image that is not mounted any more."""
        workspace = self._remains.workspace(job.key)
        if workspace.outputs_image.exists() and not quota.is_attached(workspace.outputs):
            executes = not self.grant.rules.read_only_root
            await quota.reattach(workspace.outputs_image, workspace.outputs, may_execute=executes)

    async def _with_resolvers(self, job: Attempt, folders: JobFolders) -> JobFolders:
        """Podman gives a job that joins a guard's network no resolvers, so they come as a file of the job's."""
        where = "/etc/resolv.conf"
        podman = (await self._engine.info()).kind == "podman"
        if not podman or not guard_name(job.network) or where in dict(folders.config_files):
            return folders
        file = self._remains.workspace(job.key).folder / "resolv.conf"
        await asyncio.to_thread(file.write_text, "".join(f"nameserver {address}\n" for address in self.grant.dns))
        return replace(folders, config_files=(*folders.config_files, (where, str(file))))

    async def _ensure_volume(self, name: str, spec: ContainerSpec) -> None:
        made_at = await self._engine.ensure_volume(name)
        await self._stock.use_volume(name)
        if not spec.runs_as_root and (name, made_at) not in self._open_volumes:
            await self._engine.open_volume(name, spec.image, {"asman.helper": self.worker_id})
            self._open_volumes.add((name, made_at))

    async def run_container(self, job: Attempt, spec: ContainerSpec) -> Exit:
        """Run it to its end; a second time without ``nofile`` where the engine may not set that.

        An engine without privileges (rootless, or inside a container) cannot raise the number of open files above
        its own. What containers then get is the engine's own number, which is lower than ours.
        """

        def at_step(step: str) -> None:
            job.at_step(step)
            if step == "wait":
                self.networks.started()

        info = await self._engine.info()
        if not self._sets_nofile:
            spec = replace(spec, ulimits=tuple(limit for limit in spec.ulimits if limit[0] != "nofile"))
        try:
            async with self.watched(job):
                return await run_container(
                    self._engine,
                    create_body(spec, host_cores=info.cores, selinux=info.selinux, log_driver=info.log_driver),
                    job.pump,
                    limit_s=job.limit_s,
                    grace_s=self.grant.stop_grace_s,
                    start_gate=self._gate(info),
                    at_step=at_step,
                )
        except EngineError as error:
            if "nofile" not in dict(spec.ulimits) or _NOFILE_REFUSED not in error.message:
                raise
            _log.warning("the engine may not set the number of open files; jobs get the engine's own")
            self._sets_nofile = False
        await self._remains.remove_containers(job.key, guards=False)
        return await self.run_container(job, spec)

    @contextlib.asynccontextmanager
    async def watched(self, job: Attempt) -> AsyncIterator[None]:
        """While inside, measure the container, and end it beyond what the owner allows."""
        bounds_layer = (await self.abilities()).bounds_layers
        meter = Meter(self._engine, self._remains, self.grant, job, bounds_layer=bounds_layer)
        watch = asyncio.create_task(meter.run(), name=f"meter of {job.key[1][:12]}")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def disk_use(self, jobs: list[Attempt]) -> dict[Key, int]:
        """Bytes on disk that each of these jobs has now, what is being pulled for it included."""
        use = await disk_use(self._engine, self._remains, jobs)
        for job in jobs:
            use[job.key] += self._images.fetched_bytes(job.image) if job.step == "image" else 0
        return use

    async def break_off(self, job: Attempt, error: AsmanError) -> None:
        """End a job at the step where it is; its report gives this error."""
        job.limit_hit = job.limit_hit or error
        if job.work is not None:
            job.work.cancel()
        else:
            await self._remains.stop_containers(job.key, min(1.0, self.grant.stop_grace_s))

    async def finish(self, job: Attempt, end: Exit) -> dict[str, Any]:
        """Collect what the job left, and say how it ended. A failure here keeps what is known of the run.

        One rule for everything that is too much, whoever finds it: the job is an error with the limit's own code, and
        the outputs up to the limit are kept.
        """
        pump, memory_bytes = job.pump, job.allotment.memory_bytes if job.allotment else 0
        pump.finish()
        for text in notes(end, limit_s=job.limit_s, memory_bytes=memory_bytes):
            pump.add(text)
        failure = _limit_failure(job)
        outputs: dict[str, dict[str, str]] = {}
        skipped: tuple[tuple[str, str], ...] = ()
        if not end.timed_out:
            try:
                async with job.failing():
                    scan, too_large = await self._scan(job)
                    outputs, skipped = await self._upload(job, scan), scan.skipped
                    if too_large is not None:
                        raise too_large
            except StepFailed as failed:
                failure = failure or failed
        if failure is not None:
            pump.add(str(failure))
        job.at_step("report")
        pump.finish()
        if end.oom_killed:
            job.peak_memory_bytes = max(job.peak_memory_bytes, memory_bytes)
        return run_report(
            end,
            pump.kept,
            outputs=outputs,
            skipped=skipped,
            failure=failure,
            peak_memory_bytes=job.peak_memory_bytes,
        )

    async def _scan(self, job: Attempt) -> tuple[Scan, OutputsTooLarge | None]:
        """What lies in the outputs, up to the limit, and whether that was met."""
        job.at_step("outputs")
        limits = {"max_files": self.grant.max_output_files, "max_bytes": self.grant.max_output_bytes}
        folder = self._remains.workspace(job.key).outputs
        too_large: OutputsTooLarge | None = None
        if quota.is_attached(folder) and quota.is_full(folder):
            too_large = filled_up(self.grant)
        try:
            scan = await self._remains.scan(job.key, job.image, **limits)
        except OutputsTooLarge as error:
            scan, too_large = error.scan or Scan(files=(), skipped=()), error
        return scan, too_large

    async def _upload(self, job: Attempt, scan: Scan) -> dict[str, dict[str, str]]:
        for name, reason in scan.skipped:
            job.pump.add(f"[asman] /outputs/{name} is left out: it is {reason}")
        if scan.files:
            job.begin(UPLOAD_STEP)
        work = collect_outputs(scan, self._remains.workspace(job.key).outputs, self._transfer(job))
        limit_s = self.grant.upload_limit_s
        return await _within(job, limit_s, "upload_timed_out", "the outputs could not be uploaded", work)

    def _transfer(self, job: Attempt) -> Transfer:
        private = self.grant.rules.private_addresses
        return Transfer(
            self._session, job.assignment.server_url, private_addresses=private, on_moved=self._telemetry.moved
        )

    def _gate(self, info: EngineInfo) -> asyncio.Semaphore:
        """Starts saturate the engine at about twice its cores; more at once only makes all of them slower."""
        if self._start_gate is None:
            self._start_gate = asyncio.Semaphore(2 * info.cores)
        return self._start_gate


def _limit_failure(job: Attempt) -> StepFailed | None:
    """The limit for which the worker itself ended the run."""
    if job.limit_hit is None:
        return None
    return StepFailed("wait", explain(job.limit_hit), code_of(job.limit_hit))


async def _within(job: Attempt, limit_s: float, code: str, what: str, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await _breakable(job, work)
    except TimeoutError as error:
        raise StepTimedOut(f"{what} within {show_duration(limit_s)}", code) from error


async def _breakable(job: Attempt, work: Coroutine[Any, Any, T]) -> T:
    """Work that ``break_off`` can end. Errors: what the work raises; the limit's own error."""
    job.work = task = asyncio.ensure_future(work)
    try:
        return await task
    except asyncio.CancelledError:
        if job.limit_hit is None or not task.cancelled() or _is_being_cancelled():
            raise
        raise job.limit_hit from None
    finally:
        job.work = None


def _is_being_cancelled() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
