"""The Redis job store without HTTP: batched against one pooled call per operation, and against Redis' own benchmark."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from asman.job import Job, State
from asman.testing import make_job
from asman_redis import scripts
from asman_redis.jobs import RedisJobStore
from asman_redis.keys import sortable
from bench.process import redis_serving
from bench.table import Row, spread

__all__ = ["redis_store"]

_ROUNDS = 5
_IN_FLIGHT = 64
_COUNT = 4_000


class _Pooled:
    """What most programs do: each command takes a connection of a pool, sends, waits."""

    def __init__(self, url: str) -> None:
        import redis.asyncio

        self._client = redis.asyncio.Redis.from_url(url, max_connections=_IN_FLIGHT)

    async def ask(self, *command: Any) -> Any:
        return await self._client.execute_command(*command)

    async def call(self, script: Any, keys: list[str], *arguments: Any) -> Any:
        return await self.ask("EVALSHA", script.sha, len(keys), *keys, *arguments)

    async def close(self) -> None:
        await self._client.aclose()


async def _steps(store: RedisJobStore, queue: str) -> tuple[float, float]:
    """(operations per second, CPU microseconds of this process for each): save, claim and finish of many jobs."""
    lives = iter([_life(make_job(queue)) for _ in range(_COUNT)])

    async def live() -> None:
        for life in lives:
            for job in life:
                await store.save(job, expected=job.version - 1)

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(live() for _ in range(_IN_FLIGHT)))
    count = 3 * _COUNT
    return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


def _life(job: Job) -> list[Job]:
    return [job, replace(job, version=2, state=State.RUNNING), replace(job, version=3, state=State.FINISHED)]


def _benchmark(port: int, sha: str, base: str) -> float:
    """Operations per second of redis-benchmark with the same script, 64 in a pipeline."""
    place = sortable(1.0) + "__rand_int__"
    record = "x" * 400
    arguments = [base, "bench", "__rand_int__", "0", "1", "t", "1[1.0,0,0,null]", place, "2.0", "_ "]
    options = ["-P", "64", "-c", "1", "-n", str(5 * _COUNT), "-r", "1000000000", "-q"]
    command = ["redis-benchmark", "-p", str(port), *options]
    found = subprocess.run(
        [*command, "EVALSHA", sha, "1", f"{base}job:bench:__rand_int__", *arguments, record],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(re.findall(r"([\d.]+) requests per second", found.stdout)[-1])


async def redis_store(folder: Path) -> list[Row]:
    """Three operations of a job's life at 64 in flight, without persistence: the client is what is measured."""
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        return [Row(what="Redis job store", figure="not measured: no redis-server or redis-benchmark here")]
    ours, pooled, limit = [], [], []
    with redis_serving(folder) as server:
        port = server.port
        url = f"redis://127.0.0.1:{port}"
        async with RedisJobStore(url) as store, RedisJobStore(url) as other:
            batcher, other._redis = other._redis, _Pooled(url)  # type: ignore[assignment]
            await store.save(make_job("warm"), expected=0)
            for number in range(_ROUNDS):
                pooled.append(await _steps(other, f"pooled-{number}"))
                ours.append(await _steps(store, f"batched-{number}"))
                limit.append(await asyncio.to_thread(_benchmark, port, scripts.SAVE.sha, store._keys.bases[0]))
            await other._redis.close()
            other._redis = batcher
    rate = [a[0] / b[0] for a, b in zip(ours, pooled, strict=True)]
    cpu = [a[1] / b[1] for a, b in zip(ours, pooled, strict=True)]
    share = [a[0] / b for a, b in zip(ours, limit, strict=True)]
    return [
        Row(what="Redis store operations/s, 64 in flight", figure=spread([r for r, _ in ours])),
        Row(what="the same, one pooled call each", figure=spread([r for r, _ in pooled])),
        Row(what="redis-benchmark -P 64, the same script", figure=spread(limit)),
        Row(
            what="rate / pooled rate",
            figure=spread(rate, 2),
            bar=">= 2.5",
            is_missed=statistics.median(rate) < 2.5,
        ),
        Row(
            what="client CPU / pooled CPU",
            figure=spread(cpu, 2),
            bar="<= 0.35",
            is_missed=statistics.median(cpu) > 0.35,
        ),
        Row(
            what="rate / redis-benchmark's",
            figure=spread(share, 2),
            bar=">= 0.2",
            is_missed=statistics.median(share) < 0.2,
        ),
    ]
