"""One round trip for what is asked at once, and what becomes of commands when Redis is away, full or does not want."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ReadOnlyError, ResponseError

from asman.errors import Conflict, Unavailable
from asman.job import State
from asman.testing import make_job
from asman_redis import batcher
from asman_redis.jobs import RedisJobStore
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


@pytest.fixture
async def store(proxy: CutProxy) -> AsyncIterator[RedisJobStore]:
    async with RedisJobStore(f"redis://127.0.0.1:{proxy.port}") as opened:
        yield opened


async def patient(store: RedisJobStore, job: object, within_s: float = 20.0) -> None:
    """What a caller does: repeat on 503."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await store.save(job, expected=0)  # type: ignore[arg-type]
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_what_is_asked_in_one_turn_of_the_loop_is_one_round_trip(store: RedisJobStore) -> None:
    await store.save(make_job("q"), expected=0)
    before = store._redis.batches
    jobs = [make_job("q") for _ in range(64)]
    await asyncio.gather(*(store.save(job, expected=0) for job in jobs))
    assert store._redis.batches == before + 1
    for ask in (
        lambda: store.load("q", jobs[0].job_id),
        lambda: store.counts(None),
        lambda: store.due(0.0),
        lambda: store.find(jobs[0].job_id),
        lambda: store.list("q", states=[State.QUEUED, State.RUNNING]),
        lambda: store.append_log("q", jobs[0].job_id, attempt=1, half="run", lines=[b"x"]),
        lambda: store.delete("q", jobs[0].job_id, expected=1),
    ):
        await ask()  # type: ignore[no-untyped-call]  # Redis knows the script from here on
        before = store._redis.batches
        await ask()  # type: ignore[no-untyped-call]
        assert store._redis.batches == before + 1, ask


async def test_an_answer_is_handed_over_while_redis_is_busy_with_the_rest_of_the_batch(store: RedisJobStore) -> None:
    job = make_job("q")
    await store.save(job, expected=0)
    before = store._redis.batches
    quick = [asyncio.ensure_future(store._redis.ask("ECHO", b"x" * 8_000)) for _ in range(8)]
    busy = """
        local began = redis.call('TIME')
        repeat
            local now = redis.call('TIME')
        until (now[1] - began[1]) * 1e6 + now[2] - began[2] > 1e6
    """
    slow = asyncio.ensure_future(store._redis.ask("EVAL", busy, 0))
    assert await quick[0] == b"x" * 8_000
    assert not slow.done()
    assert await slow is None
    assert store._redis.batches == before + 1


async def test_who_is_answered_shares_the_next_batch_with_all_others(server: RedisServer) -> None:
    """Steps of many callers go on as whole batches, however their answers trickle in."""
    async with RedisJobStore(server.url) as store:
        await store.save(make_job("q"), expected=0)
        before = store._redis.batches

        async def live() -> None:
            job = make_job("q")
            for version in range(1, 41):
                await store.save(replace(job, version=version), expected=version - 1)

        await asyncio.gather(*(live() for _ in range(64)))
        assert store._redis.batches - before <= 44


async def test_a_refusal_hurts_only_its_own_command(store: RedisJobStore) -> None:
    good, bad = make_job("q"), make_job("q", version=2)
    answers = await asyncio.gather(
        store.save(good, expected=0), store.save(bad, expected=1), store.load("q", "x"), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [type(None), Conflict, type(None)]


async def test_a_redis_that_forgot_the_scripts_learns_them_again(store: RedisJobStore, server: RedisServer) -> None:
    await store.save(make_job("q"), expected=0)
    with closing(server.client) as client:
        client.script_flush()
    await asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(5)))
    assert sum((await store.counts("q")).values()) == 6


async def test_a_change_whose_answer_was_lost_is_done_once(store: RedisJobStore, proxy: CutProxy) -> None:
    job = make_job("q")
    await store.save(job, expected=0)
    for version in range(1, 6):
        proxy.lose_next_reply()
        await store.save(replace(job, version=version + 1), expected=version)
    proxy.lose_next_reply()
    assert await store.append_log("q", job.job_id, attempt=1, half="run", lines=[b"a", b"b"]) == 2
    assert (await store.read_log("q", job.job_id, half="run")).lines == (b"a", b"b")
    proxy.lose_next_reply()
    await store.delete("q", job.job_id, expected=6)
    assert await store.counts("q") == {}


async def test_a_short_cut_is_not_noticed_by_callers(store: RedisJobStore, proxy: CutProxy) -> None:
    proxy.cut()
    saving = asyncio.gather(*(store.save(make_job("q"), expected=0) for _ in range(20)))
    await asyncio.sleep(0.3)
    proxy.mend()
    await saving
    assert sum((await store.counts("q")).values()) == 20


