"""What tests of the page share: a browser, and ``asman up`` with a real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser import Browser, browsing, why_no_browser
from docker_engine import DockerEngine
from up import Up, running_up


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for the tests of one module: its event loop must be gone before coroutines are tested."""
    missing = why_no_browser()
    if missing is not None:
        pytest.skip(missing)
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def up(docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """``asman up`` on the tests' engine, with a connected worker. Marks: use it in tests marked ``docker``."""
    with running_up(docker_engine.host, tmp_path_factory.mktemp("up"), "page-tests") as running:
        yield running
