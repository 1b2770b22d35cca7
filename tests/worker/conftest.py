"""Fixtures for the worker's socket half: a scripted server, a host that runs plain processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
