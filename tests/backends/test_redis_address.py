"""What Redis URLs mean, and that each kind of them reaches a Redis."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import asman_redis
from asman.config import Config
from asman.errors import ConfigError, Unavailable
from asman.plugins import load_plugins, open_job_store, open_notifier
from asman.testing import make_job
from asman_redis.address import read_address
from asman_redis.jobs import RedisJobStore
from asman_redis.notifier import RedisNotifier
from redis_server import redis_server, redis_with_sentinel, until


@pytest.mark.parametrize(
    ("url", "kind", "prefix", "plain", "hosts", "service", "options"),
    [
        ("redis://h:1/2", "single", "asman", "redis://h:1/2", (), "", {}),
        ("rediss://u:p@h?prefix=team&db=3", "single", "team", "rediss://u:p@h?db=3", (), "", {}),
        ("unix:///run/r.sock?db=3", "single", "asman", "unix:///run/r.sock?db=3", (), "", {}),
        (
            "redis+sentinel://:p%40@a,b:1,[::1]:2/mine/4?prefix=x",
            "sentinel",
            "x",
            "",
            (("a", 26379), ("b", 1), ("::1", 2)),
            "mine",
            {"username": None, "password": "p@", "db": 4},
        ),
        ("rediss+cluster://a:1", "cluster", "asman", "", (("a", 1),), "", {"ssl": True}),
    ],
)  # fmt: skip
def test_urls_are_read(
    url: str, kind: str, prefix: str, plain: str, hosts: object, service: str, options: dict[str, object]
) -> None:
    found = read_address(url)
    assert (found.kind, found.prefix, found.url, found.hosts, found.service) == (kind, prefix, plain, hosts, service)
    assert found.options == options


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+cluster://h?replicas=1", "cannot be waited for"),
        ("redis://h?replicas=all", 'number of replicas "all"'),
        ("redis+tape://h", "is no way to reach Redis"),
        ("redis+sentinel://h", "names no service"),
        ("redis+sentinel:///mine", "names no host"),
        ("redis+cluster://h/3", 'has no database "3"'),
        ("redis+cluster://h:x", 'the port "x"'),
        ("redis+cluster://h?colour=red", 'unknown parameter "colour"'),
        ("redis://h?prefix=", "is empty or holds braces"),
        ("redis://h?prefix={x}", "is empty or holds braces"),
        ("redis://h:port/0", "cannot be read"),
    ],
)
async def test_urls_that_mean_nothing_are_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        async with RedisJobStore(url):
            pass


def test_other_urls_are_left_to_others() -> None:
    for url in ("memory:", "redis:relative", "s3://x", "sqlite:///x"):
        assert asman_redis.asman_job_store(url, Config()) is None
        assert asman_redis.asman_notifier(url, Config()) is None


@pytest.mark.parametrize("scheme", sorted(asman_redis.asman_schemes()))
def test_every_listed_scheme_is_taken(scheme: str) -> None:
    url = f"{scheme}://h/mine" if "sentinel" in scheme else f"{scheme}://h"
    plugins = load_plugins([asman_redis], discover=False)
    assert isinstance(open_job_store(plugins, url, Config()), RedisJobStore)
    assert isinstance(open_notifier(plugins, url, Config()), RedisNotifier)


async def test_a_unix_socket_reaches_redis(tmp_path: Path) -> None:
    with redis_server("--unixsocket", str(tmp_path / "r.sock")):
        async with RedisJobStore(f"unix://{tmp_path}/r.sock") as store:
            job = make_job("q")
            await store.save(job, expected=0)
            assert await store.load("q", job.job_id) == job


async def test_a_user_with_a_password_reaches_redis() -> None:
    with redis_server(password="sesame/street") as server:
        url = f"redis://:sesame%2Fstreet@127.0.0.1:{server.port}"
        async with RedisJobStore(url) as store:
            assert await store.counts(None) == {}


async def test_the_next_primary_is_used_after_a_failover() -> None:
    with redis_with_sentinel() as (url, primary, _):
        async with RedisJobStore(url) as store, RedisNotifier(url) as ours, RedisNotifier(url) as theirs:
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            await theirs.subscribe("t", heard.put_nowait)
            first, second = make_job("q"), make_job("q")
            await store.save(first, expected=0)
            with closing(primary.client) as client:
                until("the replica is in step", lambda: _is_in_step(client.info("replication")))
            primary.kill()
            await _until_saved(store, second)
            assert await store.load("q", first.job_id) == first
            assert len(await store.find(second.job_id)) == 1
            async with asyncio.timeout(20):
                while heard.empty():
                    await ours.publish("t", b"after")
                    await asyncio.sleep(0.05)


def _is_in_step(told: dict[str, Any]) -> bool:
    return bool(told["slave0"]["offset"] == told["master_repl_offset"])


async def test_nothing_is_acknowledged_that_the_replicas_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asman_redis.opening._START_S", 0.5)
    with redis_server() as primary:
        url = f"{primary.url}?replicas=1"
        with pytest.raises(ConfigError, match="replicas did not confirm"):
            async with RedisJobStore(url):
                pass
        with redis_server("--replicaof", f"127.0.0.1 {primary.port}") as replica, closing(replica.client) as client:
            until("the replica is in step", lambda: client.info("replication")["master_link_status"] == "up")
            async with RedisJobStore(url) as store:
                job = make_job("q")
                await store.save(job, expected=0)
                assert client.zcard(f"{store._keys.of('q')[0]}all") == 1
                replica.pause()
                with pytest.raises(Unavailable):
                    await store.save(make_job("q"), expected=0)
                replica.resume()
                await _until_saved(store, make_job("q"))


async def _until_saved(store: RedisJobStore, job: object) -> None:
    """Repeating is always safe: it may have been saved already."""
    async with asyncio.timeout(30):
        while True:
            try:
                await store.save(job, expected=0)  # type: ignore[arg-type]
                return
            except Unavailable:
                await asyncio.sleep(0.05)
