"""A real server in a process of its own, and a worker that speaks protocol 2 and does what a test tells it.

The worker runs no containers: a test gives it a function from definition to what a container would have done. All else
is real: the sockets, the server, the client under test.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["Served", "Story", "environ", "run_asman", "served", "telling_worker"]


@dataclass(kw_only=True)
class Served:
    """A running server. Shape: ``said`` are the lines it has written so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.said.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def hear(self, start: str, timeout_s: float = 30.0) -> str:
        """The first line that starts so, waited for if it has not come yet."""
        with self._news:
            self._news.wait_for(lambda: self._is_closed or self._heard(start), timeout_s)
            found = self._heard(start)
        assert found, f"no line starts with {start!r}: {self.said}"
        return found[0]

    def _heard(self, start: str) -> list[str]:
        return [line for line in self.said if line.startswith(start)]

    @property
    def url(self) -> str:
        return self.hear("asman serves ").split()[2]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Signal it and wait; answers with the exit code."""
        self.process.send_signal(number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end within {timeout_s} s of signal {number}") from None
        self._reader.join()
        return self.process.returncode

    def end(self) -> None:
        """Whatever happened: no process is left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()


def environ(**more: str) -> dict[str, str]:
    """The environment of a command under test: nothing of ours in it, no engine, no proxy."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASMAN_", "DOCKER_")) and "proxy" not in k.lower()}
    return {**kept, "DOCKER_HOST": "unix:///nonexistent/docker.sock", "PYTHONUNBUFFERED": "1", **more}


@contextmanager
def served(*options: str, cwd: Path, command: str = "serve", **more: str) -> Iterator[Served]:
    """``asman serve`` (or ``up``) on a free port of loopback, unless the options say so. ``more`` is environment."""
    chosen = [] if "--port" in options else ["--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asman", command, *chosen, *options],
        cwd=cwd,
        env=environ(**more),
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Served(process=process)
    try:
        server.hear("asman serves ")
        yield server
    finally:
        server.end()


async def run_asman(
    *arguments: str, cwd: Path, server: str = "", stdin: str | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, while the test's own loop goes on."""
    more = {"ASMAN_SERVER": server} if server else {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asman", *arguments),
        cwd=cwd,
        env=environ(**more),
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out.decode(), err.decode())


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a container did. Shape: lines are (step, text, from stderr); ``outputs`` are data refs."""

    lines: Sequence[tuple[str, str, bool]] = ()
    exit_code: int = 0
    outcome: str = "succeeded"
    reason: str = "Success"
    error: str = ""
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@asynccontextmanager
async def telling_worker(
    url: str,
    queue: str,
    tell: Callable[[dict[str, Any]], Story],
    *,
    name: str = "teller",
    until: asyncio.Event | None = None,
) -> AsyncIterator[list[dict[str, Any]]]:
    """A connected worker; gives the definitions it was assigned. With ``until`` it reports only once that is set."""
    given: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{url}/q/{queue}/worker?protocol=2") as socket:
            ready = asyncio.Event()
            task = asyncio.create_task(_work(socket, name, tell, given, ready, until))
            async with asyncio.timeout(10):
                await ready.wait()
            try:
                yield given
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _work(
    socket: aiohttp.ClientWebSocketResponse,
    name: str,
    tell: Callable[[dict[str, Any]], Story],
    given: list[dict[str, Any]],
    ready: asyncio.Event,
    until: asyncio.Event | None,
) -> None:
    async def send(kind: str, payload: Mapping[str, Any]) -> None:
        await socket.send_str(json.dumps({"type": kind, "payload": payload}))

    capacity = {"cpus": 2, "memory_bytes": 4 << 30, "gpus": [], "tags": [], "max_duration_s": 1200, "arch": "amd64"}
    registration = {"time": _ms(), "version": "0", "id": name, "cpus": 2, "gpus": 0, "maxJobDuration": "20m"}
    await send("WorkerRegistration", {**registration, "protocol": 2, "capacity": capacity, "holding": {}})
    free = {"cpus": 2, "memory_bytes": 4 << 30, "gpus": 0, "jobs": 2}
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT or not message.data.startswith("{"):
            continue
        frame = json.loads(message.data)
        payload = frame.get("payload") or {}
        if frame["type"] == "Registered":
            await send("Ready", free)
            ready.set()
        elif frame["type"] == "StatusRequest":
            await send("WorkerStatusResponse", {"id": name, "time": _ms(), "cpus": 2, "gpus": 0, "queue": {}})
        elif frame["type"] == "Assign":
            given.append(payload["definition"])
            story = tell(payload["definition"])
            for seq, (step, text, is_error) in enumerate(story.lines):
                line = [text, _ms(), True] if is_error else [text, _ms()]
                known = {"jobId": payload["jobId"], "attempt": payload["attempt"], "seq": seq}
                await send("JobStatusLogs", {**known, "step": step, "logs": [line]})
            if until is not None:
                await until.wait()
            await send("StateChange", _finished(name, payload, story))
            await send("Ready", free)


def _finished(name: str, payload: Mapping[str, Any], story: Story) -> dict[str, Any]:
    result: dict[str, Any] = {"logs": [], "duration": 5, "isTimedOut": story.reason == "TimedOut"}
    result["outputs"] = dict(story.outputs)
    if story.reason == "Success":
        result["StatusCode"] = story.exit_code
    if story.error:
        result["error"] = story.error
    value = {"type": "Finished", "reason": story.reason, "worker": name, "time": _ms(), "outcome": story.outcome}
    return {
        "job": payload["jobId"],
        "tag": name,
        "state": "Finished",
        "attempt": payload["attempt"],
        "value": {**value, "result": result},
    }


def _ms() -> int:
    return round(time.time() * 1000)
