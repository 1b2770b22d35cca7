"""Messages between servers: what is lost is told, and a Redis that is away hurts nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from asman_redis.notifier import RedisNotifier
from cut_proxy import CutProxy, cut_proxy
from redis_server import RedisServer, redis_server


@pytest.fixture
def server() -> AsyncIterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[CutProxy]:
    async with cut_proxy(server.port) as between:
        yield between


async def test_after_a_cut_the_gap_is_told_and_all_topics_are_heard_again(server: RedisServer, proxy: CutProxy) -> None:
    async with RedisNotifier(f"redis://127.0.0.1:{proxy.port}") as ours, RedisNotifier(server.url) as theirs:
        gaps: asyncio.Queue[None] = asyncio.Queue()
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        ours.on_gap(lambda: gaps.put_nowait(None))
        for topic in ("a", "b"):
            await ours.subscribe(topic, heard.put_nowait)
        proxy.cut()
        await theirs.publish("a", b"lost")
        proxy.mend()
        await asyncio.wait_for(gaps.get(), 10)
        for topic in ("a", "b"):
            await theirs.publish(topic, topic.encode())
        assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == [b"a", b"b"]
        assert gaps.empty()


async def test_a_stalled_connection_is_found_and_made_anew(
    server: RedisServer, proxy: CutProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asman_redis.notifier._PING_S", 0.2)
    async with RedisNotifier(f"redis://127.0.0.1:{proxy.port}") as ours:
        told = asyncio.Event()
        ours.on_gap(told.set)
        await ours.subscribe("a", lambda data: None)
        proxy.stall()
        await asyncio.sleep(0.5)
        proxy.mend()
        proxy.close_connections()
        await asyncio.wait_for(told.wait(), 10)


async def test_without_redis_a_message_still_reaches_this_server(server: RedisServer, proxy: CutProxy) -> None:
    async with RedisNotifier(f"redis://127.0.0.1:{proxy.port}") as ours:
        heard: list[bytes] = []
        await ours.subscribe("a", heard.append)
        proxy.cut()
        await ours.publish("a", b"here")
        assert heard == [b"here"]


async def test_subscribing_without_redis_is_no_error_and_works_later(server: RedisServer) -> None:
    async with cut_proxy(server.port) as proxy:
        proxy.cut()
        async with RedisNotifier(f"redis://127.0.0.1:{proxy.port}") as ours, RedisNotifier(server.url) as theirs:
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            await ours.subscribe("a", heard.put_nowait)
            proxy.mend()
            async with asyncio.timeout(10):
                while heard.empty():
                    await theirs.publish("a", b"x")
                    await asyncio.sleep(0.05)


async def test_subscribing_anew_after_nobody_was_subscribed(server: RedisServer) -> None:
    async with RedisNotifier(server.url) as ours, RedisNotifier(server.url) as theirs:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        gaps: list[None] = []
        ours.on_gap(lambda: gaps.append(None))
        for _ in range(3):
            await ours.subscribe("a", heard.put_nowait)
            await theirs.publish("a", b"x")
            assert await asyncio.wait_for(heard.get(), 10) == b"x"
            await ours.unsubscribe("a", heard.put_nowait)
        assert gaps == [], "nobody listened, so nobody missed anything"


async def test_coming_and_going_of_the_last_listener_never_meets_a_closing_connection(server: RedisServer) -> None:
    async with RedisNotifier(server.url) as ours:
        for number in range(60):
            topic = f"t{number}"
            await ours.subscribe(topic, print)
            await asyncio.gather(
                ours.unsubscribe(topic, print), ours.subscribe("other", print), ours.unsubscribe("other", print)
            )
        assert ours._subscribers == {}
