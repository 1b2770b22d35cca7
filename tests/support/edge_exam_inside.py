"""Runs inside Pyodide, in a Durable Object: ``check_backend`` on the bindings of that object, with nothing but pytest.

There is one event loop and it is the host's, so what would make a loop of its own suspends instead until its coroutine
has ended. Instead of pytest-asyncio, which makes loops, a hook of three lines runs the coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import zipfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from pyodide.ffi import run_sync  # type: ignore[import-not-found]

KITS = "/kits.zip"
"""pytest, hypothesis and ``asman.testing``, where the host has put them."""


class _Runner:
    """Stands for ``asyncio.Runner`` and ``asyncio.run``."""

    def run(self, work: Coroutine[Any, Any, Any], **_: Any) -> Any:
        return run_sync(work)

    def close(self) -> None:
        pass


def _prepare() -> None:
    """The kits as files: pytest collects no tests out of an archive."""
    folder = "/kits"
    with zipfile.ZipFile(KITS) as archive:
        archive.extractall(folder)
    os.unlink(KITS)
    sys.path.insert(0, folder)
    import asman

    asman.__path__.append(f"{folder}/asman")
    asyncio.Runner = _Runner  # type: ignore[assignment, misc]
    asyncio.run = lambda work, **_: run_sync(work)  # type: ignore[assignment]


_prepare()

import pytest  # noqa: E402

from asman.testing import check  # noqa: E402


class _Suspends:
    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        if not inspect.iscoroutinefunction(pyfuncitem.obj):
            return None
        given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        run_sync(pyfuncitem.obj(**given))
        return True


_main = pytest.main
pytest.main = lambda args, plugins: _main(args, plugins=[*plugins, _Suspends()])  # type: ignore[assignment]


class _Recorder:
    """Gives the tests the bindings, as the fixture ``env``, and takes their outcomes."""

    def __init__(self, env: Any, state: Any) -> None:
        self._env, self._state = env, state
        self.outcomes: list[tuple[str, str]] = []

    @pytest.fixture
    def env(self) -> Any:
        return self._env

    @pytest.fixture
    def state(self) -> Any:
        return self._state

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes.append((report.nodeid.rpartition("::")[2], _said(report)))


def _said(report: pytest.TestReport) -> str:
    if report.passed:
        return "passed"
    return f"{report.outcome}: {report.longreprtext[-2000:]}"


def _written(text: str) -> Path:
    """A folder with this one test file."""
    folder = Path("/own")
    folder.mkdir(exist_ok=True)
    (folder / "test_own.py").write_text(text)
    sys.modules.pop("test_own", None)
    return folder


async def own(text: str, only: str, env: Any, state: Any) -> str:
    """JSON of the outcomes of a test file, whose coroutines run on the bindings of this object."""
    folder = _written(text)
    recorder = _Recorder(env, state)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:logging", "--tb=short", "--capture=no", "-k", only]
    ended = pytest.main([str(folder), *options], plugins=[recorder])
    if not recorder.outcomes:
        recorder.outcomes.append(("collection", f"failed: pytest ended with {ended}"))
    return json.dumps(recorder.outcomes)


async def exam(url: str, only: str, env: Any, state: Any, queue: str) -> str:
    """JSON of what ``check_backend`` answers for a URL on this object's bindings."""
    import asman_sqlite

    plugins: list[object] = [asman_sqlite]
    try:
        from asman_cloudflare import Platform

        plugins.append(Platform(env, state, queue))
    except ImportError:
        pass
    return json.dumps(await check.check_backend(url, plugins=plugins, only=only))
