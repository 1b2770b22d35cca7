"""Two real servers on one Redis: one queue for whoever is connected to either."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from redis_server import RedisServer
from served import Served, served
from swarm import swarm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOBS, WORKERS, RUNS = 1_000, 50, 3
TIMES = {"ASMAN_LEASE": "6s", "ASMAN_RENEW": "1s", "ASMAN_RECONNECT_GRACE": "3s", "ASMAN_LISTED": "1h"}


@pytest.fixture
def pair(redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    options = ("--backend", "redis", "--redis", redis.url, "--data", str(tmp_path / "data"))
    with served(*options, cwd=tmp_path, **TIMES) as one, served(*options, cwd=tmp_path, **TIMES) as two:
        yield one, two


async def submit(session: aiohttp.ClientSession, url: str, queue: str, number: int) -> str:
    """A kept connection may be closed in the middle of a request: repeating is always safe."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await _submit(session, url, queue, number)
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def _submit(session: aiohttp.ClientSession, url: str, queue: str, number: int) -> str:
    body = {"definition": {"image": "alpine:3.19.1", "command": f"echo {number}"}}
    async with session.post(f"{url}/q/{queue}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["asman-durability"] == "disk"
        return str((await answer.json())["jobId"])


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        return await answer.json()


async def hear(socket: aiohttp.ClientWebSocketResponse, kind: str, holds: str = "") -> dict[str, Any]:
    async with asyncio.timeout(15):
        while True:
            message = await socket.receive_json()
            if message["type"] == kind and holds in str(message):
                return dict(message["payload"])


async def test_each_job_is_assigned_once_per_attempt_and_finished_once(pair: tuple[Served, Served]) -> None:
    urls = [server.url for server in pair]
    async with aiohttp.ClientSession() as session:
        for run in range(RUNS):
            queue = f"a-queue-on-two-servers-{run}"
            async with swarm(urls, queue, workers=WORKERS) as tally:
                ids: list[str] = []
                for start in range(0, JOBS, 50):
                    part = [submit(session, urls[n % 2], queue, n) for n in range(start, start + 50)]
                    ids += await asyncio.gather(*part)
                await tally.until_accepted(ids, within_s=90)
            assert set(tally.given.values()) == {1}, "one attempt was given out twice"
            assert len(tally.given) == JOBS, "a job was given out again"
            assert tally.accepted == dict.fromkeys(ids, 1)
            assert not tally.refused
            shown = (await get(session, f"{urls[0]}/q/{queue}"))["data"]
            assert {job["finishedReason"] for job in shown.values()} == {"Success"}


async def test_sockets_on_both_servers_see_the_same_queue(pair: tuple[Served, Served]) -> None:
    one, two = (server.url for server in pair)
    queue = "a-queue-that-is-watched"
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{two}/q/{queue}/client") as watcher:
            await hear(watcher, "JobStates")
            job = await submit(session, one, queue, 1)
            await hear(watcher, "JobStateUpdates", job)
            async with swarm([one], queue, workers=1) as tally:
                await hear(watcher, "Workers", "worker-0")
                await tally.until_accepted([job], within_s=15)
                finished = await hear(watcher, "JobStateUpdates", "Finished")
                assert job in finished["state"]["jobs"]
                status = await get(session, f"{two}/q/{queue}/status")
                (other,) = status["otherServers"].values()
                assert list(other["workers"]) == ["worker-0"]
                assert status["queueInfo"]["otherWorkerCount"] == 1
                why = await get(session, f"{two}/q/{queue}/j/{job}/why")
                assert "worker-0" in str(why)
                scale = await get(session, f"{two}/q/{queue}/scale")
                assert scale["workers"] == 1
            await hear(watcher, "Workers", "'workers': []")


async def test_a_cancel_through_one_server_reaches_a_worker_on_the_other_within_a_second(
    pair: tuple[Served, Served],
) -> None:
    one, two = (server.url for server in pair)
    queue = "a-queue-with-a-cancel"
    async with aiohttp.ClientSession() as session, swarm([two], queue, workers=1, work_s=60.0) as tally:
        for number in range(5):
            job = await submit(session, one, queue, number)
            await tally.until(lambda job=job: (job, 1) in tally.given, within_s=15)
            began = asyncio.get_running_loop().time()
            async with session.post(f"{one}/q/{queue}/j/{job}/cancel") as answer:
                assert answer.status == 200
            revoked, at = await asyncio.wait_for(tally.revoked.get(), 10)
            assert revoked == job
            assert at - began < 1.0


async def test_follow_and_wait_hear_what_happens_on_the_other_server(pair: tuple[Served, Served]) -> None:
    one, two = (server.url for server in pair)
    queue = "a-queue-that-is-waited-for"
    async with aiohttp.ClientSession() as session, swarm([two], queue, workers=1, work_s=0.3) as tally:
        body = {"definition": {"image": "alpine:3.19.1", "command": "echo waited"}}
        began = time.monotonic()
        async with session.post(f"{one}/q/{queue}", json=body, headers={"Prefer": "wait=20"}) as answer:
            told = await answer.json()
        assert told["state"] == "Finished"
        assert time.monotonic() - began < 5
        assert len(tally.accepted) == 1


async def test_a_rolling_restart_loses_nothing(redis: RedisServer, tmp_path: Path) -> None:
    queue = "a-queue-under-restarts"
    options = ("--backend", "redis", "--redis", redis.url, "--data", str(tmp_path / "data"), "--workers", "2")
    with served(*options, cwd=tmp_path, **TIMES) as server:
        async with aiohttp.ClientSession() as session, swarm([server.url], queue, workers=6, work_s=0.2) as tally:
            ids: list[str] = []
            numbers = itertools.count()
            for _ in range(3):
                server.process.send_signal(signal.SIGHUP)
                deadline = time.monotonic() + 3.0
                while time.monotonic() < deadline:
                    ids.append(await submit(session, server.url, queue, next(numbers)))
                    await asyncio.sleep(0.05)
            await tally.until_accepted(ids, within_s=60)
        assert len(ids) > 50
        assert tally.accepted == dict.fromkeys(ids, 1)
