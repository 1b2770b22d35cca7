"""What gathers while a batch is under way goes together in the next; one item's fault hurts nobody else."""

from __future__ import annotations

import asyncio

import pytest

from asman.batches import Batches
from asman.errors import Conflict, Unavailable


class Carrier:
    """Answers each number with itself. Shape: ``trips`` are the batches; ``refused`` are the numbers it raises for."""

    def __init__(self, *refused: int, error: type[Exception] = ValueError) -> None:
        self.trips: list[list[int]] = []
        self.refused = set(refused)
        self.error = error
        self.gate = asyncio.Event()

    async def __call__(self, items: list[int]) -> list[int]:
        self.trips.append(items)
        await self.gate.wait()
        if self.refused & set(items):
            raise self.error("refused")
        return items


async def _asked(batches: Batches[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batches.ask(number, key=number, size_bytes=1)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_goes_together_and_each_gets_its_own_answer() -> None:
    carrier = Carrier()
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=3)
    tasks = await _asked(batches, 1)
    tasks += await _asked(batches, 2, 3, 4, 5)
    carrier.gate.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5]
    assert carrier.trips == [[1], [2, 3, 4], [5]]


async def test_who_is_answered_can_ask_again_at_once() -> None:
    carrier = Carrier()
    carrier.gate.set()
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=3)
    for number in range(5):
        assert await asyncio.wait_for(batches.ask(number, key=0, size_bytes=1), 5) == number


async def test_two_items_of_one_key_never_go_together_and_keep_their_order() -> None:
    carrier = Carrier()
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9)
    asks = [batches.ask(number, key=number % 2, size_bytes=1) for number in (0, 2, 1, 4)]
    tasks = [asyncio.create_task(ask) for ask in asks]
    carrier.gate.set()
    await asyncio.gather(*tasks)
    assert carrier.trips == [[0, 1], [2], [4]]


async def test_fault_of_one_item_is_its_own() -> None:
    carrier = Carrier(2)
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9)
    tasks = await _asked(batches, 1, 2, 3)
    carrier.gate.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == (1, 3)
    assert isinstance(second, ValueError)


async def test_database_that_is_away_is_not_asked_again_for_each_item() -> None:
    carrier = Carrier(2, error=Unavailable)
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9)
    tasks = await _asked(batches, 1, 2, 3)
    carrier.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert carrier.trips == [[1, 2, 3]]


async def test_caller_that_goes_away_stops_neither_its_item_nor_the_others() -> None:
    carrier = Carrier()
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9)
    first, second = await _asked(batches, 1, 2)
    first.cancel()
    carrier.gate.set()
    assert await second == 2
    assert carrier.trips == [[1, 2]]
    assert first.cancelled()


async def test_too_many_waiting_are_refused_at_once_and_taken_again_later() -> None:
    carrier = Carrier(error=Conflict)
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9, limit=2)
    tasks = await _asked(batches, 1)
    tasks += await _asked(batches, 2, 3)
    with pytest.raises(Unavailable, match="2 requests with 2 bytes wait for the database; at most 2"):
        await batches.ask(4, key=4, size_bytes=1)
    carrier.gate.set()
    await asyncio.gather(*tasks)
    assert await batches.ask(5, key=5, size_bytes=1) == 5


async def test_too_many_bytes_are_refused_but_a_lone_large_item_is_taken() -> None:
    carrier = Carrier()
    batches: Batches[int, int] = Batches(carrier, lanes=1, size=9)
    tasks = await _asked(batches, 0)
    tasks.append(asyncio.create_task(batches.ask(1, key=1, size_bytes=65 << 20)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await batches.ask(2, key=2, size_bytes=1)
    carrier.gate.set()
    assert await asyncio.gather(*tasks) == [0, 1]


async def test_close_waits_for_all_that_waits() -> None:
    carrier = Carrier()
    batches: Batches[int, int] = Batches(carrier, lanes=2, size=1)
    tasks = await _asked(batches, 1, 2, 3)
    closing = asyncio.create_task(batches.close())
    await asyncio.sleep(0)
    assert not closing.done()
    carrier.gate.set()
    await asyncio.wait_for(closing, 5)
    assert await asyncio.gather(*tasks) == [1, 2, 3]
