"""Run a piece of Python in a process of its own, where nothing has been imported yet.

What an import loads can only be seen in a new interpreter. ``GUARD`` is a prelude for it that looks at every import
statement as it runs and refuses those that the core must not make. It asks *who* imports: on CPython the standard
library and Quart themselves use ``threading`` or ``socket``, and they have their own ways around them in Pyodide; a
statement in asman has none. A finder on ``sys.meta_path`` could not tell the two apart, and would not even be asked
for a module that somebody else has loaded already.
"""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["EMSCRIPTEN", "GUARD", "PURE_IMPORTS", "REFUSED_IN_CORE", "run_fresh"]

REFUSED_IN_CORE = frozenset(
    {
        *("threading", "multiprocessing", "concurrent", "subprocess", "signal", "sqlite3", "ssl", "socket"),
        *("selectors", "ctypes", "pwd", "grp", "resource", "curses", "readline", "dbm"),
        *("hypercorn", "uvicorn", "uvloop", "httptools", "aiosqlite", "httpx", "aiohttp", "aiodocker", "click", "rich"),
    }
)
"""What Pyodide lacks or cannot run, and what belongs to a command rather than to the app."""

GUARD = f"""
import builtins
REFUSED = {sorted(REFUSED_IN_CORE)!r}
_import = builtins.__import__
def _guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__") or ""
    if level == 0 and importer.split(".")[0] == "asman" and name.split(".")[0] in REFUSED:
        raise ImportError(f"{{importer}} imports {{name}}, which the core must not")
    return _import(name, globals, locals, fromlist, level)
builtins.__import__ = _guarded
"""

PURE_IMPORTS = """
import builtins, os, random, secrets, sys, time, uuid
def _ours():
    frame = sys._getframe(2)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        if frame.f_globals.get("__name__", "").split(".")[0].startswith("asman"):
            return frame.f_globals["__name__"]
        frame = frame.f_back
def _watched(owner, name):
    plain = getattr(owner, name)
    def watched(*args, **kwargs):
        who = _ours()
        if who:
            raise RuntimeError(f"{who} calls {name} while it is imported")
        return plain(*args, **kwargs)
    setattr(owner, name, watched)
for owner, names in {
    time: ("time", "monotonic", "perf_counter", "time_ns"),
    os: ("urandom", "getenv", "getrandom", "stat", "listdir", "getcwd"),
    random: ("random", "getrandbits", "randint"),
    secrets: ("token_hex", "token_bytes", "token_urlsafe"),
    uuid: ("uuid1", "uuid4"),
    builtins: ("open", "print"),
    type(os.environ): ("__getitem__",),
}.items():
    for name in names:
        _watched(owner, name)
"""
"""Refuse reading the clock, chance, files or the environment at import, where a module of ours asks for it."""

EMSCRIPTEN = """
import sys
class _Absent:
    names = {"hypercorn", "h11", "h2", "wsproto", "priority", "_multiprocessing", "_posixshmem", "_posixsubprocess"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} on this pretended platform", name=name)
sys.meta_path.insert(0, _Absent())
sys.platform = "emscripten"
"""
"""Pretend to be Pyodide: its name for the platform, and without what it lacks or what we leave out there."""


def run_fresh(code: str, *, timeout_s: float = 60.0) -> str:
    """What the code printed. Errors: AssertionError with the traceback if it failed."""
    environ = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
