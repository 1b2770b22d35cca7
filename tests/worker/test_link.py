"""One websocket: addresses, waits, heartbeat, confirmation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from asman_worker import link
from asman_worker.link import Backoff, Connection, Disconnected, connections, socket_url
from worker_peers import ScriptedServer


def test_the_address_of_a_queue_follows_the_servers() -> None:
    assert socket_url("http://localhost:8000", "a") == "ws://localhost:8000/q/a/worker?protocol=2"
    assert socket_url("https://x.example/base", "a b/c") == "wss://x.example/base/q/a%20b%2Fc/worker?protocol=2"


def test_the_first_try_is_at_once_and_then_waits_grow_to_a_bound() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    waits = [backoff.next_s() for _ in range(9)]
    assert waits == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    backoff.succeeded()
    assert [backoff.next_s(), backoff.next_s()] == [0.0, 0.2]
    backoff.calm_down()
    assert backoff.next_s() == 10.0


def test_waits_are_spread_over_the_whole_bound() -> None:
    backoff = Backoff(chance=lambda: 0.5)
    assert [backoff.next_s() for _ in range(3)] == [0.0, 0.1, 0.2]


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Connection]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        found = connections(session, socket_url(url, "first"), backoff=Backoff(chance=lambda: 0.0))
        yield await anext(found)
        await found.aclose()


async def test_a_pong_confirms_what_was_sent_before_its_ping_and_no_more(server: ScriptedServer) -> None:
    async with _opened(server.url) as connection:
        before = await connection.send("One", {})
        await connection.ping()
        after = await connection.send("Two", {})
        assert connection.confirmed == 0
        assert (await anext(connection.messages()))[0] == "PONG"
        assert before <= connection.confirmed < after


async def test_a_silent_server_is_given_up_and_one_that_answers_is_not(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(link, "SILENCE_LIMIT_S", 0.3)
    async with _opened(server.url) as connection:
        peer = await server.arrival()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.keep_alive())
            pongs = 0
            async for kind, _ in connection.messages():
                assert kind == "PONG"
                pongs += 1
                peer.answers_pings = pongs < 12
    assert pongs >= 12, "twelve pings take longer than the silence that is allowed"


async def test_sending_over_a_closed_connection_says_so(server: ScriptedServer) -> None:
    async with _opened(server.url) as connection:
        await connection.send("In time", {})
        await connection.close()
        with pytest.raises(Disconnected):
            await connection.send("Late", {})


async def test_a_server_that_refuses_is_tried_again_and_the_reason_is_told_once(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asman_worker.link")
    server.refuses = True
    waits: list[int] = []

    def chance() -> float:
        waits.append(1)
        server.refuses = len(waits) < 5
        return 0.0

    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        opened = connections(session, socket_url(server.url, "first"), backoff=Backoff(chance=chance))
        connection = await anext(opened)
        await connection.close()
        await opened.aclose()
    told = [record for record in caplog.records if "cannot connect" in record.message]
    assert len(waits) == 5
    assert len(told) == 1
    assert "503" in str(vars(told[0])["reason"])


async def test_another_worker_with_the_same_id_is_told_as_what_it_is(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    backoff = Backoff(chance=lambda: 0.0)
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        opened = connections(session, socket_url(server.url, "first"), backoff=backoff)
        connection = await anext(opened)
        peer = await server.arrival()
        closing = asyncio.ensure_future(peer.socket.close(code=4409))
        assert [message async for message in connection.messages()] == []
        await closing
        await anext(opened)
        await opened.aclose()
    assert "another worker with this id" in caplog.text
