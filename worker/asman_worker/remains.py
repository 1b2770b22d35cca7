"""What jobs leave on this machine, found by label and path, and removed: containers, their volumes, their folders.

Only containers that carry this worker's id, and folders below this worker's own, are ever touched; another worker on
the same host or on the same data directory is none of our business.

Source: contract, "Housekeeping"; promises W4 and W5.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asman_worker.docker import Container, Engine, EngineError, EngineInfo
from asman_worker.guard import containers_of
from asman_worker.seccomp import strict_profile
from asman_worker.workspace import OutputsTooLarge, Scan, Workspace, output_scan

__all__ = ["Held", "Key", "Remains"]

_log = logging.getLogger(__name__)

_HELPER_LIMIT_S = 60.0
_HELPER_MEMORY = 64 << 20

Key = tuple[str, str, int]
"""(queue, job id, attempt)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A container of this worker that the engine has and that has been started."""

    queue: str
    job_id: str
    attempt: int
    running: bool

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt


class Remains:
    """The traces of one worker's jobs on one engine and below one data directory.

    Shape:  ``runtime`` is the one that jobs run under, empty for the engine's default.
    """

    def __init__(self, engine: Engine, worker_id: str, data_directory: Path, runtime: str = "") -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._data = data_directory
        self._runtime = runtime

    @property
    def root(self) -> Path:
        """This worker's own folder, above those of its jobs."""
        return Workspace.root(self._data, self._worker_id)

    def workspace(self, key: Key) -> Workspace:
        return Workspace.of(self._data, self._worker_id, *key)

    @property
    def scratch(self) -> Path:
        """Where this worker keeps the sources of builds for the moment."""
        return self._data.absolute() / "builds" / Workspace.root(self._data, self._worker_id).name

    async def containers(self, key: Key) -> list[Container]:
        """Containers of this attempt, in any state."""
        queue, job_id, attempt = key
        labels = {"asman.worker": self._worker_id, "asman.job": job_id, "asman.attempt": str(attempt)}
        return await self._engine.find({**labels, "asman.queue": queue})

    async def started(self, key: Key) -> Container | None:
        """The container of this attempt, if it has ever been started."""
        found = [c for c in await self.containers(key) if c.state != "created"]
        return found[0] if found else None

    async def held(self) -> list[Held]:
        """All started containers of this worker."""
        found = await self._engine.find({"asman.worker": self._worker_id})
        keyed = [(_key_of(container), container) for container in found if container.state != "created"]
        return [
            Held(queue=key[0], job_id=key[1], attempt=key[2], running=container.is_running)
            for key, container in keyed
            if key is not None
        ]

    async def stop_containers(self, key: Key, grace_s: float) -> None:
        """End the containers of this attempt, and leave them to be looked at: TERM, the grace, KILL."""
        for container in await self.containers(key):
            if container.is_running:
                await self._engine.stop(container.id, grace_s)

    async def remove_containers(self, key: Key, grace_s: float = 0.0, *, guards: bool = True) -> None:
        """End and remove the containers of this attempt and their guards; with a grace they get TERM first."""
        if grace_s > 0:
            await self.stop_containers(key, grace_s)
        for container in await self.containers(key):
            await self._engine.remove(container.id)
            if guards and (guard := container.labels.get("asman.guard")):
                await self.remove_guard(guard)

    async def remove_guard(self, name: str) -> None:
        """A guard, then its gate: Podman removes no container that another one depends on."""
        for part in containers_of(name):
            await self._engine.remove(part)

    async def remove_folder(self, workspace: Workspace, image: str = "") -> None:
        """Remove a job's files, with the help of its image where they belong to a container's root.

        Errors: PermissionError if that does not help either.
        """
        try:
            await asyncio.to_thread(workspace.remove)
        except PermissionError:
            if not image:
                raise
            await self._open_up(workspace, image)
            await asyncio.to_thread(workspace.remove)

    async def scan(self, key: Key, image: str, *, max_files: int, max_bytes: int) -> Scan:
        """Look at a job's outputs, after making them readable where they are not.

        Errors: OutputsTooLarge; PermissionError; OSError.
        """
        root = self.workspace(key).outputs
        try:
            scan = await asyncio.to_thread(output_scan, root, max_files=max_files, max_bytes=max_bytes)
            if await asyncio.to_thread(_all_readable, root, scan):
                return scan
        except OutputsTooLarge as error:
            if error.scan is None or await asyncio.to_thread(_all_readable, root, error.scan):
                raise
        except PermissionError:
            pass
        await self._open_up(self.workspace(key), image)
        return await asyncio.to_thread(output_scan, root, max_files=max_files, max_bytes=max_bytes)

    async def clean(self, is_kept: Callable[[Key], bool], is_live: Callable[[str], bool]) -> None:
        """Remove own containers that nobody keeps, and the guards that no kept one uses.

        ``is_kept`` and ``is_live`` (by a guard's name) are asked just before each removal: jobs may start meanwhile.
        """
        guards = await self._engine.find({"asman.helper": self._worker_id})
        used: set[str] = set()
        for container in await self._engine.find({"asman.worker": self._worker_id}):
            key = _key_of(container)
            if key is None or not is_kept(key):
                await self._engine.remove(container.id)
            else:
                used.add(container.labels.get("asman.guard", ""))
        for name in sorted({container.labels.get("asman.guard", "") for container in guards} - used - {""}):
            if not is_live(name):
                await self.remove_guard(name)
        for container in guards:
            if "asman.guard" not in container.labels and not container.is_running:
                await self._engine.remove(container.id)

    async def clean_folders(self, kept: Callable[[], set[Key]]) -> None:
        """Remove the folders of attempts that are not kept; ``kept`` is asked before each, as in ``clean``."""
        for folder in await asyncio.to_thread(self._folders):
            if folder not in {self.workspace(key).folder for key in kept()}:
                try:
                    await self.remove_folder(Workspace(folder=folder))
                except OSError as error:
                    _log.warning("a job's folder cannot be removed", extra={"folder": folder, "reason": str(error)})

    def _folders(self) -> list[Path]:
        return [path for path in self.root.glob("*/*/*") if path.is_dir()]

    async def _open_up(self, workspace: Workspace, image: str) -> None:
        """Let this process, which is not root, at files that the container's root made.

        By ``chmod`` of the job's own image, in a container with nothing but the right to do so: no image of ours has
        to be there, and links are not followed. The program is the stranger's: so it is fenced in at least as well
        as the job was.

        Errors: PermissionError if the image has no ``chmod``.
        """
        info = await self._engine.info()
        container = await self._engine.create(
            _helper_body(workspace.outputs, image, self._worker_id, self._runtime, info)
        )
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


