"""Fixtures for the worker: a scripted server, a host that runs plain processes, an executor on a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from debian_image import DEBIAN, load_debian, why_no_debian
from docker_engine import DockerEngine
from worker_bench import Bench, open_bench
from worker_peers import LocalHost, ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
async def host() -> AsyncIterator[LocalHost]:
    local = LocalHost()
    yield local
    await local.close()


@pytest.fixture(scope="session")
def debian_image(docker_engine: DockerEngine) -> str:
    """An image with real programs, made when the first test asks for it: takes minutes, mark such tests ``slow``."""
    missing = why_no_debian()
    if missing is not None:
        pytest.skip(missing)
    load_debian(docker_engine)
    return DEBIAN


@pytest.fixture
async def bench(docker_host: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(docker_host, tmp_path) as opened:
        yield opened
