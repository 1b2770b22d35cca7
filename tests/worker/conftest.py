"""Fixtures for the worker: a scripted server, a host that runs plain processes, an executor on a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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


@pytest.fixture
async def bench(docker_host: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(docker_host, tmp_path) as opened:
        yield opened
