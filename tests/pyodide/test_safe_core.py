"""The core can run where there are no threads, processes or sockets. Checked on CPython, in fresh processes.

This shows who imports what, in milliseconds and without Pyodide; it does not show that Pyodide runs the app.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import asman
from fresh_python import EMSCRIPTEN, GUARD, PURE_IMPORTS, run_fresh

OUTSIDE = {
    "asman.__main__": "starts a command",
    "asman.cli": "the command line: click, files, terminals",
    "asman.client": "talks HTTP through httpx",
    "asman.prefork": "the server command with several processes",
    "asman.serve": "the server command: hypercorn, signals, sweeping",
    "asman.testing": "the kits: pytest and hypothesis",
}
"""Not part of the app; all other modules are."""


def _core() -> list[str]:
    """By file name: importing a package to look into it would run what is checked here."""
    assert asman.__file__ is not None
    root = Path(asman.__file__).parent
    parts = [path.relative_to(root.parent).with_suffix("").parts for path in sorted(root.rglob("*.py"))]
    names = [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts]
    return [name for name in names if not any(name == out or name.startswith(f"{out}.") for out in OUTSIDE)]


def test_what_stands_outside_exists_and_the_app_does_not() -> None:
    core = _core()
    assert {"asman", "asman.app", "asman.memory", "asman.operations.step", "asman.routes.jobs"} <= {*core}
    assert all(importlib.util.find_spec(name) is not None for name in OUTSIDE)


def test_every_core_module_imports_without_what_pyodide_lacks() -> None:
    imports = "".join(f"import {name}\n" for name in _core())
    assert run_fresh(f"{GUARD}{imports}print('fine')") == "fine\n"


def test_every_core_module_imports_on_a_pretended_pyodide() -> None:
    imports = "".join(f"import {name}\n" for name in _core())
    code = "print(*sorted(m for m in sys.modules if m.split('.')[0] in ('hypercorn', 'h11', 'h2')))"
    seen = run_fresh(f"{EMSCRIPTEN}{GUARD}{imports}{code}")
    assert seen.split() == ["hypercorn", "hypercorn.asyncio", "hypercorn.config", "hypercorn.typing"]


def test_importing_the_core_reads_no_clock_no_chance_no_file_and_no_environment() -> None:
    imports = "".join(f"import {name}\n" for name in _core())
    assert run_fresh(f"{PURE_IMPORTS}{imports}import sys; sys.stdout.write('fine')") == "fine"


@pytest.mark.parametrize(
    ("prelude", "statement", "said"),
    [
        (GUARD, "import threading", "asman.bad imports threading"),
        (GUARD, "from concurrent.futures import Future", "asman.bad imports concurrent.futures"),
        (PURE_IMPORTS, "import time; started = time.time()", "asman.bad calls time"),
        (PURE_IMPORTS, "import os; home = os.environ.get('HOME')", "asman.bad calls __getitem__"),
        (PURE_IMPORTS, "import uuid; here = uuid.uuid4()", "asman.bad calls u"),
        (PURE_IMPORTS, "text = open('/dev/null').read()", "asman.bad calls open"),
    ],
)
def test_the_check_itself_catches_a_module_that_does_so(prelude: str, statement: str, said: str) -> None:
    code = f"""{prelude}
import sys
try:
    exec({statement!r}, {{"__name__": "asman.bad"}})
except (ImportError, RuntimeError) as error:
    sys.stdout.write(str(error))
"""
    assert run_fresh(code).startswith(said)


def test_the_app_takes_and_shows_a_job_on_a_pretended_pyodide() -> None:
    code = """
import asyncio
from asman.app import create_app
from asman.config import Config

async def use():
    app = create_app(Config(backend="memory"), discover=False)
    client = app.test_client()
    async with asyncio.timeout(30):
        made = await client.post("/q/edge", json={"definition": {"image": "alpine:3.19.1", "command": "true"}})
        job_id = (await made.get_json())["jobId"]
        listing = await (await client.get("/q/edge")).get_json()
    print(made.status_code, job_id in str(listing))

asyncio.run(use())
"""
    assert run_fresh(f"{EMSCRIPTEN}{GUARD}{code}") == "200 True\n"
