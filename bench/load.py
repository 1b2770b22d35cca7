"""A load of submits over keep-alive connections, and watchers that read what is sent to them.

The client parses as little as it can, so that on a small machine the server is what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

__all__ = ["Load", "definition", "submit_many", "watching"]

_serial = itertools.count()


def definition() -> dict[str, object]:
    """A small job that is never the same twice, as text of about 170 bytes."""
    return {
        "image": "alpine:3.19.1",
        "command": f"echo {time.time_ns()}-{next(_serial)}",
        "env": {"SAMPLE": "17", "MODEL": "small"},
        "requirements": {"cpus": 1, "memory": "512m"},
    }


def _submit_body() -> bytes:
    return json.dumps({"definition": definition()}, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load saw. Units: seconds."""

    count: int
    wall_s: float
    latencies_s: list[float] = field(repr=False)

    @property
    def per_s(self) -> float:
        return self.count / self.wall_s

    def latency_s(self, share: float) -> float:
        return sorted(self.latencies_s)[min(int(share * len(self.latencies_s)), len(self.latencies_s) - 1)]


async def submit_many(
    port: int, path: str, connections: int, each: int, body: Callable[[], bytes] = _submit_body
) -> Load:
    """POST ``each`` bodies over each of ``connections`` connections, one after the other. Errors: RuntimeError."""
    latencies: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(_one(port, path, each, body, latencies) for _ in range(connections)))
    return Load(count=connections * each, wall_s=time.perf_counter() - began, latencies_s=latencies)


async def _one(port: int, path: str, each: int, body: Callable[[], bytes], latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(each):
            content = body()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
            sent = time.perf_counter()
            writer.write(head.encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer[:16]:
                raise RuntimeError(f"{path} answered {answer[:200]!r}")
            length = answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length))
            latencies.append(time.perf_counter() - sent)
    finally:
        writer.close()


@asynccontextmanager
async def watching(port: int, queue: str, count: int) -> AsyncIterator[list[int]]:
    """``count`` client sockets that read everything. Yields the bytes each has had since it connected."""
    received = [0] * count
    async with aiohttp.ClientSession() as session:
        sockets = [
            await session.ws_connect(f"http://127.0.0.1:{port}/q/{queue}/client?lists=0", max_msg_size=0, compress=0)
            for _ in range(count)
        ]
        for socket in sockets:
            await socket.receive()  # Workers
            await socket.receive()  # JobStates

        async def read(place: int) -> None:
            async for message in sockets[place]:
                received[place] += len(message.data)

        readers = [asyncio.create_task(read(place)) for place in range(count)]
        try:
            yield received
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            for socket in sockets:
                await socket.close()
