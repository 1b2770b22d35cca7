"""Workers without containers, many in one process: real sockets, real leases, work that is a short wait.

Each keeps what it finished until it is acknowledged, takes up what it held after a reconnection, and goes to another
server when one does not answer, as real workers do.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["Tally", "swarm"]

_SILENT_S = 5.0


@dataclass
class Tally:
    """What all workers saw. Units: ``waits_s`` from saying that there is room to being given a job."""

    given: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    revoked: asyncio.Queue[tuple[str, float]] = field(default_factory=asyncio.Queue)
    waits_s: list[float] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def until(self, is_so: Callable[[], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s), self.news:
            await self.news.wait_for(is_so)

    async def until_accepted(self, jobs: Sequence[str], within_s: float) -> None:
        await self.until(lambda: all(job in self.accepted for job in jobs), within_s)


class _SimWorker:
    def __init__(self, name: str, urls: Sequence[str], queue: str, slots: int, tally: Tally, work_s: float) -> None:
        self._name, self._queue, self._slots, self._tally, self._work_s = name, queue, slots, tally, work_s
        self._urls = itertools.cycle(urls)
        self._holding: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._ready_at = 0.0
        self._working: dict[str, asyncio.Task[None]] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            try:
                while True:
                    url = next(self._urls)
                    with suppress(aiohttp.ClientError, OSError, TimeoutError):
                        await self._serve(session, f"{url}/q/{self._queue}/worker?protocol=2")
                    self._socket = None
                    await asyncio.sleep(random.uniform(0.05, 0.3))
            finally:
                for task in self._working.values():
                    task.cancel()

    async def _serve(self, session: aiohttp.ClientSession, url: str) -> None:
        async with asyncio.timeout(_SILENT_S):
            socket = await session.ws_connect(url, max_msg_size=0)
        try:
            self._socket = socket
            capacity = {"cpus": self._slots, "gpus": []}
            payload = {"id": self._name, "protocol": 2, "capacity": capacity, "maxJobDuration": "5m"}
            await self._say("WorkerRegistration", {**payload, "holding": {**self._holding, **self._done}})
            renewing = asyncio.create_task(self._renew())
            try:
                while True:
                    message = await socket.receive(timeout=_SILENT_S)
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        return
                    if message.data.startswith("{"):
                        await self._hear(message.json())
            finally:
                renewing.cancel()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await socket.close()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._say("Renew", {"jobs": self._holding})
            for job, attempt in list(self._done.items()):
                await self._report(job, attempt)  # a server whose store was away did not take it
            if self._socket is not None:
                with suppress(ConnectionError):
                    await self._socket.send_str("PING")

    async def _say(self, kind: str, payload: dict[str, Any]) -> None:
        if self._socket is not None and not self._socket.closed:
            with suppress(ConnectionError):
                await self._socket.send_json({"type": kind, "payload": payload})

    async def _hear(self, message: dict[str, Any]) -> None:
        payload = message["payload"]
        match message["type"]:
            case "Registered":
                self._lose(payload["lost"])
                for job, attempt in list(self._done.items()):
                    await self._report(job, attempt)
                await self._ready()
            case "Assign":
                await self._take(payload["jobId"], payload["attempt"])
            case "Ack":
                job = payload["jobId"]
                if payload["accepted"]:
                    self._tally.accepted[job] += job in self._done
                else:
                    self._tally.refused[job] += 1
                self._drop(job)
                await self._tally.tell()
                await self._ready()
            case "Renewed":
                self._lose(payload["lost"])
            case "Revoke":
                self._drop(payload["jobId"])
                self._tally.revoked.put_nowait((payload["jobId"], asyncio.get_running_loop().time()))
                await self._ready()

    async def _ready(self) -> None:
        room = self._slots - len(self._holding)
        self._ready_at = asyncio.get_running_loop().time()
        await self._say("Ready", {"cpus": room, "gpus": 0, "jobs": room})

    async def _take(self, job: str, attempt: int) -> None:
        self._tally.waits_s.append(asyncio.get_running_loop().time() - self._ready_at)
        self._tally.given[job, attempt] += 1
        self._holding[job] = attempt
        self._working[job] = asyncio.create_task(self._work(job, attempt))
        await self._tally.tell()

    async def _work(self, job: str, attempt: int) -> None:
        await asyncio.sleep(self._work_s * random.uniform(0.5, 1.5))
        self._done[job] = attempt
        await self._report(job, attempt)

    async def _report(self, job: str, attempt: int) -> None:
        result = {"StatusCode": 0, "logs": [[f"attempt {attempt}\n", 1]], "outputs": {}}
        value = {"type": "Finished", "reason": "Success", "worker": self._name, "result": result}
        await self._say("StateChange", {"job": job, "attempt": attempt, "state": "Finished", "value": value})

    def _lose(self, jobs: list[str]) -> None:
        """What is done is said until it is answered: the report may have been the reason that it is not ours."""
        for job in jobs:
            if job not in self._done:
                self._drop(job)

    def _drop(self, job: str) -> None:
        self._holding.pop(job, None)
        self._done.pop(job, None)
        task = self._working.pop(job, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()


@asynccontextmanager
async def swarm(
    urls: Sequence[str], queue: str, *, workers: int, slots: int = 4, work_s: float = 0.0
) -> AsyncIterator[Tally]:
    """Workers on these servers in turn. Units: ``work_s`` is about how long a job takes."""
    tally = Tally()
    tasks = []
    for number in range(workers):
        turned = [*urls[number % len(urls) :], *urls[: number % len(urls)]]
        one = _SimWorker(f"worker-{number}", turned, queue, slots, tally, work_s)
        tasks.append(asyncio.create_task(one.run()))
    try:
        yield tally
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
