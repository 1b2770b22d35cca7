from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from asman.gathering import ANSWER_S, Hours
from asman.job import State, absent
from asman.memory import MemoryNotifier
from asman.recent import Recent

NOW = 1_000_000.0
NEW = absent("q", "j")
QUEUED = replace(NEW, state=State.QUEUED, generation=1, changed_at=NOW)


class Between:
    """A notifier between servers: what is published arrives a moment later."""

    def __init__(self) -> None:
        self._within = MemoryNotifier()
        self._sending: set[asyncio.Task[None]] = set()
        self.published: list[bytes] = []

    async def __aenter__(self) -> Between:
        await self._within.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._within.__aexit__(None, None, None)

    async def publish(self, topic: str, data: bytes) -> None:
        self.published.append(data)
        task = asyncio.create_task(self._later(topic, data))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _later(self, topic: str, data: bytes) -> None:
        await asyncio.sleep(0.01)
        await self._within.publish(topic, data)

    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        await self._within.subscribe(topic, deliver)

    async def unsubscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        await self._within.unsubscribe(topic, deliver)


def counting(jobs: int) -> Recent:
    recent = Recent(NOW)
    for _ in range(jobs):
        recent.count(NEW, QUEUED, NOW)
    return recent


@asynccontextmanager
async def server(notifier: Between, name: str, jobs: int) -> AsyncIterator[Hours]:
    hours = Hours(notifier, counting(jobs), server=name, is_alone=False, clock=lambda: NOW)
    await hours.open()
    try:
        yield hours
    finally:
        await hours.close()


async def submitted(hours: Hours) -> tuple[int, int, float]:
    """(jobs, servers, seconds it took)."""
    began = asyncio.get_running_loop().time()
    gathered = await hours.gather("q")
    took = asyncio.get_running_loop().time() - began
    return sum(minute.submitted for minute in gathered.hour.minutes.values()), gathered.servers, took


async def test_what_all_servers_counted_is_summed_up() -> None:
    async with Between() as notifier:
        async with server(notifier, "a", 1) as a, server(notifier, "b", 10) as b, server(notifier, "c", 100):
            assert (await submitted(a))[:2] == (111, 3)
            assert (await submitted(b))[:2] == (111, 3)


async def test_who_has_answered_before_is_waited_for_and_no_longer() -> None:
    async with Between() as notifier, server(notifier, "a", 1) as a:
        async with server(notifier, "b", 10):
            assert (await submitted(a))[2] >= ANSWER_S, "nobody is known yet: somebody may be there"
            jobs, servers, took = await submitted(a)
            assert (jobs, servers) == (11, 2)
            assert took < ANSWER_S / 2
            async with server(notifier, "c", 100):
                await submitted(a)  # c was not expected, and is from now on
                await asyncio.sleep(0.05)
                assert (await submitted(a))[:2] == (111, 3)
        assert (await submitted(a))[:2] == (1, 1), "they are gone"


async def test_a_server_alone_asks_nobody() -> None:
    async with MemoryNotifier() as notifier:
        heard: list[bytes] = []
        await notifier.subscribe("recent", heard.append)
        hours = Hours(notifier, counting(3), server="a", is_alone=True, clock=lambda: NOW)
        await hours.open()
        jobs, servers, took = await submitted(hours)
        assert (jobs, servers) == (3, 1)
        assert took < ANSWER_S / 2
        assert not heard


async def test_an_answer_is_no_larger_after_many_jobs() -> None:
    async with Between() as notifier:
        async with server(notifier, "a", 0) as a, server(notifier, "b", 50_000):
            assert (await submitted(a))[0] == 50_000
            assert max(map(len, notifier.published)) < 500
