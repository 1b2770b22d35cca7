"""The calls that only builds make, each against a real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from asman_worker.build_calls import BuildCalls
from asman_worker.build_log import EventReader
from asman_worker.docker import Engine, EngineError
from docker_engine import IMAGE, DockerEngine

pytestmark = pytest.mark.docker

MIB = 1 << 20


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


async def nothing() -> AsyncIterator[bytes]:
    yield bytes(1024)


async def test_an_image_tells_its_labels_triggers_and_size(engine: Engine, docker_engine: DockerEngine) -> None:
    calls = BuildCalls(engine)
    container = await engine.create({"Image": IMAGE, "Cmd": ["true"]})
    changes = "changes=ONBUILD%20RUN%20true&changes=LABEL%20a.b=c"
    docker_engine.request("POST", f"/commit?container={container}&repo=test-calls&tag=1&{changes}", b"{}")
    try:
        base, image = await calls.image(IMAGE), await calls.image("test-calls:1")
        assert base is not None
        assert image is not None
        assert (image.triggers, image.labels["a.b"], image.parent) == (("RUN true",), "c", base.id)
        assert image.size_bytes >= base.size_bytes > 0
        await calls.tag("test-calls:1", "test-calls", "2")
        await calls.remove_image("test-calls:1")
        assert await calls.image("test-calls:1") is None
        assert await calls.image("test-calls:2") == image
    finally:
        await engine.remove(container)
        await calls.remove_image("test-calls:2")
    await calls.remove_image("test-calls:2")
    assert await calls.image("test-calls:2") is None


async def test_a_container_is_seen_measured_and_bounded(engine: Engine, docker_engine: DockerEngine) -> None:
    calls = BuildCalls(engine)
    script = "dd if=/dev/zero of=/f bs=1M count=3; dd if=/dev/zero of=/v/f bs=1M count=5"
    host = {"NetworkMode": "none", "Ulimits": [{"Name": "locks", "Soft": 5, "Hard": 5}]}
    body = {"Image": IMAGE, "Cmd": ["sh", "-c", script], "HostConfig": host, "Volumes": {"/v": {}}}
    async with calls.created_containers() as pieces:
        container = await engine.create(body)
        event = EventReader().feed(await anext(pieces))[0]
        assert event["id"] == container
    assert container in await calls.container_ids()
    await calls.limit_processes(container, 33)
    status, answer = docker_engine.request("GET", f"/containers/{container}/json")
    assert (status, json.loads(answer)["HostConfig"]["PidsLimit"]) == (200, 33)
    seen = await calls.container(container)
    assert seen is not None
    assert (seen.ulimits["locks"], seen.has_ended, len(seen.volumes)) == (5, False, 1)
    await engine.start(container)
    assert await engine.wait(container) == 0
    ended = await calls.container(container)
    assert ended is not None
    assert ended.has_ended
    assert 3 * MIB <= await calls.written_bytes([container]) < 4 * MIB
    assert 5 * MIB <= await calls.volume_bytes(seen.volumes) < 6 * MIB
    await engine.remove(container)
    assert await calls.container(container) is None
    with pytest.raises(EngineError):
        await calls.limit_processes(container, 1)


async def test_a_tar_without_a_dockerfile_is_refused_with_the_engines_words(engine: Engine) -> None:
    with pytest.raises(EngineError, match="Dockerfile"):
        async with BuildCalls(engine).build({"version": "1"}, nothing()):
            raise AssertionError("the engine took it")


async def test_a_build_that_nobody_knows_is_cancelled_in_peace(engine: Engine) -> None:
    await BuildCalls(engine).cancel("nobody")
    await BuildCalls(engine).remove_nameless_images("asman.builder", "nobody")
