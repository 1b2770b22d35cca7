"""What many callers ask at the same moment goes to Redis together.

Commands that are issued in one turn of the event loop, or while a batch is on its way, become the next batch: one
write, one read, and one fsync where Redis appends with ``always``. There is no timer, so a lone command never waits
for company. A reply is handed over when it comes, so that its caller goes on while Redis is busy with the rest of the
batch. A batch that finds no Redis is sent again until each command's time is over, which is why every command of this
backend must be safe to repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError, ResponseError

from asman.errors import Unavailable
from asman_redis.address import Command, Reach

__all__ = ["Batcher", "Script", "said"]

_log = logging.getLogger(__name__)

_BATCH = 256
_WAITING_MOST = 20_000
_PATIENCE_S = 3.0
"""How long a command is tried again while Redis is away; a caller's own repeat does the rest."""
_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4)

_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MOVED", "ASK", "NOREPLICAS")
"""Replies of a Redis that will answer, or whose successor will, in a moment."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua program and the digest by which Redis keeps it. Shape: ``sha`` as 40 lowercase hex digits."""

    source: str
    sha: str


@dataclass(slots=True, eq=False)
class _Asked:
    command: Command
    answer: asyncio.Future[Any]
    until: float
    script: Script | None = None


class Batcher:
    """One way to Redis, shared by all that is asked of it."""

    def __init__(self, way: Reach) -> None:
        self._way = way
        self._waiting: deque[_Asked] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._failures = 0
        self._is_closed = False
        self.on_return: Callable[[], Awaitable[None]] | None = None
        """Called when Redis answers after it did not: it may be another one, or set otherwise."""
        self._looking: asyncio.Future[None] | None = None
        self.batches = 0
        """How many were sent, for tests that count round trips."""

    async def ask(self, *command: Any) -> Any:
        """One command's reply. Errors: Unavailable when Redis cannot do it now."""
        return await self._enqueue(command, None)

    async def call(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """One script's reply; Redis learns the script if it does not know it. Errors: as ``ask``."""
        return await self.post(script, keys, *arguments)

    def post(self, script: Script, keys: Sequence[str], *arguments: Any) -> asyncio.Future[Any]:
        """As ``call``, for those who do not wait: it is sent after all that was asked before."""
        return self._enqueue(("EVALSHA", script.sha, len(keys), *keys, *arguments), script)

    async def close(self) -> None:
        """Nothing more is sent; who still waits is told so."""
        running = [task for task in (self._sending, self._looking) if task is not None]
        self._is_closed = True
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        while self._waiting:
            _refuse(self._waiting.popleft(), Unavailable("the connection to Redis is closed"))
        await self._way.close()

    def _enqueue(self, command: Command, script: Script | None) -> asyncio.Future[Any]:
        if len(self._waiting) >= _WAITING_MOST:
            raise Unavailable(f"{len(self._waiting)} commands wait for Redis, as many as are kept waiting")
        loop = asyncio.get_running_loop()
        asked = _Asked(command, loop.create_future(), loop.time() + _PATIENCE_S, script)
        self._waiting.append(asked)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        return asked.answer

    async def _send_all(self) -> None:
        """Send until nothing waits. Whatever goes wrong, nobody is left waiting."""
        batch: list[_Asked] = []
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                batch = [asked for asked in batch if not asked.answer.cancelled()]
                if batch:
                    await self._send(batch)
                    await asyncio.sleep(0)  # who was answered last asks now, and shares the next batch
        except BaseException as error:
            for asked in batch:
                _refuse(asked, Unavailable(f"the connection to Redis broke: {type(error).__name__}"))
            raise
        finally:
            self._sending = None
            if self._waiting and not self._is_closed:
                self._sending = asyncio.create_task(self._send_all())

    async def _send(self, batch: list[_Asked]) -> None:
        self.batches += 1
        unanswered, again = deque(batch), list[_Asked]()

        def answered(reply: Any) -> None:
            asked = unanswered.popleft()
            if not self._settle(asked, reply):
                again.append(asked)

        try:
            replies = await self._way.run([asked.command for asked in batch], answered)
        except (RedisError, OSError, TimeoutError) as error:
            await self._try_again([*again, *unanswered], error)
            return
        if self._failures:
            _log.warning("Redis answers again")
            self._failures = 0
            if self.on_return is not None and self._looking is None:
                self._looking = asyncio.ensure_future(self._look(self.on_return))
        if again:
            await self._try_again(again, None)
        elif any(isinstance(reply, Exception) and said(reply).startswith("NOAUTH") for reply in replies):
            await self._way.drop()

    async def _look(self, on_return: Callable[[], Awaitable[None]]) -> None:
        try:
            await on_return()
        finally:
            self._looking = None

    def _settle(self, asked: _Asked, reply: Any) -> bool:
        """Hand the reply over; False if the command is to be sent again."""
        if not isinstance(reply, Exception):
            if not asked.answer.done():
                asked.answer.set_result(reply)
            return True
        text = said(reply)
        if text.startswith("NOSCRIPT") and asked.script is not None:
            asked.command = ("EVAL", asked.script.source, *asked.command[2:])
            return False
        if text.startswith(_PASSING) and asyncio.get_running_loop().time() < asked.until:
            return False
        _refuse(asked, _unavailable(reply))
        return True

    async def _try_again(self, batch: list[_Asked], error: Exception | None) -> None:
        """Put a batch back in front, unless its time is over; pause when Redis was not to be had."""
        now = asyncio.get_running_loop().time()
        if error is not None:
            if not self._failures:
                _log.warning("Redis does not answer", extra={"reason": type(error).__name__})
            self._failures += 1
        for asked in reversed(batch):
            if now < asked.until:
                self._waiting.appendleft(asked)
            else:
                _refuse(asked, _unavailable(error or TimeoutError("it was not ready in time")))
        is_learning = error is None and all(asked.command[0] == "EVAL" for asked in batch)
        if not is_learning:
            await self._way.drop()  # the next connection finds the primary of today
            await asyncio.sleep(_PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)] or _PAUSES_S[1])


