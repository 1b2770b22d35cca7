"""A proxy before an S3 store that fails on purpose, in the ways that stores and networks do.

One request per connection. A fault waits for the requests it is for, acts so many times, and is gone; what no fault
takes is passed on as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Fault", "FaultProxy", "error_body", "fault_proxy"]

_PIECE_BYTES = 64 << 10
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)


def error_body(code: str) -> bytes:
    """An error as S3 words it."""
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()


@dataclass
class Fault:
    """What happens to the next ``times`` requests of this method whose target holds ``where``.

    Shape:  ``how`` is one of
            answer        ``status`` and ``body`` instead of the store's answer; the store hears nothing
            cut_request   the connection is reset after ``after_bytes`` of what follows the head; the store sees that
            cut_answer    the connection is reset after ``after_bytes`` of the answer, its head included
            silent        nothing comes back
            deaf          nothing comes back, and nothing is taken
    """

    how: str
    method: str = ""
    where: str = ""
    times: int = 1
    status: int = 500
    body: bytes = b""
    after_bytes: int = 0

    def takes(self, method: str, target: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.where in target


@dataclass
class FaultProxy:
    """Shape: ``seen`` are (method, target) of all requests, those a fault took included."""

    endpoint: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    _asked: asyncio.Condition = field(default_factory=asyncio.Condition)

    def plan(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def count(self, method: str, where: str = "") -> int:
        return sum(m == method and where in target for m, target in self.seen)

    async def asked(self, method: str, where: str, timeout_s: float = 20.0) -> None:
        """Until such a request has come."""
        async with asyncio.timeout(timeout_s), self._asked:
            await self._asked.wait_for(lambda: self.count(method, where))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target = head.decode("latin-1").split(" ")[:2]
            self.seen.append((method, target))
            async with self._asked:
                self._asked.notify_all()
            fault = next((f for f in self.faults if f.takes(method, target)), None)
            if fault is not None:
                fault.times -= 1
            await self._answer(fault, head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, fault: Fault | None, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault is None:
            await self._pass_on(head, reader, writer)
        elif fault.how == "silent":
            await reader.read(-1)
        elif fault.how == "deaf":
            await asyncio.Event().wait()
        elif fault.how == "answer":
            await _answer_with(fault, head, reader, writer)
        elif fault.how == "cut_request":
            await self._pass_on(head, reader, writer, request_bytes=fault.after_bytes)
        elif fault.how == "cut_answer":
            await self._pass_on(head, reader, writer, answer_bytes=fault.after_bytes)
        else:
            raise AssertionError(f"no such fault: {fault.how}")

    async def _pass_on(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        request_bytes: int | None = None,
        answer_bytes: int | None = None,
    ) -> None:
        parts = urlsplit(self.upstream)
        from_store, to_store = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            to_store.write(_CONNECTION.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n")
            up = asyncio.ensure_future(_pump(reader, to_store, request_bytes))
            down = asyncio.ensure_future(_pump(from_store, writer, answer_bytes))
            await asyncio.wait({up, down} if request_bytes is not None else {down}, return_when="FIRST_COMPLETED")
            cut = request_bytes is not None or (answer_bytes is not None and down.result() >= answer_bytes)
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            if cut:
                _reset(writer)
        finally:
            to_store.close()


async def _answer_with(fault: Fault, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    length = _LENGTH.search(head)
    if length is not None and not _EXPECT.search(head):
        await reader.readexactly(int(length[1]))
    writer.write(
        b"HTTP/1.1 %d Planned\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        % (fault.status, len(fault.body))
        + (b"" if head.startswith(b"HEAD ") else fault.body)
    )
    await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit_bytes: int | None) -> int:
    """Pass bytes on until they end, or so many have passed."""
    done = 0
    while limit_bytes is None or done < limit_bytes:
        piece = await reader.read(_PIECE_BYTES if limit_bytes is None else min(_PIECE_BYTES, limit_bytes - done))
        if not piece:
            break
        writer.write(piece)
        await writer.drain()
        done += len(piece)
    return done


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as a crashed peer does, not with an orderly end."""
    raw: Any = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy in this loop, on a port of its own."""
    proxy = FaultProxy(endpoint="", upstream=upstream)
    running: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy._serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        left = list(running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
