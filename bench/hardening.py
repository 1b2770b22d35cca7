"""What the fences around a job cost at the start of its container, against a container without them.

Both have a bridge; ``strict`` has no network, and ``egress`` is ``standard`` with a spare guard, which was made
beforehand as on a worker that is not busy.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import engine_address
from bench.table import Row, spread

__all__ = ["hardening"]

_ROUNDS = 20
_IMAGE = "alpine:3.19.1"
_MOST_S = 0.1


async def hardening(folder: Path) -> list[Row]:
    """Create, start, wait and remove, of a program that does nothing; plain and under two profiles, in turn."""
    from asman_worker.docker import Engine
    from asman_worker.grant import NETWORK, Grant
    from asman_worker.images import Images
    from asman_worker.network import Networks

    sides: dict[str, list[float]] = {"plain": [], "standard": [], "strict": [], "egress": []}
    with engine_address() as host:
        async with Engine(host) as engine:
            await engine.ensure_network(NETWORK)
            networks = Networks(engine, "bench", Grant(cores=1, memory_bytes=1 << 30), Images(engine))
            bodies = {name: _body(name, folder, NETWORK) for name in ("plain", "standard", "strict")}
            for turn in range(_ROUNDS + 1):
                took_s = {name: await _once(engine, body) for name, body in bodies.items()}
                await networks.start()
                took_s["egress"] = await _guarded(engine, networks, bodies["standard"])
                for name in sides if turn else ():
                    sides[name].append(took_s[name])
            await networks.close()
    rows = [Row(what=f"container of `true`, {name}, s", figure=spread(took, 3)) for name, took in sides.items()]
    for name in ("standard", "strict", "egress"):
        more = [a - b for a, b in zip(sides[name], sides["plain"], strict=True)]
        rows.append(
            Row(
                what=f"difference of {name}, s",
                figure=spread(more, 3),
                bar=f"<= {_MOST_S}",
                is_missed=statistics.median(more) > _MOST_S,
            )
        )
    return rows


def _body(name: str, folder: Path, network: str) -> dict[str, Any]:
    if name == "plain":
        return {"Image": _IMAGE, "Cmd": ["true"]}
    from asman_worker.container import JobFolders, create_body, labels_of
    from asman_worker.grant import Grant
    from asman_worker.limits import allot, container_spec, read_requirements

    for part in ("inputs", "outputs"):
        (folder / part).mkdir(exist_ok=True)
    definition = {"image": _IMAGE, "command": ["true"]}
    grant = Grant(cores=1, memory_bytes=1 << 30, profile=name, max_open_files=1024)
    spec = container_spec(
        definition,
        allot(read_requirements(definition), grant),
        grant,
        image=_IMAGE,
        folders=JobFolders(inputs=str(folder / "inputs"), outputs=str(folder / "outputs")),
        labels=labels_of("bench", "bench-queue", "bench", 1),
        queue="bench-queue",
        job_id="bench",
        server_url="http://127.0.0.1",
        network_mode="none" if name == "strict" else network,
    )
    return create_body(spec)


async def _once(engine: Any, body: Mapping[str, Any]) -> float:
    began = time.perf_counter()
    container = await engine.create(body)
    async with asyncio.timeout(60):
        await engine.start(container)
        await engine.wait(container)
    await engine.remove(container)
    return time.perf_counter() - began


async def _guarded(engine: Any, networks: Any, body: Mapping[str, Any]) -> float:
    """The same with a spare guard's network; the guard's removal is not on a job's way."""
    began = time.perf_counter()
    mode = await networks.take("egress")
    taken_s = time.perf_counter() - began
    took_s = await _once(engine, {**body, "HostConfig": {**body["HostConfig"], "NetworkMode": mode}})
    await networks.release(mode)
    return taken_s + took_s
