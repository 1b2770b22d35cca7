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


async def exam(url: str, only: str, env: Any, state: Any, queue: str) -> str:
    """JSON of what ``check_backend`` answers for a URL on this object's bindings."""
    plugins: list[object] = []
    try:
        from asman_cloudflare import Platform

        plugins.append(Platform(env, state, queue))
    except ImportError:
        pass
    return json.dumps(await check.check_backend(url, plugins=plugins, only=only))
