"""What one running job uses, measured while it runs, and its end where a limit holds only because somebody looks.

Three things, each with its own pace, and each looked at less often where looking takes long, so that measuring never
takes more than a twentieth of the time:

* ``/outputs``: where they have a file system of their own (``quota``), a job that fills it has a moment to make room
  or to end by itself; where they have none, their size;
* the container's own layer, where the engine does not bound it. The engine counts a file with holes at its full size;
* the peak of memory. The kernel keeps it, so the last look before the end is what counts: it is exact for all but the
  job's last seconds, and missing for jobs that end before the first look. On hosts with version 1 of control groups
  it comes from the engine; on version 2 from the kernel's own file where that can be read, else it is the largest of
  the engine's samples, which a short peak may escape. Memory is what the kernel charges to the job, its file cache
  included, so a job that reads or writes a lot shows up to its limit. A job that ran out of memory had all of it.

Source: promises, "Limits that hold"; Docker Engine API v1.41, container inspect with ``size`` and container stats;
the kernel's documentation of control groups, ``memory.max_usage_in_bytes`` and ``memory.peak``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, LimitExceeded
from asman.units import show_bytes
from asman_worker import quota
from asman_worker.attempt import Attempt
from asman_worker.container import cache_volume
from asman_worker.docker import Engine, EngineError
from asman_worker.grant import Grant
from asman_worker.remains import Remains
from asman_worker.workspace import OutputsTooLarge, Workspace, output_scan

__all__ = ["LayerTooLarge", "Meter", "disk_use", "filled_up", "layer_bytes", "peak_file", "peak_of"]

_FIND_FIRST_S = 0.4
_FIND_LONGEST_S = 2.0
_OUTPUTS_EVERY_S = 1.0
_FULL_LOOKS = 2
_LAYER_EVERY_S = 1.0
_MEMORY_FIRST_S = 0.1
_MEMORY_LONGEST_S = 3.0
_LOOKING_COSTS = 20
_KILL_AFTER_S = 1.0
_GROUPS = Path("/sys/fs/cgroup")


class LayerTooLarge(LimitExceeded):
    """The container wrote more outside of /outputs than the owner allows."""

    code = "disk_limit"
    hint = "Write large files to /outputs or /job-cache, or remove them when they are not needed any more."


def filled_up(grant: Grant) -> OutputsTooLarge:
    """The error of a job whose outputs have met the end of their file system."""
    allowed = f"{show_bytes(grant.max_output_bytes)} in whole blocks, and {grant.max_output_files} files"
    return OutputsTooLarge(f"/outputs is full: this worker allows {allowed}")


class Meter:
    """Follows the container of one job; ``run`` ends only by being cancelled.

    Shape:  ``bounds_layer``: the engine holds the layer's limit by itself.
    """

    def __init__(
        self, engine: Engine, remains: Remains, grant: Grant, job: Attempt, *, bounds_layer: bool = False
    ) -> None:
        self._engine, self._remains, self._grant, self._job = engine, remains, grant, job
        self._outputs = remains.workspace(job.key).outputs
        self._bounds_layer = bounds_layer or grant.rules.read_only_root
        self._peak_file: Path | None = None
        self._full_looks = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as looks:
            look = self._look_whether_full if quota.is_attached(self._outputs) else self._look_at_outputs
            looks.create_task(_again_and_again(look, _OUTPUTS_EVERY_S, _OUTPUTS_EVERY_S))
            looks.create_task(self._look_at_container())

    async def _look_at_container(self) -> None:
        container = await self._container()
        async with asyncio.TaskGroup() as looks:
            memory = _again_and_again(lambda: self._look_at_memory(container), _MEMORY_FIRST_S, _MEMORY_LONGEST_S)
            looks.create_task(memory)
            if not self._bounds_layer:
                layer = _again_and_again(lambda: self._look_at_layer(container), _LAYER_EVERY_S, _LAYER_EVERY_S)
                looks.create_task(layer)

    async def _container(self) -> str:
        """The job's container, once it runs."""
        pause_s = _FIND_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(AsmanError, EngineError):
                for container in await self._remains.containers(self._job.key):
                    if container.is_running:
                        return container.id
            pause_s = min(2 * pause_s, _FIND_LONGEST_S)

    async def _look_whether_full(self) -> None:
        self._full_looks = self._full_looks + 1 if quota.is_full(self._outputs) else 0
        if self._full_looks > _FULL_LOOKS:
            await self.end(filled_up(self._grant))

    async def _look_at_outputs(self) -> None:
        """The overshoot is what is written between two looks."""
        limits = {"max_files": self._grant.max_output_files, "max_bytes": self._grant.max_output_bytes}
        try:
            await asyncio.to_thread(output_scan, self._outputs, **limits)
        except LimitExceeded as error:
            await self.end(error)
        except OSError:
            pass  # the job moves its files about, or keeps them to itself until it has ended

    async def _look_at_layer(self, container: str) -> None:
        written = await layer_bytes(self._engine, container)
        if written > self._grant.max_layer_bytes:
            limit = show_bytes(self._grant.max_layer_bytes)
            message = f"the container wrote {show_bytes(written)} outside of /outputs; this worker allows {limit}"
            await self.end(LayerTooLarge(message))

    async def _look_at_memory(self, container: str) -> None:
        if self._peak_file is None:
            stats = await self._engine.ask(
                "GET", f"containers/{container}/stats", query={"stream": "false", "one-shot": "true"}
            )
            self._note_peak(peak_of(stats))
            if not (stats.get("memory_stats") or {}).get("max_usage"):
                self._peak_file = await self._find_peak_file(container)
        else:
            self._note_peak(int(await asyncio.to_thread(self._peak_file.read_text)))

    async def _find_peak_file(self, container: str) -> Path | None:
        state = (await self._engine.ask("GET", f"containers/{container}/json")).get("State") or {}
        return await asyncio.to_thread(_peak_file_of, int(state.get("Pid") or 0), container)

    def _note_peak(self, used_bytes: int) -> None:
        self._job.peak_memory_bytes = max(self._job.peak_memory_bytes, used_bytes)

    async def end(self, error: AsmanError) -> None:
        """End the container; the report will give the first error that did."""
        self._job.limit_hit = self._job.limit_hit or error
        await self._remains.stop_containers(self._job.key, min(_KILL_AFTER_S, self._grant.stop_grace_s))


