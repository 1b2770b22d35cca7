"""The real app in process, for peers that know nothing of its inside."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import asman_filesystem
import asman_postgres
import asman_redis
import asman_s3
import asman_sqlite
from in_process import InProcess, in_process
from redis_server import RedisServer
from s3_server import S3Server

BACKENDS = ("memory", "sqlite+filesystem", "sqlite+s3", "redis+filesystem", "redis+s3", "postgres+s3")
_MEMORY_ONLY = ("skipping_time", ".contents()")
"""Tests that let time jump need everything in one loop; some look inside the memory stores."""
_BACKENDS_OF = {"test_old_peers.py": ("memory", "sqlite+filesystem", "redis+s3")}
"""Many tests of how peers speak: on fewer kinds of stores."""
_WITHOUT_STORES = ("test_bad_input.py",)
"""What is refused there is refused before a store is asked."""
_PLUGINS = (asman_sqlite, asman_filesystem, asman_redis, asman_postgres, asman_s3)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings of a server on each kind of store, each test with a place of its own in it."""
    jobs, _, blobs = request.param.partition("+")
    flags = {"backend": request.param, "data": str(tmp_path)}
    if jobs == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        flags["redis"] = f"{redis.url}?prefix=p{uuid.uuid4().hex[:12]}"
    if jobs == "postgres":
        url: str = request.getfixturevalue("postgres_server").url
        flags["postgres"] = f"{url}{'&' if '?' in url else '?'}schema=s{uuid.uuid4().hex[:12]}"
    if blobs == "s3":
        aws: S3Server = request.getfixturevalue("aws")
        flags["s3"] = aws.url(request.getfixturevalue("bucket"))
    return flags


@pytest.fixture
def bucket(aws: S3Server) -> str:
    return aws.bucket()


@pytest.fixture
async def served(backend: dict[str, str]) -> AsyncIterator[InProcess]:
    """A running app on each kind of store, a clock that the test moves, and a check of all jobs at the end."""
    async with in_process(plugins=_PLUGINS, **backend) as running:
        yield running


@pytest.fixture
async def public() -> AsyncIterator[InProcess]:
    """The same under the limits of a server for strangers, and not on loopback."""
    async with in_process(profile="public", host="0.0.0.0") as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the served app is one of it on each kind of store that it can be about."""
    if "backend" not in metafunc.fixturenames:
        return
    file = Path(inspect.getfile(metafunc.function)).name
    source = inspect.getsource(metafunc.function)
    is_for_memory = file in _WITHOUT_STORES or any(word in source for word in _MEMORY_ONLY)
    chosen = ("memory",) if is_for_memory else _BACKENDS_OF.get(file, BACKENDS)
    metafunc.parametrize("backend", chosen, indirect=True)
