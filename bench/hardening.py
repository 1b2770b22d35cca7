"""What the fences around a job cost at the start of its container, against a container without them.

As in a worker, ``standard`` joins the network of a guard that was made beforehand (a worker keeps one spare), and
``strict`` has no network; the plain container gets the engine's bridge.
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

    sides: dict[str, list[float]] = {"plain": [], "standard": [], "strict": []}
    with engine_address() as host:
        async with Engine(host) as engine:
            guard = await engine.create({"Image": _IMAGE, "Cmd": ["sleep", "3600"]})
            try:
                await engine.start(guard)
                bodies = {name: _body(name, folder, f"container:{guard}") for name in sides}
                for turn in range(_ROUNDS + 1):
                    for name, body in bodies.items():
                        took_s = await _once(engine, body)
                        if turn:
                            sides[name].append(took_s)
            finally:
                await engine.remove(guard)
    rows = [Row(what=f"container of `true`, {name}, s", figure=spread(took, 3)) for name, took in sides.items()]
    for name in ("standard", "strict"):
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