async def test_a_longer_cut_is_unavailable_and_passes_by_itself(store: RedisJobStore, proxy: CutProxy) -> None:
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="Redis does not answer"):
        await store.save(make_job("q"), expected=0)
    assert 2.0 < time.monotonic() - began < 10.0
    proxy.mend()
    await patient(store, make_job("q"))


async def test_a_stalled_network_is_unavailable_and_passes_by_itself(store: RedisJobStore, proxy: CutProxy) -> None:
    proxy.stall()
    with pytest.raises(Unavailable):
        await store.save(make_job("q"), expected=0)
    proxy.close_connections()
    proxy.mend()
    await patient(store, make_job("q"))


async def test_what_was_acknowledged_survives_the_death_of_redis(store: RedisJobStore, server: RedisServer) -> None:
    kept = []
    for _ in range(3):
        jobs = [make_job("q") for _ in range(50)]
        saves = [asyncio.ensure_future(store.save(job, expected=0)) for job in jobs]
        await asyncio.wait(saves, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        server.start(wait=False)
        done = await asyncio.gather(*saves, return_exceptions=True)
        kept += [job for job, answer in zip(jobs, done, strict=True) if answer is None]
        await patient(store, make_job("q"))
        for job in kept:
            assert await store.load("q", job.job_id) == job


async def test_a_redis_without_memory_is_unavailable_until_it_has_some(
    store: RedisJobStore, server: RedisServer
) -> None:
    with closing(server.client) as client:
        client.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable, match="no memory left"):
            await store.save(make_job("q", message="x" * 100_000), expected=0)
        client.config_set("maxmemory", "0")
    await store.save(make_job("q"), expected=0)


async def test_a_redis_that_takes_no_more_connections_is_unavailable_until_it_does(
    store: RedisJobStore, server: RedisServer, proxy: CutProxy
) -> None:
    with closing(server.client) as client:
        client.ping()
        client.config_set("maxclients", "1")
        proxy.close_connections()
        with pytest.raises(Unavailable, match="no more connections"):
            await store.save(make_job("q"), expected=0)
        client.config_set("maxclients", "1000")
    await patient(store, make_job("q"))


async def test_a_password_that_was_changed_is_said(store: RedisJobStore, server: RedisServer, proxy: CutProxy) -> None:
    with closing(server.client) as client:
        client.config_set("requirepass", "changed")
        proxy.close_connections()
        with pytest.raises(Unavailable, match="refuses the password"):
            await store.save(make_job("q"), expected=0)
        client.config_set("requirepass", "")
    await patient(store, make_job("q"))


async def test_a_replica_is_unavailable_until_it_is_primary(store: RedisJobStore, server: RedisServer) -> None:
    with closing(server.client) as client:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable, match="read-only replica"):
            await store.save(make_job("q"), expected=0)
        client.replicaof("NO", "ONE")
    await patient(store, make_job("q"))


async def test_more_than_can_wait_is_refused_at_once(store: RedisJobStore, proxy: CutProxy) -> None:
    proxy.cut()
    waiting = [asyncio.ensure_future(store.load("q", "x")) for _ in range(batcher._WAITING_MOST + 300)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = [task for task in waiting if task.done() and isinstance(task.exception(), Unavailable)]
    assert refused
    assert "as many as are kept waiting" in str(refused[0].exception())
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_waits_when_the_store_closes_is_told(proxy: CutProxy) -> None:
    async with RedisJobStore(f"redis://127.0.0.1:{proxy.port}") as store:
        proxy.cut()
        waiting = asyncio.ensure_future(store.load("q", "x"))
        await asyncio.sleep(0.1)
    with pytest.raises(Unavailable):
        await waiting


async def test_a_caller_that_left_does_not_hurt_its_neighbours(store: RedisJobStore) -> None:
    tasks = [asyncio.ensure_future(store.save(make_job("q"), expected=0)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.exception() is None for task in tasks[1::2])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ReadOnlyError("You can't write against a read only replica."), "READONLY You can't"),
        (ResponseError("OOM command not allowed"), "OOM command"),
        (ResponseError("READONLY x"), "READONLY x"),
        (NoConnection("refused"), "refused"),
    ],
)
def test_the_words_of_redis_are_put_together_again(error: Exception, text: str) -> None:
    with suppress(ResponseError):
        assert batcher.said(error).startswith(text)


async def test_a_redis_that_loads_its_data_is_waited_for_or_unavailable(
    store: RedisJobStore, server: RedisServer
) -> None:
    jobs = [make_job("q") for _ in range(1_500)]
    await asyncio.gather(*(store.save(job, expected=0) for job in jobs))
    server.kill()
    server.options = (*server.options, "--key-load-delay", "500")
    server.start(wait=False)
    assert "loading its data" in await _first_refusal(store)
    await patient(store, make_job("q"), within_s=60)
    assert await store.load("q", jobs[0].job_id) == jobs[0]


async def _first_refusal(store: RedisJobStore) -> str:
    while True:
        try:
            await store.load("q", "x")
        except Unavailable as error:
            return str(error)
