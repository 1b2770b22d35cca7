"""Two servers, one Redis, and everything that can happen to them: nothing acknowledged is lost, one result each.

In turn a server or Redis (appending with ``always``) is killed, either is stopped for a while, and the network between
one server and Redis is cut. ``ASMAN_TEST_FAULTS`` says how many of these there are.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cut_proxy import CutProxy, cut_proxy
from processes import Process
from redis_server import RedisServer, free_port, redis_server
from swarm import Tally, swarm

FAULTS = int(os.environ.get("ASMAN_TEST_FAULTS", "50"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 20 * FAULTS)]

QUEUE = "a-queue-whose-servers-are-killed"
TIMES = {
    "ASMAN_LEASE": "4s",
    "ASMAN_RENEW": "1s",
    "ASMAN_RECONNECT_GRACE": "2s",
    "ASMAN_SWEEP": "500ms",
    "ASMAN_MAX_ATTEMPTS": "1000",
    "ASMAN_LISTED": "1h",
}
_CUT_S = 5.0


class _Deployment:
    """Server 0 speaks with Redis directly, server 1 through a proxy."""

    def __init__(self, redis: RedisServer, proxy: CutProxy, folder: Path) -> None:
        self._redis, self._proxy, self._folder = redis, proxy, folder
        self._ports = [free_port(), free_port()]
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self.servers = [self._serve(0), self._serve(1)]

    def _serve(self, number: int) -> Process:
        url = f"redis://127.0.0.1:{self._redis.port if number == 0 else self._proxy.port}/0"
        options = ("--port", str(self._ports[number]), "--backend", "redis", "--redis", url)
        return Process("serve", *options, "--data", str(self._folder), env=TIMES)

    async def kill_server(self, chance: random.Random) -> None:
        number = chance.randrange(2)
        self.servers[number].discard()
        self.servers[number] = self._serve(number)

    async def stop_server(self, chance: random.Random) -> None:
        pid = self.servers[chance.randrange(2)].pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.5, 6.0))
        os.kill(pid, signal.SIGCONT)

    async def kill_redis(self, chance: random.Random) -> None:
        self._redis.kill()
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        self._redis.start(wait=False)

    async def stop_redis(self, chance: random.Random) -> None:
        self._redis.pause()
        await asyncio.sleep(chance.uniform(0.5, 6.0))
        self._redis.resume()

    async def cut(self, chance: random.Random) -> None:
        self._proxy.cut()
        await asyncio.sleep(_CUT_S)
        self._proxy.mend()

    @property
    def faults(self) -> list[Callable[[random.Random], Coroutine[Any, Any, None]]]:
        return [self.kill_server, self.kill_redis, self.stop_server, self.stop_redis, self.cut]

    def stop(self) -> None:
        for server in self.servers:
            server.discard()


class _Submitter:
    """Submits to both servers all the time and keeps what was acknowledged."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session, self._urls = session, urls
        self._numbers = itertools.count()
        self.acknowledged: list[str] = []

    async def once(self, url: str) -> str | None:
        body = {"definition": {"image": "alpine:3.19.1", "command": f"echo {next(self._numbers)}"}}
        try:
            async with asyncio.timeout(8), self._session.post(f"{url}/q/{QUEUE}", json=body) as answer:
                if answer.status != 200:
                    assert answer.status == 503, await answer.text()
                    assert answer.headers["Retry-After"]
                    return None
                job = str((await answer.json())["jobId"])
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        self.acknowledged.append(job)
        return job

    async def go_on(self) -> None:
        for url in itertools.cycle(self._urls):
            await asyncio.gather(self.once(url), asyncio.sleep(0.1))

    async def recovery_s(self, tally: Tally, began: float) -> float:
        """How long after ``began`` both servers take a job that then gets done."""

        async def probe(url: str) -> None:
            while (job := await self.once(url)) is None:  # noqa: ASYNC110 - servers set no event here
                await asyncio.sleep(0.05)
            await tally.until_accepted([job], within_s=60)

        async with asyncio.timeout(60):
            await asyncio.gather(*map(probe, self._urls))
        return time.monotonic() - began


@asynccontextmanager
async def _under_load(deployment: _Deployment) -> AsyncIterator[tuple[_Submitter, Tally]]:
    async with aiohttp.ClientSession() as session:
        async with swarm(deployment.urls, QUEUE, workers=6, work_s=0.2) as tally:
            submitter = _Submitter(session, deployment.urls)
            await submitter.recovery_s(tally, time.monotonic())
            submitting = asyncio.create_task(submitter.go_on())
            try:
                yield submitter, tally
            finally:
                submitting.cancel()
                await asyncio.gather(submitting, return_exceptions=True)


async def test_faults_lose_nothing_that_was_acknowledged(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(20261124)
    recoveries: dict[str, list[float]] = {}
    with redis_server() as redis:
        async with cut_proxy(redis.port) as proxy:
            deployment = _Deployment(redis, proxy, tmp_path)
            try:
                async with _under_load(deployment) as (submitter, tally):
                    for number in range(FAULTS):
                        fault = deployment.faults[number % 5]
                        await fault(chance)
                        took_s = await submitter.recovery_s(tally, time.monotonic())
                        recoveries.setdefault(fault.__name__, []).append(took_s)
                    jobs = list(submitter.acknowledged)
                    await _until_done(deployment.urls[0], jobs, tally)
                    await _all_have_one_result(deployment.urls[0], jobs, tally)
            finally:
                deployment.stop()
    assert len(jobs) > 5 * FAULTS
    for name, found in recoveries.items():
        text = f"{statistics.median(found):.1f} s, at most {max(found):.1f} s"
        record_property(f"recovery after {name}", text)
        print(f"recovery after {name}: {text}")


async def _until_done(url: str, jobs: list[str], tally: Tally) -> None:
    """Errors: AssertionError that says what became of the jobs that are not done."""
    try:
        await tally.until_accepted(jobs, within_s=60)
    except TimeoutError:
        told = []
        async with aiohttp.ClientSession() as session:
            for job in [job for job in jobs if job not in tally.accepted][:5]:
                given = [attempt for name, attempt in tally.given if name == job]
                for part in ("why", "history.json"):
                    async with session.get(f"{url}/q/{QUEUE}/j/{job}/{part}") as answer:
                        told.append(f"{job} given {given} refused {tally.refused[job]}: {(await answer.text())[:2000]}")
        raise AssertionError("\n".join(told)) from None


async def _all_have_one_result(url: str, jobs: list[str], tally: Tally) -> None:
    """Every acknowledged job is Success, and what is stored is what one attempt said."""
    async with aiohttp.ClientSession() as session:
        for job in jobs:
            async with session.get(f"{url}/q/{QUEUE}/j/{job}/result.json") as answer:
                found = (await answer.json())["data"]
            assert found["finishedReason"] == "Success", found
            said = found["finished"]["result"]["logs"][0][0]
            assert said in {f"attempt {attempt}\n" for given, attempt in tally.given if given == job}
    assert max(tally.given.values()) == 1, "one attempt was given out twice"
    assert max(tally.accepted[job] for job in jobs) == 1, "two results of one job were accepted"
