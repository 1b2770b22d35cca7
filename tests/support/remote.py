"""An asman that is known by its URL only: requests, streams and peers on real sockets, each wait bounded."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from quart.testing.connections import WebsocketDisconnectError

from in_process import ECHO, OldWorker, Peer, Worker
from server_sent import Event, read_event

__all__ = ["Answer", "Reader", "Remote", "remote"]

_WAIT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer. Shape: header names are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reader:
    """Reads server-sent events: an empty line ends one; comments are passed over."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._buffer = b""

    async def next(self, within_s: float = _WAIT_S) -> Event:
        async with asyncio.timeout(within_s):
            while True:
                while b"\n\n" not in self._buffer:
                    piece = await self._response.content.readany()
                    assert piece, "the stream ended"
                    self._buffer += piece
                block, self._buffer = self._buffer.split(b"\n\n", 1)
                if (event := read_event(block)) is not None:
                    return event

    async def until(self, kind: str) -> Event:
        while (event := await self.next()).kind != kind:
            pass
        return event


class _Connection:
    """One socket in the form that ``Peer`` reads and writes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        raise WebsocketDisconnectError(self._socket.close_code or 1006)

    async def send(self, data: str | bytes) -> None:
        await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))

    async def close(self) -> None:
        await self._socket.close()


class Remote:
    """One server. Shape: ``queue`` is a queue that nobody else uses."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session
        self.queue = f"q-{uuid.uuid4().hex[:12]}"

    async def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """``body`` is sent as it is if it is bytes or an iterator of them, else as JSON."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            return Answer(status=response.status, headers=response.headers.copy(), body=await response.read())

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == status, (path, answer.status, answer.body[:300])
        return answer.json

    async def submit(self, definition: Mapping[str, Any] = ECHO, *, queue: str = "", **body: Any) -> str:
        answer = await self.call("POST", f"/q/{queue or self.queue}", {"definition": definition, **body})
        assert answer.status == 200, answer.body
        job_id: str = answer.json["jobId"]
        return job_id

    async def listing(self, queue: str = "") -> dict[str, Any]:
        listed: dict[str, Any] = (await self.get(f"/q/{queue or self.queue}"))["data"]
        return listed

    async def record(self, job_id: str, queue: str = "") -> dict[str, Any]:
        """The job as its queue shows it."""
        found: dict[str, Any] = (await self.get(f"/q/{queue or self.queue}/j/{job_id}"))["data"]
        return found

    @asynccontextmanager
    async def connect(self, path: str, **options: Any) -> AsyncIterator[Peer]:
        async with self.session.ws_connect(self.url + path, **options) as socket:
            yield Peer(_Connection(socket))

    @asynccontextmanager
    async def watch(self, queue: str = "", query: str = "") -> AsyncIterator[Peer]:
        """A client that has had its first two frames."""
        async with self.connect(f"/q/{queue or self.queue}/client{query}") as peer:
            await peer.hear("Workers")
            await peer.hear("JobStates")
            yield peer

    @asynccontextmanager
    async def worker(
        self, name: str = "w1", *, queue: str = "", jobs: int = 1, **options: Any
    ) -> AsyncIterator[Worker]:
        """A worker of protocol 2, registered, with room for ``jobs`` jobs."""
        async with self.session.ws_connect(f"{self.url}/q/{queue or self.queue}/worker?protocol=2") as socket:
            worker = Worker(_Connection(socket), name)
            worker.welcome = await worker.register(**options)
            if jobs:
                await worker.ready(jobs)
            yield worker

    @asynccontextmanager
    async def old_worker(self, name: str = "w1", *, queue: str = "") -> AsyncIterator[OldWorker]:
        """A worker of protocol 1 that has had the list."""
        async with self.session.ws_connect(f"{self.url}/q/{queue or self.queue}/worker") as socket:
            worker = OldWorker(_Connection(socket), name)
            await worker.hear("JobStates")
            await worker.register()
            yield worker

    async def finish(self, job_id: str, code: int = 0, *, queue: str = "", **members: Any) -> None:
        """Let a passing worker run the job to its end."""
        async with self.worker(f"passing-{job_id[:4]}", queue=queue, cpus=64) as worker:
            given = await worker.hear("Assign")
            assert given["jobId"] == job_id, "another job waits before this one"
            ack = await worker.finish(given, code, **members)
            assert ack["accepted"], ack

    @asynccontextmanager
    async def follow(self, job_id: str, *, last: str = "", query: str = "") -> AsyncIterator[Reader]:
        headers = {"Last-Event-ID": last} if last else {}
        address = f"{self.url}/q/{self.queue}/j/{job_id}/stream{query}"
        async with self.session.get(address, headers=headers) as response:
            assert response.status == 200
            yield Reader(response)

    async def metric(self, sample: str) -> float:
        """One sample of /metrics, by its name with its labels."""
        text = (await self.call("GET", "/metrics")).body.decode()
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{sample} "))

    async def until(self, holds: Any, within_s: float = _WAIT_S) -> None:
        """Ask again until an awaited answer is true: what another process does tells nobody here."""
        async with asyncio.timeout(within_s):
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@asynccontextmanager
async def remote(url: str) -> AsyncIterator[Remote]:
    timeout = aiohttp.ClientTimeout(total=60.0)
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Remote(url, session)
