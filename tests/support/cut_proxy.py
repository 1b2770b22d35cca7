"""A TCP proxy that a test can cut, stall, or make lose a reply: what a network does between two parts that are well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["CutProxy", "cut_proxy"]


class CutProxy:
    """Shape: ``port`` is where it listens on loopback."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        self._loses_replies = False
        self.port = 0

    def cut(self) -> None:
        """Close all connections and refuse new ones, until ``mend``."""
        self._is_cut = True
        self.close_connections()

    def mend(self) -> None:
        self._is_cut = self._loses_replies = False
        self._flows.set()

    def stall(self) -> None:
        """Nothing passes any more, in either direction, and nobody is told."""
        self._flows.clear()

    def lose_next_reply(self) -> None:
        """What is asked next arrives, but the answer is lost with the connection."""
        self._loses_replies = True

    def close_connections(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, out}
        both = [
            asyncio.create_task(self._pass(reader, out)),
            asyncio.create_task(self._pass(there, writer, is_reply=True)),
        ]
        self._tasks.update(both)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= {writer, out}
            for task in both:
                task.cancel()
                self._tasks.discard(task)
            for one in (writer, out):
                one.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                if is_reply and self._loses_replies:
                    self._loses_replies = False
                    return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def cut_proxy(port: int) -> AsyncIterator[CutProxy]:
    proxy = CutProxy(port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
