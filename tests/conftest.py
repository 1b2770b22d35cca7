"""Fixtures that every folder of tests may use: a Docker engine, a free port.

Longer code stands in ``tests/support``, which is on the import path of the tests (``pythonpath`` in pyproject.toml).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from docker_engine import DockerEngine, what_is_missing

pytest_plugins = ["ci_skips"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run last: what is quick fails first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """One Docker engine for the whole run, started when the first test asks for it."""
    given = os.environ.get("ASMAN_TEST_DOCKER_HOST")
    missing = None if given else what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    with DockerEngine.given(given) if given else DockerEngine.private() as engine:
        yield engine


@pytest.fixture
def docker_host(docker_engine: DockerEngine) -> str:
    """The engine's address, as DOCKER_HOST takes it. Marks: use it in tests marked ``docker``."""
    return docker_engine.host


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
