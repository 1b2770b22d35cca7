"""The real app in one process, in memory, with a clock that tests move: for tests of operations, sockets and routes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from quart import Quart

from asman import operations as ops
from asman.app import create_app
from asman.config import load_config
from asman.job import Job
from asman.maintenance import sweep
from asman.presence import Hub
from asman.services import Services

__all__ = ["QUEUE", "Clock", "Core", "Socket", "core", "definition", "finished"]

QUEUE = "a-queue-of-the-tests"


@dataclass(slots=True)
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def definition(text: str = "echo hi", **members: Any) -> dict[str, Any]:
    return {"image": "alpine:3.19.1", "command": text, **members}


def finished(worker: str, *, code: int = 0, reason: str = "Success", **result: Any) -> dict[str, Any]:
    """The value of a finishing report."""
    full = {"StatusCode": code, "logs": [], "isTimedOut": False, "outputs": {}, **result}
    return {"type": "Finished", "reason": reason, "worker": worker, "time": 1, "result": full}


class Socket:
    """One socket of the test client, in words of frames."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def say(self, kind: str, payload: dict[str, Any] | None = None) -> None:
        await self._raw.send(json.dumps({"type": kind} if payload is None else {"type": kind, "payload": payload}))

    async def say_text(self, text: str | bytes) -> None:
        await self._raw.send(text)

    async def hear_text(self) -> str:
        return str(await self._raw.receive())

    async def hear(self) -> tuple[str, dict[str, Any]]:
        message = json.loads(await self.hear_text())
        return message["type"], message.get("payload", {})

    async def hear_until(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """The next frame of one of these types; others are passed over."""
        while True:
            kind, payload = await self.hear()
            if kind in kinds:
                return kind, payload

    async def hear_state(self, job_id: str, state: str) -> dict[str, Any]:
        """The next record of the job in this state."""
        while True:
            _, payload = await self.hear_until("JobStates", "JobStateUpdates")
            record = payload["state"]["jobs"].get(job_id)
            if record is not None and record["state"] == state:
                return dict(record)

    async def register(self, worker: str, *, cpus: float = 1, holding: dict[str, int] | None = None) -> dict[str, Any]:
        """Register by protocol 2; the answer's payload."""
        capacity = {"cpus": cpus, "memory_bytes": 1 << 30, "gpus": [], "tags": [], "max_duration_s": 300}
        await self.say(
            "WorkerRegistration",
            {"id": worker, "cpus": cpus, "gpus": 0, "protocol": 2, "capacity": capacity, "holding": holding or {}},
        )
        return (await self.hear_until("Registered"))[1]

    async def ready(self, jobs: int = 1, cpus: float = 1) -> None:
        await self.say("Ready", {"cpus": cpus, "memory_bytes": 1 << 30, "gpus": 0, "jobs": jobs})


@dataclass(slots=True)
class Core:
    app: Quart
    clock: Clock
    services: Services
    hub: Hub

    async def sweep(self) -> int:
        """One sweep of a server that has just looked, so that moving the clock is no pause to it."""
        return await sweep(self.services)

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """(status, decoded JSON or bytes, headers)."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.app.test_client().open(path, method=method, data=data, headers=headers)
        raw = await answer.get_data()
        try:
            return answer.status_code, json.loads(raw), answer.headers
        except ValueError:
            return answer.status_code, raw, answer.headers

    async def submit(self, raw: dict[str, Any] | None = None, queue: str = QUEUE, **body: Any) -> Job:
        submission = ops.read_submission(self.services, {"definition": raw or definition(), **body})
        return (await ops.submit(self.services, queue, submission)).job

    async def run(self, job: Job, worker: str = "w1", **how: Any) -> Job:
        """Claim and finish a job."""
        claimed = await ops.announce(self.services, job.queue, job.job_id, worker)
        assert claimed is not None
        done = await ops.report(self.services, job.queue, job.job_id, worker, claimed.attempt, finished(worker, **how))
        return done.after

    async def load(self, job: Job) -> Job | None:
        return await self.services.jobs.load(job.queue, job.job_id)

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[Socket]:
        async with self.app.test_client().websocket(path) as raw:
            yield Socket(raw)


@asynccontextmanager
async def core(plugins: Sequence[object] = (), **settings: Any) -> AsyncIterator[Core]:
    """An app that has started; settings as flags."""
    clock = Clock()
    config = load_config({"backend": "memory", **settings})[0]
    app = create_app(config, plugins, discover=False, clock=clock)
    await app.startup()
    try:
        yield Core(app=app, clock=clock, services=app.extensions["asman"], hub=app.extensions["asman_hub"])
    finally:
        await app.shutdown()
