"""Twenty jobs at once are cancelled in each phase: every one is gone within its grace and five seconds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from asman_worker.build_fence import BUILDER_LABEL
from asman_worker.builder import BUILD_STEP
from asman_worker.docker import Engine
from asman_worker.executor import CANCELLED, Executor
from asman_worker.grant import Grant
from docker_engine import IMAGE, DockerEngine
from registries import tiny_registry
from worker_bench import Bench

pytestmark = pytest.mark.docker

JOBS = 20
GRACE_S = 1.0
GRANT = Grant(cores=JOBS, memory_bytes=JOBS << 27, max_duration_s=120, stop_grace_s=GRACE_S)


async def cancel_all(bench: Bench, definitions: list[dict[str, Any]], is_there: Callable[[], bool]) -> None:
    """Start them, wait until all are in the phase, cancel all, and see that nothing is left in time."""
    executor = bench.another(GRANT)
    assignments = [bench.assignment(definition) for definition in definitions]
    running = [asyncio.create_task(executor.run(each, bench.log)) for each in assignments]
    try:
        async with asyncio.timeout(90):
            while not is_there():
                assert not any(task.done() for task in running), [t.result() for t in running if t.done()]
                await asyncio.sleep(0.05)
        took = await asyncio.gather(*(_cancel(executor, each.key) for each in assignments))
        assert max(took) < GRACE_S + 5, sorted(took)
        assert await asyncio.gather(*running) == [CANCELLED] * len(running)
    finally:
        for task in running:
            task.cancel()
    assert await bench.containers() == []
    assert bench.files() == []
    assert executor.free().cores == GRANT.cores


async def _cancel(executor: Executor, key: tuple[str, str, int]) -> float:
    begun = time.monotonic()
    await executor.stop(*key)
    return time.monotonic() - begun


async def nameless_images(engine: Engine, worker_id: str) -> list[Any]:
    filters = json.dumps({"dangling": ["true"], "label": [f"{BUILDER_LABEL}={worker_id}"]})
    found: list[Any] = await engine.call("GET", "images/json", {"filters": filters})
    return found


def numbered(**definition: Any) -> list[dict[str, Any]]:
    return [{"command": f"echo {n}", **definition} for n in range(JOBS)]


async def test_during_the_fetch_of_inputs(bench: Bench) -> None:
    key = bench.blobs.add(b"never comes")
    bench.blobs.hold = "GET"
    definitions = numbered(inputs={"x": {"type": "key", "value": key}})
    await cancel_all(bench, definitions, lambda: bench.blobs.held >= JOBS)


async def test_during_the_pull_of_an_image(
    bench: Bench, docker_engine: DockerEngine, free_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with tiny_registry(docker_engine, free_port, tmp_path_factory.mktemp("registry")) as registry:
        registry.hold()
        try:
            definitions = [{"command": "true", "image": f"{registry.address}/image{n}:1"} for n in range(JOBS)]
            await cancel_all(bench, definitions, lambda: registry.count("/manifests/1") >= JOBS)
        finally:
            registry.release()


async def test_during_the_build_of_an_image(bench: Bench) -> None:
    steps = "RUN trap '' TERM; echo up{}.; while :; do sleep 1; done"
    definitions = [
        {"command": "true", "build": {"dockerfile": f"FROM {IMAGE}\n{steps.format(n)}"}} for n in range(JOBS)
    ]
    await cancel_all(bench, definitions, lambda: bench.live(BUILD_STEP).count("\nup") >= JOBS)
    assert await bench.engine.find({BUILDER_LABEL: bench.worker_id}) == []
    assert await nameless_images(bench.engine, bench.worker_id) == []


async def test_during_the_run(bench: Bench) -> None:
    definitions = [{"command": ["sh", "-c", f"echo up{n}.; while :; do sleep 1; done"]} for n in range(JOBS)]
    await cancel_all(bench, definitions, lambda: bench.live().count("up") >= JOBS)


async def test_during_the_upload_of_outputs(bench: Bench) -> None:
    bench.blobs.hold = "PUT"
    definitions = [{"command": ["sh", "-c", f"seq {n} 1000 > /outputs/data"]} for n in range(1, JOBS + 1)]
    await cancel_all(bench, definitions, lambda: bench.blobs.held >= JOBS)
