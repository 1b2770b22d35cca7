"""What a worker's socket half is tested against: servers that follow a script, and a host that runs plain processes.

``ScriptedServer`` is a real websocket server on loopback that says only what a test tells it to say (and ``PONG``).
``LocalHost`` stands for a host with a container engine: its processes go on when the worker that started them is gone,
as containers do. ``LocalExecutor`` offers what the executor offers, with ``sh -c`` for a container, so that sockets,
leases and restarts can be tested where there is no engine; the tests marked ``docker`` use the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from asman_worker.config import WorkerConfig
from asman_worker.executor import Assignment, Held
from asman_worker.fingerprint import hold_identity
from asman_worker.grant import Grant
from asman_worker.intake import Intake
from asman_worker.outbox import Key
from asman_worker.process import own_tasks, serve
from asman_worker.telemetry import Telemetry

__all__ = [
    "GIB",
    "Connected",
    "LocalExecutor",
    "LocalHost",
    "ScriptedServer",
    "WorkerUnderTest",
    "job_id",
    "running",
    "until",
]

GIB = 1 << 30
_WAIT_S = 15.0

Message = tuple[str, dict[str, Any]]


async def until(is_so: Callable[[], bool]) -> None:
    """Let everything go on until something holds, for what says nothing when it happens; within a bound."""
    async with asyncio.timeout(_WAIT_S):
        while not is_so():  # noqa: ASYNC110 - files and processes set no event
            await asyncio.sleep(0.01)


def job_id(number: int) -> str:
    """A job id for tests: 64 hex digits."""
    return f"{number:064x}"


# --- servers ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Connected:
    """One worker's socket, seen from the server."""

    queue: str
    path: str
    socket: web.WebSocketResponse
    said: list[Message] = field(default_factory=list)
    """All messages that came, in order."""
    knows_as: str | None = None
    """What PONG calls the worker; None: the id it registered."""
    answers_pings: bool = True
    loses: frozenset[str] = frozenset()
    """Kinds of messages that the network swallows: sent by the worker, never seen by the server."""
    lost: list[Message] = field(default_factory=list)
    answer: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
    """Called with every message, for what a server answers without being told by the test."""
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)
    _read: int = 0

    async def say(self, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        await self.socket.send_str(json.dumps({"type": kind} | ({} if payload is None else {"payload": payload})))

    async def hears(self, kind: str, where: Callable[[dict[str, Any]], bool] = lambda payload: True) -> dict[str, Any]:
        """The next message of this kind (after the last one that was heard) for which ``where`` holds."""
        async with asyncio.timeout(_WAIT_S), self._came:
            while True:
                while self._read < len(self.said):
                    said, payload = self.said[self._read]
                    self._read += 1
                    if said == kind and where(payload):
                        return payload
                await self._came.wait()

    async def heard_pings(self, count: int) -> None:
        """Wait until this many PINGs have come."""
        async with asyncio.timeout(_WAIT_S), self._came:
            await self._came.wait_for(lambda: sum(kind == "PING" for kind, _ in self.said) >= count)

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for said, payload in self.said if said == kind]

    async def register(self, *, lease_s: float = 30.0, renew_s: float = 10.0, **more: Any) -> dict[str, Any]:
        """Hear the registration and answer as a protocol 2 server does."""
        registration = await self.hears("WorkerRegistration")
        answer = {"protocol": 2, "lease_s": lease_s, "renew_s": renew_s, "adopted": registration["holding"], "lost": []}
        await self.say("Registered", answer | more)
        return registration

    async def assign(self, number: int, command: str, *, attempt: int = 1, **requirements: Any) -> str:
        definition: dict[str, Any] = {"image": "local:1", "command": command}
        if requirements:
            definition["requirements"] = requirements
        payload = {"jobId": job_id(number), "attempt": attempt, "definition": definition}
        await self.say("Assign", payload | {"lease_until": 0, "queuedTime": 0})
        return job_id(number)

    async def ack(self, finished: Mapping[str, Any], *, accepted: bool = True, **more: Any) -> None:
        answer = {"jobId": finished["job"], "attempt": finished["attempt"], "accepted": accepted}
        await self.say("Ack", answer | more)

    async def drop(self) -> None:
        """End the connection as a broken network does: without a farewell."""
        transport = self.socket._req.transport if self.socket._req is not None else None
        if transport is not None:
            transport.abort()

    async def take(self) -> None:
        """Read until the socket closes."""
        async for received in self.socket:
            if received.type is not WSMsgType.TEXT:
                continue
            await self._heard(received.data)

    async def _heard(self, text: str) -> None:
        if text == "PING":
            message: Message = ("PING", {})
            if self.answers_pings:
                registered = self.all_of("WorkerRegistration")
                known = self.knows_as or (registered[-1]["id"] if registered else "unknown")
                await self.socket.send_str(f"PONG {known}")
        else:
            raw = json.loads(text)
            message = (raw["type"], raw.get("payload") or {})
            if message[0] in self.loses:
                self.lost.append(message)
                return
            if self.answer is not None:
                await self.answer(*message)
        async with self._came:
            self.said.append(message)
            self._came.notify_all()


