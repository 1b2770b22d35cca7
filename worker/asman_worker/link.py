"""One websocket to the server: made, kept alive, and made again. It carries frames and knows nothing of jobs.

A connection that only looks alive is the common failure (a laptop that slept, a lost route), so every few seconds a
text ``PING`` is sent, and silence is taken for death. A ``PONG`` also says that all that was sent before its ``PING``
has arrived, because both ends keep order: whoever must know what arrived asks for ``confirmed``.

Reconnecting is at once the first time, then after random waits under a growing bound, so that a restarted server is
not met by all its workers in the same moment.

Source: published heartbeat and reconnect rules; exponential backoff with full jitter.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import aiohttp

from asman.messages import frame

__all__ = [
    "PING_EVERY_S",
    "SILENCE_LIMIT_S",
    "Backoff",
    "Connection",
    "Disconnected",
    "connections",
    "socket_url",
]

_log = logging.getLogger(__name__)

PING_EVERY_S = 5.0
SILENCE_LIMIT_S = 10.0
_CONNECT_LIMIT_S = 10.0
_CLOSE_LIMIT_S = 2.0
_MAX_FRAME_BYTES = 64 << 20
_SUPERSEDED = 4409
_TOO_BIG = 1009
_STEADY_AFTER_S = 10.0


class Disconnected(Exception):
    """The connection ended while something was being sent."""


def socket_url(server: str, queue: str, protocol: int = 2) -> str:
    """Where a queue's workers connect: http becomes ws, https becomes wss."""
    return f"ws{server.removeprefix('http')}/q/{quote(queue, safe='')}/worker?protocol={protocol}"


class Backoff:
    """How long to wait before the next attempt. Units: seconds."""

    def __init__(
        self, *, first_s: float = 0.2, most_s: float = 10.0, chance: Callable[[], float] = random.random
    ) -> None:
        self._first_s, self._most_s, self._chance = first_s, most_s, chance
        self._failures = 0

    def next_s(self) -> float:
        """0 for the first attempt after a success, then anything up to a bound that doubles."""
        bound = 0.0 if self._failures == 0 else min(self._first_s * 2 ** (self._failures - 1), self._most_s)
        self._failures = min(self._failures + 1, 32)
        return bound * self._chance()

    def succeeded(self) -> None:
        self._failures = 0

    def calm_down(self) -> None:
        """The server does not want this worker now: wait about as long as it ever waits."""
        self._failures = 32


class Connection:
    """One open socket. ``close_code`` tells afterwards how it ended."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._sent = 0
        self._pings: deque[int] = deque()
        self._heard_at = asyncio.get_running_loop().time()
        self.confirmed = 0
        """All sends numbered up to this have arrived."""

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    async def send(self, kind: str, payload: dict[str, Any] | None = None) -> int:
        """Send one message and answer with its number. Errors: Disconnected."""
        data = frame(kind, payload).decode()
        _log.debug("sent", extra={"type": kind, "characters": len(data)})
        self._sent += 1
        number = self._sent
        await self._send_text(data)
        return number

    async def ping(self) -> None:
        """Ask for a PONG, which will confirm all sends so far. Errors: Disconnected."""
        self._pings.append(self._sent)
        await self._send_text("PING")

    async def _send_text(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            raise Disconnected(str(error)) from error

    async def messages(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(type, payload) of each message until the socket closes; ``PONG`` comes as type ``PONG`` with ``id``.

        What is not a message is skipped: later servers may say more than this worker knows.
        """
        async for received in self._socket:
            self._heard_at = asyncio.get_running_loop().time()
            if received.type is not aiohttp.WSMsgType.TEXT:
                continue
            message = self._read(received.data)
            if message is not None:
                _log.debug("received", extra={"type": message[0], "characters": len(received.data)})
                yield message

    def _read(self, text: str) -> tuple[str, dict[str, Any]] | None:
        if text.startswith("PONG"):
            self.confirmed = self._pings.popleft() if self._pings else self.confirmed
            return "PONG", {"id": text[4:].strip()}
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return None
        payload = message.get("payload")
        return message["type"], payload if isinstance(payload, dict) else {}

    async def keep_alive(self) -> None:
        """Ping while the socket lives, and close it when the other end has been silent for too long."""
        loop = asyncio.get_running_loop()
        while not self._socket.closed:
            silent_s = loop.time() - self._heard_at
            if silent_s > SILENCE_LIMIT_S:
                _log.warning("the server is silent; connecting again", extra={"silent_s": round(silent_s, 1)})
                await self.close()
                return
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await self.ping()
            except (Disconnected, TimeoutError):
                pass  # the reader sees the end of the socket, or the silence is noticed here
            await asyncio.sleep(PING_EVERY_S)

    async def close(self) -> None:
        """Close in bounded time, also if nobody answers."""
        try:
            async with asyncio.timeout(_CLOSE_LIMIT_S + 1):
                await self._socket.close()
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            _log.debug("the socket did not close in good order")


async def connections(
    session: aiohttp.ClientSession, url: str, *, backoff: Backoff | None = None
) -> AsyncIterator[Connection]:
    """Open connections, one after the other, for ever: the next one is tried when the last one is done with.

    The same failure is logged once, not at every attempt.
    """
    wait = backoff or Backoff()
    loop = asyncio.get_running_loop()
    told = ""
    while True:
        await asyncio.sleep(wait.next_s())
        try:
            async with asyncio.timeout(_CONNECT_LIMIT_S):
                socket = await session.ws_connect(
                    url,
                    max_msg_size=_MAX_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_LIMIT_S),
                )
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            told = _tell_failure(url, error, told)
            continue
        told, opened_at = "", loop.time()
        connection = Connection(socket)
        try:
            yield connection
        finally:
            await connection.close()
        if loop.time() - opened_at >= _STEADY_AFTER_S:
            wait.succeeded()
        _tell_end(connection, wait)


def _tell_failure(url: str, error: BaseException, told: str) -> str:
    """Log why there is no connection, with the next step; answer with what was said."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        reason = f"the server answered {error.status} instead of opening a socket; check --server and the queue's name"
    elif isinstance(error, TimeoutError):
        reason = f"no answer within {_CONNECT_LIMIT_S:.0f} s"
    else:
        reason = str(error)
    if reason != told:
        _log.warning("cannot connect; trying again until it works", extra={"url": url, "reason": reason})
    return reason


def _tell_end(connection: Connection, wait: Backoff) -> None:
    code = connection.close_code
    if code == _SUPERSEDED:
        wait.calm_down()
        _log.error("another worker with this id has connected; give each worker its own --id or --data-directory")
    elif code in (1008, 1013, 4400, 4408, 4429):
        wait.calm_down()
        _log.warning("the server closed the connection; trying again later", extra={"close_code": code})
    else:
        _log.info("the connection ended", extra={"close_code": code})