async def _again_and_again(look: Callable[[], Awaitable[None]], first_s: float, longest_s: float) -> None:
    """The pause grows from the first to the longest, and beyond where a look takes long."""
    loop, pause_s = asyncio.get_running_loop(), first_s
    while True:
        await asyncio.sleep(pause_s)
        begun = loop.time()
        with contextlib.suppress(AsmanError, EngineError, OSError, ValueError):
            await look()
        pause_s = max(min(2 * pause_s, longest_s), _LOOKING_COSTS * (loop.time() - begun))


def peak_of(stats: Mapping[str, Any]) -> int:
    """The largest use of memory that an answer of the engine tells of, in bytes; 0 if it tells nothing."""
    memory = stats.get("memory_stats") or {}
    return int(memory.get("max_usage") or memory.get("usage") or 0)


def peak_file(groups: str, container: str) -> Path | None:
    """Where the kernel keeps the peak, by the text of ``/proc/PID/cgroup``; None if that is not this container's."""
    for line in groups.splitlines():
        number, _, path = line.partition("::")
        if number == "0" and container in path:
            return _GROUPS / path.lstrip("/") / "memory.peak"
    return None


def _peak_file_of(pid: int, container: str) -> Path | None:
    """None where the engine's processes are not seen from here, or the kernel keeps no peak."""
    try:
        file = peak_file(Path(f"/proc/{pid}/cgroup").read_text(), container)
    except OSError:
        return None
    return file if file is not None and os.access(file, os.R_OK) else None


# The disk that a job has ------------------------------------------------------------------------------------------


async def layer_bytes(engine: Engine, container: str) -> int:
    """What a container has written to its own layer, by the engine's count."""
    return int((await engine.ask("GET", f"containers/{container}/json", query={"size": "true"})).get("SizeRw") or 0)


async def disk_use(engine: Engine, remains: Remains, jobs: list[Attempt]) -> dict[tuple[str, str, int], int]:
    """Bytes that each job has on disk: its folder, its container's layer, its queue's cache.

    The cache belongs to all jobs of a queue; each is told all of it.
    """
    caches = await _cache_sizes(engine) if jobs else {}
    use = {}
    for job in jobs:
        size = caches.get(cache_volume(job.key[0]), 0)
        size += await asyncio.to_thread(_folder_bytes, remains.workspace(job.key))
        with contextlib.suppress(AsmanError, EngineError):
            for container in await remains.containers(job.key):
                size += await layer_bytes(engine, container.id)
        use[job.key] = size
    return use


async def _cache_sizes(engine: Engine) -> dict[str, int]:
    try:
        volumes = (await engine.ask("GET", "system/df", query={"type": "volume"})).get("Volumes") or ()
    except (AsmanError, EngineError):
        return {}
    return {str(v["Name"]): max(int((v.get("UsageData") or {}).get("Size") or 0), 0) for v in volumes}


def _folder_bytes(workspace: Workspace) -> int:
    """Blocks that the job's folder has on the host: an image of outputs counts by what is in it."""
    total = 0
    for folder, folders, files in os.walk(workspace.folder, onerror=None):
        if Path(folder) == workspace.folder and quota.is_attached(workspace.outputs):
            folders.remove("outputs")
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
