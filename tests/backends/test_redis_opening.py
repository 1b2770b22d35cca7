"""What is looked at when a Redis is opened, and the clock that comes with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from asman.errors import ConfigError
from asman_redis import opening
from asman_redis.jobs import RedisJobStore
from asman_redis.opening import durability_of
from cut_proxy import cut_proxy
from redis_server import free_port, redis_server, until

ALWAYS = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory-policy": "noeviction"}


@pytest.mark.parametrize(
    ("changed", "durability", "says"),
    [
        ({}, "disk", ""),
        ({"appendfsync": "everysec"}, "everysec", "appendfsync always"),
        ({"appendfsync": "no"}, "memory", "appendfsync always"),
        ({"appendonly": "no"}, "memory", "appendonly yes"),
        ({"maxmemory": "100", "maxmemory-policy": "allkeys-lru"}, "memory", "noeviction"),
        ({"maxmemory-policy": "allkeys-lru"}, "disk", ""),
        ({"maxmemory": "100"}, "disk", ""),
    ],
)
def test_the_durability_is_that_of_the_settings(changed: dict[str, str], durability: str, says: str) -> None:
    found, weakness = durability_of([{**ALWAYS, **changed}])
    assert found == durability
    assert says in weakness
    assert bool(says) == bool(weakness)


def test_the_weakest_primary_decides() -> None:
    weak = {**ALWAYS, "appendonly": "no"}
    assert durability_of([ALWAYS, weak, {**ALWAYS, "appendfsync": "everysec"}])[0] == "memory"


@pytest.mark.parametrize(("durable", "durability"), [(True, "disk"), (False, "memory")])
async def test_a_store_tells_what_its_redis_keeps(
    durable: bool, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(durable=durable) as server:
        async with RedisJobStore(server.url) as store:
            assert store.durability == durability
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(warned) == (durability != "disk")


async def test_what_redis_keeps_is_looked_at_again_when_it_comes_back() -> None:
    with redis_server() as server:
        async with RedisJobStore(server.url) as store:
            server.kill()
            server.options = ("--appendonly", "yes", "--appendfsync", "everysec")
            server.start()
            await store.counts(None)
            await asyncio.to_thread(until, "it is known", lambda: store.durability == "everysec", 10.0)


async def test_a_redis_that_does_not_tell_is_taken_for_the_weakest(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server("--rename-command", "CONFIG", "") as server:
        async with RedisJobStore(server.url) as store:
            assert store.durability == "memory"
    assert "does not tell its settings" in caplog.text


async def test_nobody_there_is_a_clear_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_START_S", 0.3)
    with pytest.raises(ConfigError, match="no Redis answers") as caught:
        async with RedisJobStore(f"redis://127.0.0.1:{free_port()}"):
            pass
    assert "--redis" in caught.value.hint


async def test_a_redis_that_starts_a_little_later_is_waited_for() -> None:
    with redis_server() as server:
        server.kill()

        async def start() -> None:
            await asyncio.sleep(0.5)
            server.start(wait=False)

        starting = asyncio.create_task(start())
        async with RedisJobStore(server.url) as store:
            assert await store.counts(None) == {}
        await starting


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_wrong_password_is_said_at_once_and_never_shown(password: str) -> None:
    with redis_server(password="right") as server:
        login = f":{password}@" if password else ""
        began = time.monotonic()
        with pytest.raises(ConfigError, match="Redis refuses") as caught:
            async with RedisJobStore(f"redis://{login}127.0.0.1:{server.port}"):
                pass
        assert time.monotonic() - began < 5
        assert not password or password not in caught.value.message


async def test_keys_of_another_layout_are_refused_and_left_alone() -> None:
    with redis_server() as server, closing(server.client) as client:
        client.set("{asman:0}:layout", "9/4")
        with pytest.raises(ConfigError, match='have the layout "9/4"'):
            async with RedisJobStore(server.url):
                pass
        assert client.keys() == [b"{asman:0}:layout"]
        async with RedisJobStore(f"{server.url}?prefix=other") as store:
            assert await store.counts(None) == {}


@pytest.fixture
async def store() -> AsyncIterator[RedisJobStore]:
    with redis_server() as server:
        async with RedisJobStore(server.url) as opened:
            yield opened


async def test_the_clock_is_that_of_redis(store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(store.clock() - time.time()) < 1.0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert store.clock() > 1e9


async def test_the_clock_never_runs_backwards(store: RedisJobStore) -> None:
    seen = []
    for _ in range(200):
        await store._clock.look(store._redis)
        seen.append(store.clock())
    assert seen == sorted(seen)


async def test_the_clock_goes_on_without_redis() -> None:
    with redis_server() as server:
        async with cut_proxy(server.port) as proxy, RedisJobStore(f"redis://127.0.0.1:{proxy.port}") as store:
            proxy.cut()
            store._clock._tried = float("-inf")
            first = store.clock()
            until("it goes on", lambda: store.clock() > first, 2.0)


async def test_a_redis_of_another_time_is_followed(store: RedisJobStore) -> None:
    store._clock._ahead += 1000.0
    late = store.clock()
    store._clock._at = float("-inf")
    await store._clock.look(store._redis)
    assert 990 < late - store.clock() < 1010
