"""The owner's registry: what is put there comes back under its own name, and trouble with it is only a line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asman_worker.build_cache import PULL_STEP, PUSH_STEP, BuildCache
from asman_worker.build_calls import BuildCalls
from asman_worker.docker import Engine
from docker_engine import IMAGE, DockerEngine
from registries import full_registry

pytestmark = pytest.mark.docker

NAME = "asman-build:00000000000000000000000000000000"


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        await BuildCalls(opened).tag(IMAGE, *NAME.split(":"))
        yield opened
        await BuildCalls(opened).remove_image(NAME)


async def test_an_image_goes_and_comes_back(
    engine: Engine, docker_engine: DockerEngine, free_port: int, tmp_path: Path
) -> None:
    calls, said = BuildCalls(engine), list[tuple[str, str]]()
    with full_registry(docker_engine, free_port, tmp_path) as address:
        cache = BuildCache(engine, f"{address}/kept")
        before = await engine.image(NAME)
        cache.keep(NAME, (lambda step, text: said.append((step, text)),))
        await cache.settle()
        assert {step for step, _ in said} == {PUSH_STEP}
        await calls.remove_image(NAME)
        said.clear()
        assert await cache.take(NAME, lambda step, text: said.append((step, text)))
        assert {step for step, _ in said} == {PULL_STEP}
        assert await engine.image(NAME) == before
        assert await engine.image(f"{address}/kept:{NAME.partition(':')[2]}") is None
        other = "asman-build:11111111111111111111111111111111"
        assert not await cache.take(other, lambda step, text: said.append((step, text)))
        assert "manifest" in said[-1][1]


async def test_a_registry_that_is_not_there_is_a_line_in_the_log(engine: Engine, free_port: int) -> None:
    said: list[str] = []
    cache = BuildCache(engine, f"127.0.0.1:{free_port}/kept")
    assert not await cache.take(NAME, lambda step, text: said.append(text))
    cache.keep(NAME, (lambda step, text: said.append(text),))
    async with asyncio.timeout(60):
        await cache.settle()
    assert "not taken from the owner's registry" in said[0]
    assert "not kept in the owner's registry" in said[-1]
    assert await engine.image(NAME) is not None


async def test_without_a_registry_nothing_goes_anywhere(engine: Engine) -> None:
    said: list[str] = []
    cache = BuildCache(engine, "")
    assert not await cache.take(NAME, lambda step, text: said.append(text))
    cache.keep(NAME, (lambda step, text: said.append(text),))
    await cache.settle()
    assert said == []
