"""One container from create to exit: attach, start, stream, wait, and an end at its deadline.

Order decides here. Attach before start, so that no first byte is lost; the output is complete at the end of the
stream, not when the exit is known; at the deadline TERM, the grace, KILL, and only then are the last lines collected.

If the connection to the engine breaks while a job runs, the job is not lost: the engine is asked again how it ended,
and its stored log is read from the start, skipping what has been seen.

Source: contract, "Running"; Docker Engine API v1.41.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from asman.errors import AsmanError, Unavailable
from asman_worker.docker import ContainerState, Engine, EngineError
from asman_worker.logs import LogPump

__all__ = ["KILLED", "ContainerLost", "Exit", "follow_container", "insist", "remaining_s", "run_container"]

KILLED = 137
"""The exit code of a process that was ended by SIGKILL."""

_LAST_BYTES_S = 10.0
_ENGINE_BACK_S = 60.0
_KILL_S = 60.0
_OOM_NOTICE_S = 0.3
_RETRY_S = 1.0

T = TypeVar("T")


class ContainerLost(AsmanError):
    """The container is gone, or out of control, and nobody knows how it ended."""

    code = "container_lost"
    hint = "Somebody removed it, or the engine lost its state; submit the job again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a container ended. Units: seconds."""

    code: int
    duration_s: float
    timed_out: bool
    oom_killed: bool


async def run_container(
    engine: Engine,
    body: Mapping[str, Any],
    pump: LogPump,
    *,
    limit_s: float,
    grace_s: float,
    start_gate: asyncio.Semaphore,
    at_step: Callable[[str], None],
) -> Exit:
    """Create, attach, start, and stay with it to its end. Whoever calls removes it, also if a step fails.

    Shape:  ``at_step`` is told the step that begins: ``create``, ``start``, ``wait``.
    Errors: EngineError if it cannot be created or started; ContainerLost; Unavailable.
    """
    at_step("create")
    container = await engine.create(body)
    async with engine.attach(container) as chunks:
        async with start_gate:
            at_step("start")
            await engine.start(container)
        at_step("wait")
        return await _Watch(engine, container, pump).stay(chunks, limit_s, grace_s)


async def follow_container(engine: Engine, container: str, pump: LogPump, *, limit_s: float, grace_s: float) -> Exit:
    """Take up a container that has been started before: its log from the start, then its end.

    Shape:  ``limit_s`` counts from the container's own start.
    Errors: ContainerLost; Unavailable.
    """
    state = await insist(lambda: engine.inspect(container))
    if state is None:
        raise ContainerLost("the container is not there any more")
    end = await _Watch(engine, container, pump).stay(None, remaining_s(state, limit_s), grace_s)
    if end.duration_s >= limit_s and not end.timed_out:
        return Exit(code=end.code, duration_s=end.duration_s, timed_out=True, oom_killed=end.oom_killed)
    return end


def remaining_s(state: ContainerState, limit_s: float) -> float:
    """What is left of a limit that counts from the container's start."""
    return max(0.0, limit_s - (time.time() - state.started_at)) if state.started_at else limit_s


async def insist(ask: Callable[[], Awaitable[T]], lost: Callable[[], None] = lambda: None) -> T:
    """Ask again while the engine cannot be reached, for a minute: engines restart, and containers may survive it.

    Shape:  ``lost`` is called whenever an answer did not come.
    Errors: Unavailable after that minute.
    """
    loop = asyncio.get_running_loop()
    give_up_at: float | None = None
    while True:
        asked_at = loop.time()
        try:
            return await ask()
        except Unavailable:
            now = loop.time()
            lost()
            if give_up_at is None or now - asked_at > _ENGINE_BACK_S:
                give_up_at = now + _ENGINE_BACK_S
            if now >= give_up_at:
                raise
        await asyncio.sleep(_RETRY_S)


class _Watch:
    """One started container under observation."""

    def __init__(self, engine: Engine, container: str, pump: LogPump) -> None:
        self._engine = engine
        self._container = container
        self._pump = pump
        self._lost_contact = False

    async def stay(self, chunks: AsyncIterator[bytes] | None, limit_s: float, grace_s: float) -> Exit:
        """Until it has ended and its last bytes are here."""
        reader = asyncio.create_task(self._read(chunks), name=f"log of {self._container[:12]}")
        try:
            timed_out = await self._wait(limit_s, grace_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader, _LAST_BYTES_S)
            if self._lost_contact and chunks is not None:
                await self._read_stored()
        finally:
            reader.cancel()
            await asyncio.wait([reader])
        state = await insist(lambda: self._engine.inspect(self._container))
        if state is None:
            raise ContainerLost("the container was removed before its result could be read")
        return Exit(
            code=state.exit_code,
            duration_s=max(0.0, state.finished_at - state.started_at),
            timed_out=timed_out,
            oom_killed=state.oom_killed or (not timed_out and await self._oom_was_late(state)),
        )

    async def _oom_was_late(self, state: ContainerState) -> bool:
        """Was a killed container out of memory after all? The engine may hear of its end first."""
        if state.exit_code != KILLED:
            return False
        await asyncio.sleep(_OOM_NOTICE_S)
        try:
            return await self._engine.has_run_out_of_memory(self._container, state.started_at)
        except (EngineError, Unavailable):
            return False

    async def _wait(self, limit_s: float, grace_s: float) -> bool:
        """Wait for the end, and bring it about at the limit. True if it had to be."""
        try:
            async with asyncio.timeout(limit_s):
                await self._ended()
        except TimeoutError:
            return await self._end(grace_s)
        return False

    async def _end(self, grace_s: float) -> bool:
        state = await insist(lambda: self._engine.inspect(self._container))
        if state is None or not state.running:
            return False
        with contextlib.suppress(EngineError):
            await insist(lambda: self._engine.stop(self._container, grace_s), self._lose_contact)
        try:
            async with asyncio.timeout(_KILL_S):
                await self._ended()
        except TimeoutError as error:
            raise ContainerLost(f"the container did not end within {_KILL_S:.0f} s after it was killed") from error
        return True

    async def _ended(self) -> None:
        try:
            await insist(lambda: self._engine.wait(self._container), self._lose_contact)
        except EngineError as error:
            if error.status == 404:
                raise ContainerLost("the container was removed while it ran") from error
            raise

    def _lose_contact(self) -> None:
        self._lost_contact = True

    async def _read(self, chunks: AsyncIterator[bytes] | None) -> None:
        """Feed the pump to the end of the attached stream; without one, or after it broke, from the stored log."""
        if chunks is None or not await self._drain(chunks, stored=False):
            await self._read_stored()

    async def _read_stored(self) -> None:
        """The whole log from its start; the pump leaves out what it has had."""
        while True:
            self._pump.restart()
            try:
                async with self._engine.logs(self._container) as chunks:
                    if await self._drain(chunks, stored=True):
                        return
            except EngineError as error:
                self._pump.add(f"[asman] the rest of the log cannot be read: {error.message}")
                return
            except Unavailable:
                self._lose_contact()
            await asyncio.sleep(_RETRY_S)

    async def _drain(self, chunks: AsyncIterator[bytes], *, stored: bool) -> bool:
        """True at the end of the stream, False if the connection broke before."""
        try:
            async for chunk in chunks:
                self._pump.feed(chunk, stored=stored)
        except aiohttp.ClientError:
            return False
        return True
