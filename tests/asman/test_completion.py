from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asman.completion import to_the_end
from asman.errors import Conflict


class Work:
    """Two parts with a gate between them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self.gate = asyncio.Event(), asyncio.Event()
        self.parts, self.error = 0, error

    async def do(self) -> str:
        self.parts += 1
        self.began.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.parts += 1
        return "done"


async def _cancelled(work: Work, undo: Callable[[str], Coroutine[Any, Any, None]] | None = None) -> asyncio.Task[str]:
    """A caller that was cancelled between the two parts."""
    caller = asyncio.create_task(to_the_end(work.do(), undo))
    await asyncio.wait_for(work.began.wait(), 5)
    caller.cancel()
    await asyncio.sleep(0)
    return caller


async def test_without_a_cancellation_it_is_a_plain_call() -> None:
    work, undone = Work(), []

    async def undo(result: str) -> None:
        undone.append(result)

    work.gate.set()
    assert await to_the_end(work.do(), undo) == "done"
    assert undone == []
    failing = Work(Conflict("somebody was faster"))
    failing.gate.set()
    with pytest.raises(Conflict, match="somebody was faster"):
        await to_the_end(failing.do())


async def test_a_cancelled_caller_leaves_when_the_work_is_over_however_often_it_is_cancelled() -> None:
    work = Work()
    caller = await _cancelled(work)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not caller.done()
    work.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 5)
    assert work.parts == 2


async def test_a_caller_that_is_cancelled_before_it_waits_does_the_work_too() -> None:
    work = Work()
    work.gate.set()

    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await to_the_end(work.do())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(call())
    assert work.parts == 2


async def test_what_nobody_receives_is_undone_to_the_end() -> None:
    work, undoing, may_end, undone = Work(), asyncio.Event(), asyncio.Event(), []

    async def undo(result: str) -> None:
        undoing.set()
        await may_end.wait()
        undone.append(result)

    caller = await _cancelled(work, undo)
    work.gate.set()
    await asyncio.wait_for(undoing.wait(), 5)
    caller.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 5)
    assert undone == ["done"]


async def test_work_that_failed_is_not_undone_and_is_the_cause_of_the_cancellation() -> None:
    undone = []

    async def undo(result: str) -> None:
        undone.append(result)

    work = Work(Conflict("somebody was faster"))
    caller = await _cancelled(work, undo)
    work.gate.set()
    with pytest.raises(asyncio.CancelledError) as raised:
        await caller
    assert raised.value.__cause__ is work.error
    assert undone == []


async def test_a_deadline_of_the_caller_is_still_a_deadline() -> None:
    work = Work()
    asyncio.get_running_loop().call_later(0.05, work.gate.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await to_the_end(work.do())
    assert work.parts == 2