class ScriptedServer:
    """Accepts workers and lets the test speak. Use as an async context manager."""

    def __init__(self) -> None:
        self._arrived: dict[str, asyncio.Queue[Connected]] = {}
        self.refuses = False
        self._server: TestServer | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/q/{queue}/worker", self._accept)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    async def arrival(self, queue: str = "first") -> Connected:
        """The next connection of a worker to this queue."""
        async with asyncio.timeout(_WAIT_S):
            return await self._of(queue).get()

    def _of(self, queue: str) -> asyncio.Queue[Connected]:
        return self._arrived.setdefault(queue, asyncio.Queue())

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connected = Connected(queue=request.match_info["queue"], path=str(request.rel_url), socket=socket)
        self._of(connected.queue).put_nowait(connected)
        await connected.take()
        return socket


# --- a host that runs processes --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Process:
    process: asyncio.subprocess.Process
    lines: list[list[Any]] = field(default_factory=list)
    readers: list[tuple[Callable[[str, list[list[Any]]], None], int]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LocalHost:
    """Processes by attempt; they outlive the workers that start them."""

    def __init__(self) -> None:
        self.processes: dict[Key, _Process] = {}
        self.started: list[Key] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, key: Key, command: str) -> _Process:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", command, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        found = self.processes[key] = _Process(process)
        self.started.append(key)
        task = asyncio.create_task(self._follow(found))
        self._tasks.add(task)
        return found

    async def _follow(self, found: _Process) -> None:
        assert found.process.stdout is not None
        async for raw in found.process.stdout:
            line = [raw.decode(), int(time.time() * 1000)]
            found.lines.append(line)
            for log, skip in found.readers:
                if len(found.lines) > skip:
                    log("Running", [line])
        await found.process.wait()
        found.ended.set()

    async def kill(self, key: Key) -> None:
        found = self.processes.pop(key, None)
        if found is not None:
            with suppress(ProcessLookupError):
                os.killpg(found.process.pid, signal.SIGKILL)
            await found.ended.wait()

    async def close(self) -> None:
        for key in list(self.processes):
            await self.kill(key)
        await asyncio.gather(*self._tasks)


class LocalExecutor:
    """One worker's view of a ``LocalHost``, with the executor's methods and promises."""

    def __init__(self, host: LocalHost) -> None:
        self._host = host
        self._stopped: set[Key] = set()

    async def run(self, assignment: Assignment, log: Callable[[str, list[list[Any]]], None]) -> dict[str, Any]:
        key = (assignment.queue, assignment.job_id, assignment.attempt)
        found = await self._host.start(key, str(assignment.definition.get("command", "true")))
        found.readers.append((log, 0))
        return await self._until_ended(key, found)

    async def resume(
        self, assignment: Assignment, log: Callable[[str, list[list[Any]]], None], skip_lines: int = 0
    ) -> dict[str, Any] | None:
        key = (assignment.queue, assignment.job_id, assignment.attempt)
        found = self._host.processes.get(key)
        if found is None:
            return None
        if missed := found.lines[skip_lines:]:
            log("Running", missed)
        found.readers.append((log, skip_lines))
        return await self._until_ended(key, found)

    async def _until_ended(self, key: Key, found: _Process) -> dict[str, Any]:
        await found.ended.wait()
        if key in self._stopped:
            return {"reason": "Cancelled"}
        self._host.processes.pop(key, None)
        code = found.process.returncode
        result = {"StatusCode": code, "logs": found.lines, "duration": 1, "isTimedOut": False, "outputs": {}}
        return {"reason": "Success", "outcome": "failed" if code else "succeeded", "result": result}

    async def stop(self, queue: str, job_id: str, attempt: int) -> None:
        self._stopped.add((queue, job_id, attempt))
        await self._host.kill((queue, job_id, attempt))

    async def held(self) -> list[Held]:
        return [
            Held(queue=queue, job_id=job, attempt=attempt, running=not found.ended.is_set())
            for (queue, job, attempt), found in self._host.processes.items()
        ]

    async def clean(self, keep: set[Key]) -> None:
        for key in set(self._host.processes) - keep:
            await self._host.kill(key)


# --- a worker ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class WorkerUnderTest:
    """A worker that runs inside the test."""

    worker_id: str
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def leaves(self) -> None:
        """Ask for an orderly end and wait for it."""
        self.stop.set()
        await self.ends()

    async def ends(self) -> None:
        async with asyncio.timeout(_WAIT_S):
            await self.task

    async def dies(self) -> None:
        """End it without a farewell, as a crash does; the host's processes go on."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def running(
    server: str,
    data: Path,
    host: LocalHost,
    *,
    queues: tuple[str, ...] = ("first",),
    intake: Intake | None = None,
    telemetry: Telemetry | None = None,
    ping: Callable[[], Awaitable[None]] | None = None,
    **settings: Any,
) -> AsyncIterator[WorkerUnderTest]:
    """A worker with its real socket half over a ``LocalHost``; ended without a farewell at the end of the block."""
    config = WorkerConfig(queues=queues, server=server, data_directory=str(data), **settings)
    grant = Grant(cores=config.cpus, memory_bytes=int(config.cpus * GIB), max_duration_s=60.0)
    stop = asyncio.Event()
    with hold_identity(data, worker_id=config.worker_id) as identity:

        async def work() -> None:
            async with aiohttp.ClientSession() as session, own_tasks() as spawn:
                parts = {"intake": intake, "telemetry": telemetry, "ping": ping}
                await serve(config, stop, identity, LocalExecutor(host), grant, session, spawn, **parts)

        worker = WorkerUnderTest(worker_id=identity.worker_id, stop=stop, task=asyncio.create_task(work()))
        try:
            yield worker
        finally:
            await worker.dies()
