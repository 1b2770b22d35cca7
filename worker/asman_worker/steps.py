"""The steps of one job that touch this machine: inputs, image, container, run, outputs. Each may fail by its name.

What order they come in, who holds what, and what happens to a job that is stopped is ``executor``'s.

Source: contract, "Job lifecycle", "Finish message"; promises W3 to W6.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp

from asman.errors import AsmanError, LimitExceeded
from asman.job import Requirements
from asman.units import show_duration
from asman_worker.attempt import Attempt, LogSink
from asman_worker.container import CACHE, ContainerSpec, JobFolders, create_body, labels_of
from asman_worker.docker import Engine, EngineError, EngineInfo
from asman_worker.grant import Grant
from asman_worker.images import Images
from asman_worker.limits import Allotment, container_spec, image_of, network_class, read_requirements, time_limit_s
from asman_worker.network import GUARD_LABEL, Networks, guard_name
from asman_worker.remains import Remains
from asman_worker.report import StepFailed, notes, run_report
from asman_worker.runtime import Exit, insist, run_container
from asman_worker.secrets import Secret, SecretStore, secrets_asked_for, with_values
from asman_worker.telemetry import Telemetry
from asman_worker.transfer import Transfer
from asman_worker.workspace import collect_outputs, materialise, output_scan

__all__ = ["PULL_STEP", "RUN_STEP", "Steps"]

_log = logging.getLogger(__name__)

PULL_STEP = "docker image pull"
RUN_STEP = "Running"

_NOFILE_REFUSED = "setting rlimit type 7"
_OUTPUTS_EVERY_S = 1.0

T = TypeVar("T")


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
        self._images = Images(engine, on_pulled=self._telemetry.pulled)
        self.networks = Networks(engine, worker_id, grant, self._images)
        self._start_gate: asyncio.Semaphore | None = None
        self._sets_nofile = True
        self._open_volumes: set[str] = set()

    def read(self, job: Attempt) -> Requirements:
        """Everything in the definition that can be refused before anything is done for it."""
        definition = job.assignment.definition
        requirements = read_requirements(definition)
        job.limit_s = time_limit_s(definition, requirements, self.grant)
        job.image = image_of(definition, self.grant)
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
        return await _within(self.grant.fetch_limit_s, "the inputs could not be fetched", work)

    async def prepare(self, job: Attempt, allotment: Allotment, folders: JobFolders) -> ContainerSpec:
        """Have the image, the network and the cache volume, and settle what the container will be."""
        job.at_step("image")
        await insist(self._engine.ping)
        image = await self._images.ensure(job.image, _pull_lines(job.log), limit_s=self.grant.pull_limit_s)
        job.at_step("create")
        job.network = await self.networks.take(network_class(job.assignment.definition, self.grant))
        queue, job_id, attempt = job.key
        guard = guard_name(job.network)
        spec = container_spec(
            with_values(job.assignment.definition, job.secrets),
            allotment,
            self.grant,
            image=job.image,
            folders=folders,
            labels=labels_of(self.worker_id, queue, job_id, attempt) | ({GUARD_LABEL: guard} if guard else {}),
            queue=queue,
            job_id=job_id,
            server_url=job.assignment.server_url,
            network_mode=job.network,
            image_user=image.user,
            image_has_entrypoint=image.has_entrypoint,
        )
        for mount in spec.mounts:
            if mount.target == CACHE:
                await self._ensure_volume(mount.volume, spec)
        return spec

    async def _ensure_volume(self, name: str, spec: ContainerSpec) -> None:
        await self._engine.ensure_volume(name)
        if not spec.runs_as_root and name not in self._open_volumes:
            await self._engine.open_volume(name, spec.image, {"asman.helper": self.worker_id})
            self._open_volumes.add(name)

    async def run_container(self, job: Attempt, spec: ContainerSpec) -> Exit:
        """Run it to its end; a second time without ``nofile`` where the engine may not set that.

        An engine without privileges (rootless, or inside a container) cannot raise the number of open files above
        its own. What containers then get is the engine's own number, which is lower than ours.
        """
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
                    at_step=job.at_step,
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
        """While inside, end the container of a job that fills ``/outputs`` beyond what the owner allows."""
        watch = asyncio.create_task(self._watch_outputs(job), name=f"outputs of {job.key[1][:12]}")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch_outputs(self, job: Attempt) -> None:
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

    async def finish(self, job: Attempt, end: Exit) -> dict[str, Any]:
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

    async def _collect(self, job: Attempt) -> tuple[dict[str, dict[str, str]], tuple[tuple[str, str], ...]]:
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
