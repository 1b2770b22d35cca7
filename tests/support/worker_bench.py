"""The container half of a worker on a real engine, with a blob server, for tests that run whole jobs on it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from asman_worker.docker import Engine
from asman_worker.executor import RUN_STEP, Assignment, Executor
from asman_worker.grant import Grant
from asman_worker.quota import detach
from docker_engine import IMAGE
from worker_blobs import BlobServer

__all__ = ["GRANT", "QUEUE", "Bench", "open_bench", "text_of"]

GRANT = Grant(cores=2, memory_bytes=1 << 30, max_duration_s=60, stop_grace_s=1.0)
QUEUE = "a-queue"
_GONE_S = 30.0


class Bench:
    """A worker's container half on the engine, with a blob server, and the jobs a test runs on it."""

    def __init__(self, engine: Engine, session: aiohttp.ClientSession, blobs: BlobServer, data: Path) -> None:
        self.engine = engine
        self.session = session
        self.blobs = blobs
        self.data = data
        self.worker_id = f"worker-{hashlib.sha256(str(data).encode()).hexdigest()[:12]}"
        self.lines: list[tuple[str, list[Any]]] = []
        self.executors: list[Executor] = []
        self.executor = self.another()

    def another(self, grant: Grant = GRANT, worker_id: str = "", **parts: Any) -> Executor:
        """A further executor: another grant or part, another process of the same worker, or another worker."""
        executor = Executor(
            grant=grant,
            worker_id=worker_id or self.worker_id,
            data_directory=self.data,
            docker=self.engine,
            session=self.session,
            **parts,
        )
        self.executors.append(executor)
        return executor

    def assignment(self, definition: dict[str, Any], attempt: int = 1) -> Assignment:
        full = {"image": IMAGE, **definition}
        job_id = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()
        return Assignment(queue=QUEUE, job_id=job_id, attempt=attempt, definition=full, server_url=self.blobs.url)

    def log(self, step: str, lines: list[list[Any]]) -> None:
        self.lines += [(step, line) for line in lines]

    def live(self, step: str = RUN_STEP) -> str:
        return "".join(line[0] for where, line in self.lines if where == step)

    async def run(self, command: Any, executor: Executor | None = None, **definition: Any) -> dict[str, Any]:
        assignment = self.assignment({"command": command, **definition})
        async with asyncio.timeout(60):
            return await (executor or self.executor).run(assignment, self.log)

    def begin(self, assignment: Assignment, executor: Executor | None = None) -> asyncio.Task[dict[str, Any]]:
        """Run a job beside the test."""
        return asyncio.create_task((executor or self.executor).run(assignment, self.log))

    async def containers(self, worker_id: str = "") -> list[Any]:
        return await self.engine.find({"asman.worker": worker_id or self.worker_id})

    async def settle(self) -> None:
        for executor in self.executors:
            async with asyncio.timeout(_GONE_S):
                await executor.settle()

    def files(self) -> list[Path]:
        """What is left of jobs; the notes of what is kept on the engine are no job's."""
        return [path for path in self.data.rglob("*") if path.is_file() and path.parent != self.data / "caches"]

    async def close(self) -> None:
        await self.settle()
        for executor in self.executors:
            for container in await self.containers(executor.worker_id):
                await self.engine.remove(container.id)
        for folder in self.data.glob("jobs/*/*/*/*/outputs"):  # of a test that failed
            detach(folder)


@asynccontextmanager
async def open_bench(docker_host: str, data: Path) -> AsyncIterator[Bench]:
    async with Engine(docker_host) as engine, aiohttp.ClientSession() as session, BlobServer() as blobs:
        opened = Bench(engine, session, blobs, data)
        try:
            yield opened
        finally:
            await opened.close()


def text_of(report: dict[str, Any], *, stderr: bool = False) -> str:
    return "".join(line[0] for line in report["result"]["logs"] if (len(line) == 3) is stderr)
