"""What the programs in Redis do to its keys: nothing is left behind, nothing costs more for a longer queue."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from asman.job import State
from asman.testing import make_job
from asman_redis import scripts
from asman_redis.jobs import RedisJobStore
from redis_server import redis_server

SCRIPTS = {name: getattr(scripts, name) for name in scripts.__all__}


@pytest.fixture
def client() -> Iterator[Redis]:
    with redis_server(durable=False) as server, closing(server.client) as client:
        yield client


def url(client: Redis, more: str = "") -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}{more}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_scans(name: str) -> None:
    used = set(re.findall(r"redis\.call\('(\w+)'", SCRIPTS[name].source))
    assert used
    assert not used & {"KEYS", "SCAN", "HSCAN", "ZSCAN", "SSCAN", "SORT", "ZRANGE", "LRANGE", "SMEMBERS", "HGETALL"}


async def test_a_deleted_job_leaves_no_key(client: Redis) -> None:
    async with RedisJobStore(url(client)) as store:
        before = set(client.keys())
        job = make_job("q", namespaces=(("a", 1.0), ("b", 2.0)))
        await store.save(job, expected=0, documents={"definition": b"d"})
        for half in ("build", "run"):
            await store.append_log("q", job.job_id, attempt=1, half=half, lines=[b"x"])
        assert set(client.keys()) > before
        await store.delete("q", job.job_id, expected=1)
        assert set(client.keys()) == before


async def test_prefixes_keep_deployments_apart(client: Redis) -> None:
    async with RedisJobStore(url(client, "?prefix=one")) as one, RedisJobStore(url(client, "?prefix=two")) as two:
        job = make_job("q")
        await one.save(job, expected=0)
        assert await two.load("q", job.job_id) is None
        assert await two.counts(None) == {}
        assert all(key.startswith((b"{one:", b"{two:")) for key in client.scan_iter())


async def _calls(client: Redis, store: RedisJobStore) -> dict[str, int]:
    """Commands that one submit, claim, finish, look and delete run inside Redis."""
    job = make_job("q", queued_at=5e9)
    client.config_resetstat()
    await store.save(job, expected=0, documents={"definition": b"d"})
    await store.list("q", states=[State.QUEUED], shape=job.requirements.shape, limit=1)
    await store.save(make_job("q", job.job_id, queued_at=5e9, version=2, state=State.RUNNING), expected=1)
    await store.save(make_job("q", job.job_id, queued_at=5e9, version=3, state=State.FINISHED), expected=2)
    await store.due(0.0, limit=10)
    await store.counts("q")
    await store.delete("q", job.job_id, expected=3)
    found = client.info("commandstats")
    ours = ("h", "z", "del", "x", "exists", "eval")
    return {name: stat["calls"] for name, stat in found.items() if name.removeprefix("cmdstat_").startswith(ours)}


async def test_an_event_costs_the_same_at_ten_and_at_ten_thousand_queued_jobs(client: Redis) -> None:
    async with RedisJobStore(url(client)) as store:
        await _calls(client, store)  # Redis knows the scripts from here on
        await asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(10)))
        few = await _calls(client, store)
        await asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(10_000)))
        assert await _calls(client, store) == few


async def test_a_role_is_held_by_one_at_a_time_and_passes_on(client: Redis) -> None:
    async with RedisJobStore(url(client)) as one, RedisJobStore(url(client)) as two:
        first = await one.lead("sweep", "one", 60.0)
        assert first is not None
        assert first > 1e9
        assert await two.lead("sweep", "two", 60.0) is None
        again = await one.lead("sweep", "one", 60.0)
        assert again is not None
        assert again < 5.0
        assert await two.lead("other", "two", 60.0) is not None
        assert await two.lead("sweep", "two", 0.0) is not None
        assert await one.lead("sweep", "one", 60.0) is None
