"""Containers of one build, on a real engine: found by their mark, bounded before they begin, and ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asman_worker.build_calls import BuildCalls
from asman_worker.build_fence import BuildTooLarge, Fence, SeenContainers
from asman_worker.build_log import BuildLog
from asman_worker.docker import Engine
from asman_worker.report import first_cause
from docker_engine import IMAGE, DockerEngine
from worker_peers import until

pytestmark = pytest.mark.docker

MIB = 1 << 20


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


def fence_on(engine: Engine) -> Fence:
    return Fence(
        engine, BuildLog(lambda _: None), SeenContainers(BuildCalls(engine)), worker_id="w", pids=17, max_bytes=32 * MIB
    )


def step(fence: Fence, script: str = "sleep 60", **more: Any) -> dict[str, Any]:
    host = {"NetworkMode": "none", "Ulimits": fence.ulimits}
    return {"Image": IMAGE, "Cmd": ["sh", "-c", script], "HostConfig": host, **more}


def host_config(host: DockerEngine, container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.request("GET", f"/containers/{container}/json")[1])["HostConfig"]
    return found


async def test_a_step_is_bounded_whether_it_runs_or_not(engine: Engine, docker_engine: DockerEngine) -> None:
    fence = fence_on(engine)
    before = await engine.create(step(fence))
    stranger = await engine.create(step(fence_on(engine)))
    watch = asyncio.create_task(fence.watch())
    try:
        await asyncio.wait_for(fence.ready(), 20)
        created = await engine.create(step(fence))
        await engine.start(created)
        await until(lambda: host_config(docker_engine, created)["PidsLimit"] == 17)
        await fence.clear()
        calls = BuildCalls(engine)
        assert await calls.container(before) is None
        assert await calls.container(created) is None
        assert host_config(docker_engine, stranger)["PidsLimit"] is None
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        await engine.remove(stranger)


async def test_what_a_step_writes_is_measured_in_its_volumes_too(engine: Engine) -> None:
    fence = fence_on(engine)
    watch = asyncio.create_task(fence.watch())
    try:
        await asyncio.wait_for(fence.ready(), 20)
        script = "dd if=/dev/zero of=/f bs=1M count=20; dd if=/dev/zero of=/v/f bs=1M count=20; sleep 60"
        await engine.start(await engine.create(step(fence, script, Volumes={"/v": {}})))
        async with asyncio.timeout(30):
            await asyncio.wait([watch])
        error = watch.exception()
        assert error is not None
        assert isinstance(first_cause(error), BuildTooLarge)
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        await fence.clear()


def test_every_build_has_a_mark_of_its_own(engine: Engine) -> None:
    marks = {str(fence_on(engine).ulimits) for _ in range(50)}
    assert len(marks) == 50


async def test_a_container_is_asked_for_once_and_forgotten_when_it_is_gone(engine: Engine) -> None:
    seen = SeenContainers(BuildCalls(engine))
    container = await engine.create(step(fence_on(engine)))
    first, second = await asyncio.gather(seen.of(container), seen.of(container))
    assert first is not None
    assert first is second
    await engine.remove(container)
    assert await seen.of(container) is first
    seen.keep_only(set())
    assert await seen.of(container) is None
