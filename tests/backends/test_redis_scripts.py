"""What the programs in Redis do to its keys: nothing is left behind, nothing costs more for a longer queue."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from redis import Redis

from asman.job import Requirements, State
from asman.testing import make_job
from asman_redis import scripts
from asman_redis.jobs import RedisJobStore
from redis_server import redis_server

NAMES = ("", "_", " ", "a b", "a", "b:c", '"', "x\ny", "%20", "名前")
SCRIPTS = {name: getattr(scripts, name) for name in scripts.__all__}


@pytest.fixture
def client() -> Iterator[Redis]:
    with redis_server(durable=False) as server, closing(server.client) as client:
        yield client


def url(client: Redis, more: str = "") -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}{more}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_scans(name: str) -> None:
    used = set(re.findall(r"\bcall\('(\w+)'", SCRIPTS[name].source))
    assert used
    assert not used & {"KEYS", "SCAN", "HSCAN", "ZSCAN", "SSCAN", "SORT", "ZRANGE", "LRANGE", "SMEMBERS", "HGETALL"}


async def test_a_deleted_job_leaves_no_key(client: Redis) -> None:
    async with RedisJobStore(url(client)) as store:
        before = set(client.keys())
        job = make_job("q", namespaces=tuple((name, 1.0) for name in NAMES))
        await store.save(job, expected=0, documents={"definition": b"d"})
        for half in ("build", "run"):
            await store.append_log("q", job.job_id, attempt=1, half=half, lines=[b"x"])
        assert set(client.keys()) > before
        assert [await store.in_namespace("q", name) for name in NAMES] == [[job]] * len(NAMES)
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


async def _run_inside(client: Redis, step: Awaitable[None]) -> int:
    """How many commands the scripts of a step run."""
    client.config_resetstat()
    await step
    found = client.info("commandstats")
    ours = [stat["calls"] for name, stat in found.items() if name.startswith(("cmdstat_h", "cmdstat_z"))]
    return int(sum(ours))


async def test_a_step_runs_few_commands_inside_redis(client: Redis) -> None:
    """Each costs Redis about as much as the whole way of a plain command, so that one more is a decision."""
    async with RedisJobStore(url(client)) as store:
        others = [make_job("q", state=state) for state in (State.QUEUED, State.RUNNING, State.FINISHED)]
        for other in others:
            await store.save(other, expected=0)
        job = make_job("q")
        runs = replace(job, version=2, state=State.RUNNING, lease_until=1e9)
        renewed = replace(runs, version=3, lease_until=2e9)
        ended = replace(renewed, version=4, state=State.FINISHED, listed_until=3e9)
        steps = {
            "submit": store.save(job, expected=0, documents={"definition": b"d"}),
            "claim": store.save(runs, expected=1),
            "renew": store.save(renewed, expected=2),
            "finish": store.save(ended, expected=3, documents={"result": b"r"}),
        }
        costs = {name: await _run_inside(client, step) for name, step in steps.items()}
        assert costs == {"submit": 8, "claim": 9, "renew": 3, "finish": 10}


async def test_many_sets_of_requirements_are_listed_in_one_order(client: Redis) -> None:
    """One of them has most jobs, others hardly any; each list reads about as much as it returns."""
    chance = random.Random(5)
    shapes = [Requirements(cores=n) for n in range(1, 41)]
    jobs = [
        make_job("q", queued_at=float(chance.randrange(500)), requirements=need, state=state)
        for need in [*shapes, *[shapes[0]] * 300, *[shapes[1]] * 60]
        for state in (State.QUEUED, State.RUNNING)
    ]
    jobs.sort(key=lambda job: (job.queued_at, job.job_id))
    async with RedisJobStore(url(client)) as store:
        await asyncio.gather(*(store.save(job, expected=0) for job in jobs))
        for states in ([State.QUEUED], [State.QUEUED, State.RUNNING, State.FINISHED]):
            wanted = [job for job in jobs if job.state in states]
            for limit in (1, 7, 50, 399, len(wanted), 5_000):
                client.config_resetstat()
                assert await store.list("q", states=states, limit=limit) == wanted[:limit]
                calls = client.info("commandstats")
                assert calls["cmdstat_zrangebylex"]["calls"] <= 2 * len(shapes) * len(states)
                assert calls["cmdstat_hget"]["calls"] == min(limit, len(wanted))
            after = (wanted[100].queued_at, wanted[100].job_id)
            assert await store.list("q", states=states, after=after, limit=33) == wanted[101:134]
        one = [job for job in jobs if job.requirements == shapes[1]]
        assert await store.list("q", states=list(State), shape=shapes[1].shape) == one


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
