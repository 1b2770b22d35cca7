"""One container from create to exit: attach, start, stream, wait, and an end at its deadline.

Order decides here. Attach before start, so that no first byte is lost; the output is complete at the end of the
stream, not when the exit is known; at the deadline TERM, the grace, KILL, and only then are the last lines collected.

If the connection to the engine breaks while a job runs, the job is not lost: its stored log is read from the start,
skipping what has been seen, and the engine is asked again how it ended.

Source: contract, "Running"; Docker Engine API v1.41.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from asman.errors import AsmanError, Unavailable

from asman_worker.docker import ContainerState, Engine, EngineError
from asman_worker.logs import LogPump

__all__ = ["ContainerLost", "Exit", "follow_container", "remaining_s", "run_container"]

_LAST_BYTES_S = 10.0
_ENGINE_BACK_S = 60.0
_RETRY_S = 1.0

T = TypeVar("T")


class ContainerLost(AsmanError):
    """The container is gone, and nobody knows how it ended."""

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
    created: Callable[[str], None],
) -> Exit:
    """Create, attach, start, and stay with it to its end.

    Shape:  ``created`` is told the container's id as soon as it has one: whoever called removes it, also if a later
            step fails.
    Errors: EngineError if it cannot be created or started; ContainerLost.
    """
    container = await engine.create(body)
    created(container)
    async with engine.attach(container) as chunks:
        async with start_gate:
            await engine.start(container)
        return await _stay(engine, container, pump, chunks, limit_s=limit_s, grace_s=grace_s)


async def follow_container(engine: Engine, container: str, pump: LogPump, *, limit_s: float, grace_s: float) -> Exit:
    """Take up a container that has been started before: its log from the start, then its end.

    Shape:  ``limit_s`` counts from the container's own start.
    Errors: ContainerLost.
    """
    state = await engine.inspect(container)
    if state is None:
        raise ContainerLost("the container is not there any more")
    left_s = remaining_s(state, limit_s)
    return await _stay(engine, container, pump, None, limit_s=left_s, grace_s=grace_s)


def remaining_s(state: ContainerState, limit_s: float) -> float:
    """What is left of a limit that counts from the container's start."""
    return max(0.0, limit_s - (time.time() - state.started_at)) if state.started_at else limit_s


async def _stay(
    engine: Engine,
    container: str,
    pump: LogPump,
    chunks: AsyncIterator[bytes] | None,
    *,
    limit_s: float,
    grace_s: float,
) -> Exit:
    reader = asyncio.create_task(_read(engine, container, pump, chunks), name=f"log of {container[:12]}")
    try:
        timed_out = await _wait(engine, container, limit_s, grace_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader, _LAST_BYTES_S)
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    state = await _insist(lambda: engine.inspect(container))
    if state is None:
        raise ContainerLost("the container was removed before its result could be read")
    return Exit(
        code=state.exit_code,
        duration_s=max(0.0, state.finished_at - state.started_at),
        timed_out=timed_out,
        oom_killed=state.oom_killed,
    )


async def _wait(engine: Engine, container: str, limit_s: float, grace_s: float) -> bool:
    """Wait for the end, and bring it about at the limit. True if it had to be."""
    try:
        async with asyncio.timeout(limit_s):
            await _ended(engine, container)
    except TimeoutError:
        state = await _insist(lambda: engine.inspect(container))
        if state is None or not state.running:
            return False
        await _insist(lambda: engine.stop(container, grace_s))
        await _ended(engine, container)
        return True
    return False


async def _ended(engine: Engine, container: str) -> None:
    try:
        await _insist(lambda: engine.wait(container))
    except EngineError as error:
        if error.status == 404:
            raise ContainerLost("the container was removed while it ran") from error
        raise


async def _insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the engine cannot be reached, for a minute: engines restart, and containers may survive it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ENGINE_BACK_S
    while True:
        asked_at = loop.time()
        try:
            return await ask()
        except Unavailable:
            if asked_at - loop.time() < -_ENGINE_BACK_S:
                deadline = loop.time() + _ENGINE_BACK_S
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(_RETRY_S)


async def _read(engine: Engine, container: str, pump: LogPump, chunks: AsyncIterator[bytes] | None) -> None:
    """Feed the pump to the end of the stream, from the attached stream first, else (and after a break) the stored."""
    if chunks is not None and await _drain(chunks, pump, stored=False):
        return
    pump.restart()
    while True:
        with contextlib.suppress(Unavailable):
            async with _stored(engine, container) as stored:
                if await _drain(stored, pump, stored=True):
                    return
        pump.restart()
        await asyncio.sleep(_RETRY_S)


def _stored(engine: Engine, container: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    return engine.logs(container)


async def _drain(chunks: AsyncIterator[bytes], pump: LogPump, *, stored: bool) -> bool:
    """True at the end of the stream, False if the connection broke before."""
    try:
        async for chunk in chunks:
            pump.feed(chunk, stored=stored)
    except aiohttp.ClientError:
        return False
    return True