def _helper_body(outputs: Path, image: str, worker_id: str, runtime: str, info: EngineInfo) -> dict[str, Any]:
    filters = [f"seccomp={strict_profile()}"] if info.takes_seccomp else []
    mount = {"Type": "bind", "Source": str(outputs), "Target": "/outputs", "ReadOnly": False}
    return {
        "Image": image,
        "Entrypoint": ["chmod"],
        "Cmd": ["-R", "a+rwX", "/outputs"],
        "User": "0:0",
        "Labels": {"asman.helper": worker_id},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE", "FOWNER"],
            "SecurityOpt": ["no-new-privileges", *filters],
            "Runtime": runtime,
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Memory": _HELPER_MEMORY,
            "MemorySwap": _HELPER_MEMORY,
            "NanoCpus": 1_000_000_000,
            "OomScoreAdj": 500,
            "PidsLimit": 16,
            "Ulimits": [{"Name": name, "Soft": 0, "Hard": 0} for name in ("core", "fsize")],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none"},
            "Mounts": [] if info.selinux else [mount],
            "Binds": [f"{outputs}:/outputs:Z"] if info.selinux else [],
        },
    }


def _all_readable(root: Path, scan: Scan) -> bool:
    return all(os.access(root.joinpath(*file.parts), os.R_OK, effective_ids=True) for file in scan.files)


def _key_of(container: Container) -> Key | None:
    labels = container.labels
    try:
        return labels["asman.queue"], labels["asman.job"], int(labels["asman.attempt"])
    except (KeyError, ValueError):
        return None
