"""Workers as programs on one machine, for an older server: where their data lies, what they leave on the engine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docker_engine import DockerEngine
from old_server import OldServer

__all__ = ["Host"]


class Host:
    """Workers on one machine: where their data lies, which engine they use."""

    def __init__(self, engine: DockerEngine, server: OldServer, folder: Path, tools: Path | None = None) -> None:
        self._engine, self._server, self._folder = engine, server, folder
        self._path = f"{tools}:{os.environ['PATH']}" if tools else os.environ["PATH"]

    @asynccontextmanager
    async def worker(self, name: str = "m-worker", *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A worker's process that has registered; killed at the end, if it has not ended by itself."""
        before = len(self._server.said("WorkerRegistration", name))
        where = ("--server", self._server.url, "--data-directory", str(self.data(name)), "--id", name)
        with (self._folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "asman_worker", "first", *where, *self._engine.worker_flags, *flags]
            process = await asyncio.create_subprocess_exec(
                *self._engine.as_worker(command),
                env={**os.environ, "DOCKER_HOST": self._engine.host, "PATH": self._path},
                stderr=log,
            )
        try:
            await self._server.until(lambda: len(self._server.said("WorkerRegistration", name)) > before)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def data(self, name: str) -> Path:
        return self._folder / name

    def files(self, name: str = "m-worker") -> list[str]:
        """What lies in the folders of jobs."""
        assert list(self.data(name).glob("id-*/outbox")), "this is where the worker keeps its data"
        return sorted(str(path) for path in self._in_jobs(name))

    def _in_jobs(self, name: str) -> Iterator[Path]:
        """Files in the folders of jobs; a folder that is removed meanwhile is passed over."""
        for jobs in self.data(name).glob("id-*/jobs"):
            for folder, _, files in os.walk(jobs):
                yield from (Path(folder, file) for file in files)

    def reports(self, name: str = "m-worker") -> list[Path]:
        """Reports that the server has not taken yet."""
        return list(self.data(name).glob("id-*/outbox/*.json"))

    def containers(self, job: str, worker: str = "") -> list[dict[str, Any]]:
        labels = [f"asman.job={job}", *([f"asman.worker={worker}"] if worker else [])]
        _, answer = self._engine.request(
            "GET", f"/containers/json?all=1&filters={quote(json.dumps({'label': labels}))}"
        )
        return list(json.loads(answer))

    def log(self, name: str = "m-worker") -> str:
        return (self._folder / f"{name}.log").read_text()

    def let_go(self, job: str = "", name: str = "m-worker") -> None:
        """Make the file that a job waits for, that of the only job where none is named."""
        (outputs,) = (found for found in self.data(name).glob("id-*/jobs/**/outputs") if job in str(found))
        (outputs / "go").touch()

    def has_output(self, file: str, name: str = "m-worker") -> bool:
        """Has a job left this file, which may still be running?"""
        return any(path.parts[-2:] == ("outputs", file) for path in self._in_jobs(name))

    def all_containers(self) -> list[dict[str, Any]]:
        """Containers of any worker, the newest first: some engines remove none that another depends on."""
        labels = quote(json.dumps({"label": ["asman.worker"]}))
        found = json.loads(self._engine.request("GET", f"/containers/json?all=1&filters={labels}")[1])
        return sorted(found, key=lambda container: container["Created"], reverse=True)

    def remove_all(self) -> None:
        for container in self.all_containers():
            self._engine.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
