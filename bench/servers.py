"""Two servers on one Redis: what a second one brings, and how long a worker waits for its job."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
from pathlib import Path

from bench.load import submit_many
from bench.process import Server, asman_serve, free_port, redis_serving, serving
from bench.table import Row, spread

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

__all__ = ["servers"]

_ROUNDS = 5
_CONNECTIONS = 32
_EACH = 60
_WORKERS, _JOBS, _WORK_S = 50, 1_000, 0.5


async def _load(queue: str, targets: list[Server], redis: Server) -> tuple[float, float, float]:
    """(CPU microseconds per submit of all servers, of Redis, submits per second): the same load, shared out."""
    before = [server.cpu_s() for server in (*targets, redis)]
    share = _CONNECTIONS // len(targets)
    loads = await asyncio.gather(*(submit_many(t.port, f"/q/{queue}", share, _EACH) for t in targets))
    spent = [server.cpu_s() - was for server, was in zip((*targets, redis), before, strict=True)]
    count = sum(load.count for load in loads)
    return sum(spent[:-1]) / count * 1e6, spent[-1] / count * 1e6, count / max(load.wall_s for load in loads)


async def _claims(urls: list[str], queue: str) -> tuple[float, int]:
    """(99th percentile in ms of how long a worker with room waits while jobs wait, assignments of one attempt)."""
    import aiohttp

    from swarm import swarm

    async with aiohttp.ClientSession() as session:

        async def submit(number: int) -> str:
            body = {"definition": {"image": "alpine:3.19.1", "command": f"echo {queue} {number}"}}
            async with session.post(f"{urls[number % 2]}/q/{queue}", json=body) as answer:
                return str((await answer.json())["jobId"])

        ids: list[str] = []
        for start in range(0, _JOBS, 25):
            ids += await asyncio.gather(*map(submit, range(start, start + 25)))
        async with swarm(urls, queue, workers=_WORKERS, slots=1, work_s=_WORK_S) as tally:
            await tally.until_accepted(ids, within_s=120)
        waits = sorted(tally.waits_s)
        return waits[int(0.99 * len(waits))] * 1e3, max(tally.given.values())


async def servers(folder: Path) -> list[Row]:
    """The capacity of two is told from CPU, because two cores carry both servers, Redis and the load."""
    if shutil.which("redis-server") is None:
        return [Row(what="two servers", figure="not measured: no redis-server here")]
    alone, both, claims = [], [], []
    with redis_serving(folder, "--appendonly", "yes", "--appendfsync", "always") as redis:
        options = ("--backend", "redis", "--redis", f"redis://127.0.0.1:{redis.port}")
        ports = (free_port(), free_port())
        commands = [asman_serve(port, folder / "data", *options) for port in ports]
        with serving(commands[0], ports[0], "/readyz") as one, serving(commands[1], ports[1], "/readyz") as two:
            for number in range(_ROUNDS):
                alone.append(await _load(f"bench-one-{number}", [one], redis))
                both.append(await _load(f"bench-two-{number}", [one, two], redis))
            for number in range(3):
                urls = [f"http://127.0.0.1:{port}" for port in ports]
                claims.append(await _claims(urls, f"bench-claims-{number}"))
    gain = [2 * a[0] / b[0] for a, b in zip(alone, both, strict=True)]
    room = [b[0] / b[1] for b in both]
    return [
        Row(what="server CPU per submit, one server, us", figure=spread([a[0] for a in alone])),
        Row(what="server CPU per submit, two servers, us", figure=spread([b[0] for b in both])),
        Row(what="submits/s of one, of two on these cores", figure=f"{_rate(alone)}, {_rate(both)}"),
        Row(
            what="submits/s of two / of one, by CPU",
            figure=spread(gain, 2),
            bar=">= 1.6",
            is_missed=statistics.median(gain) < 1.6,
        ),
        Row(what="servers that one core of Redis feeds (AOF always)", figure=spread(room, 1)),
        Row(
            what="claim, 99th percentile, 50 workers on two servers, ms",
            figure=spread([p99 for p99, _ in claims]),
            bar="<= 250",
            is_missed=statistics.median([p99 for p99, _ in claims]) > 250,
        ),
        Row(
            what="times that an attempt was given out",
            figure=str(max(most for _, most in claims)),
            bar="1",
            is_missed=max(most for _, most in claims) != 1,
        ),
    ]


def _rate(loads: list[tuple[float, float, float]]) -> str:
    return spread([per_s for _, _, per_s in loads])
