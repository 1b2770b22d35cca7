"""Fixtures that every folder of tests may use: a Docker engine, a free port.

Longer code stands in ``tests/support``, which is on the import path of the tests (``pythonpath`` in pyproject.toml).
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import DockerEngine, what_is_missing
from edge import Bundle, build_bundle
from other_engines import ENGINES, why_not
from postgres_server import PostgresServer, why_no_postgres
from redis_server import RedisServer, redis_server
from s3_server import S3Server, moto_server
from swift_server import swift_server

pytest_plugins = ["ci_skips"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run last: what is quick fails first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker that a test killed leaves its jobs' outputs mounted; the next start of it would have unmounted them."""
    yield
    below = f"{tmp_path_factory.getbasetemp()}/"
    mounts = Path("/proc/self/mountinfo")
    points = [line.split()[4] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    for point in sorted((p for p in points if p.startswith(below)), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """One engine for the whole run, started when a test asks for it: Docker, or what ASMAN_TEST_ENGINE names."""
    given, kind = os.environ.get("ASMAN_TEST_DOCKER_HOST"), os.environ.get("ASMAN_TEST_ENGINE", "docker")
    missing = None if given else what_is_missing() if kind == "docker" else why_not(kind)
    if missing is not None:
        pytest.skip(missing)
    with DockerEngine.given(given) if given else ENGINES[kind].private() as engine:
        yield engine


@pytest.fixture
def docker_host(docker_engine: DockerEngine) -> str:
    """The engine's address, as DOCKER_HOST takes it. Marks: use it in tests marked ``docker``."""
    return docker_engine.host


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the whole run, started when a test asks for it. To stop one, take one of your own."""
    missing = why_no_postgres()
    if missing is not None:
        pytest.skip(missing)
    with PostgresServer.private() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One Redis for the whole run, started when a test asks for it. To stop one, take one of your own."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 store for the whole run, started when a test asks for it."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def swift() -> Iterator[S3Server]:
    """Another make of S3 store for the whole run, started when a test asks for it."""
    with swift_server() as server:
        yield server


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> S3Server:
    """The store, with its credentials in the environment and none of this machine's own settings."""
    s3_server.as_environment(monkeypatch)
    return s3_server


@pytest.fixture(scope="session")
def edge_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle for Pyodide, built once for the whole run from this tree."""
    return build_bundle(tmp_path_factory.mktemp("edge"))


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