def said(error: BaseException) -> str:
    """The words of Redis, with the code that the library takes off some of them."""
    text = str(error)
    if "unauthenticated" in text:
        return f"NOAUTH {text}"
    code = {
        "NoScriptError": "NOSCRIPT ",
        "ReadOnlyError": "READONLY ",
        "BusyLoadingError": "LOADING ",
        "OutOfMemoryError": "OOM ",
        "MasterDownError": "MASTERDOWN ",
        "ClusterDownError": "CLUSTERDOWN ",
        "TryAgainError": "TRYAGAIN ",
        "MovedError": "MOVED ",
        "AskError": "ASK ",
        "AuthenticationError": "NOAUTH ",
        "NoPermissionError": "NOPERM ",
    }.get(type(error).__name__, "")
    return code + text.removeprefix(code)


def _refuse(asked: _Asked, error: Exception) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)


_MEANINGS = {
    "OOM": ("Redis has no memory left (OOM)", "Raise its maxmemory, or let data expire sooner."),
    "NOAUTH": ("Redis refuses the password (NOAUTH)", "Correct it in the server's --redis and restart the server."),
    "WRONGPASS": ("Redis refuses the password (WRONGPASS)", "Correct it in the server's --redis."),
    "NOPERM": ("the user of the Redis URL may not do this (NOPERM)", "Give it all commands on the keys of the prefix."),
    "READONLY": ("this Redis is a read-only replica (READONLY)", ""),
    "LOADING": ("Redis is loading its data (LOADING)", ""),
    "MISCONF": ("Redis cannot write to its disk (MISCONF)", "See the log of Redis; its disk may be full."),
    "NOREPLICAS": ("Redis has too few replicas to accept writes (NOREPLICAS)", ""),
}


def _unavailable(error: Exception) -> Unavailable:
    text = said(error)
    for code, (meaning, hint) in _MEANINGS.items():
        if text.startswith(code):
            return Unavailable(meaning, hint=hint)
    if isinstance(error, ResponseError):
        _log.error("Redis refused a command", extra={"reason": text[:200]})
        return Unavailable(f"Redis refused a command ({text.split(' ', 1)[0][:40]})")
    if "max number of clients" in text:
        return Unavailable("Redis takes no more connections", hint="Raise its maxclients.")
    return Unavailable("Redis does not answer")
