"""Many waiting callers, few round trips: what gathers while one batch is on its way goes together in the next.

There is no timer: a lone item goes at once, and the trip that is under way is the window in which others gather.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from asman.errors import StorageFull, Unavailable

__all__ = ["Batches"]

_BATCH_BYTES = 4 << 20
_WAITING_BYTES = 64 << 20

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    key: Hashable
    size_bytes: int
    future: asyncio.Future[Answer]


class Batches(Generic[Item, Answer]):
    """Carries items in batches, one batch per lane at a time.

    Shape:  ``carry`` answers in the order of its items, or raises for all of them, with nothing done. Two items of one
            key never go together. One lane keeps the order of the callers.
    Errors: Unavailable, at once, above ``limit`` waiting items or 64 MiB of them. What is wrong with one item must not
            hurt the others: a batch that is refused is tried again item by item.
    """

    def __init__(
        self,
        carry: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        *,
        lanes: int,
        size: int,
        limit: int = 10_000,
    ) -> None:
        self._carry = carry
        self._size = size
        self._limit = limit
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._waiting_bytes = 0
        self._free = lanes
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item, *, key: Hashable, size_bytes: int) -> Answer:
        """Have it carried, and wait for the answer. A caller that goes away does not stop what is under way."""
        total_bytes = self._waiting_bytes + size_bytes
        if len(self._waiting) >= self._limit or total_bytes > max(_WAITING_BYTES, size_bytes):
            raise Unavailable(
                f"{len(self._waiting)} requests with {self._waiting_bytes} bytes wait for the database; at most"
                f" {self._limit} with {_WAITING_BYTES} bytes may"
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, key, size_bytes, future)
        self._waiting.append(waiting)
        self._waiting_bytes = total_bytes
        if self._free:
            self._free -= 1
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def close(self) -> None:
        """Wait for what is under way and what waits."""
        while self._running:
            await asyncio.wait(self._running)

    async def _run(self) -> None:
        try:
            while batch := self._gather():
                await self._deliver(batch)
        finally:
            self._free += 1  # at once: the callers that were answered may already be asking again

    def _gather(self) -> list[_Waiting[Item, Answer]]:
        batch: list[_Waiting[Item, Answer]] = []
        keys: set[Hashable] = set()
        left: list[_Waiting[Item, Answer]] = []
        size_bytes = 0
        while self._waiting and len(batch) < self._size and size_bytes < _BATCH_BYTES:
            waiting = self._waiting.popleft()
            if waiting.key in keys:
                left.append(waiting)
                continue
            keys.add(waiting.key)
            size_bytes += waiting.size_bytes
            batch.append(waiting)
        self._waiting.extendleft(reversed(left))
        self._waiting_bytes -= size_bytes
        return batch

    async def _deliver(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._carry([waiting.item for waiting in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, (Unavailable, StorageFull)):
                for waiting in batch:
                    await self._deliver([waiting])
                return
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(answer)
