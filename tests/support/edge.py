"""The edge form of the app for tests: its bundle, built once by the build itself, and servers that run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from served import Served, environ

__all__ = [
    "EDGE",
    "Bundle",
    "build_bundle",
    "edge_served",
    "install_node_modules",
    "node_or_skip",
    "run_node",
    "workerd_served",
]

ROOT = Path(__file__).parents[2]
EDGE = ROOT / "deploy" / "edge"
NODE = (20, 19)
_NPM_S, _BUILD_S = 150.0, 150.0
_NO_NODE = "needs Node.js 20.19 or newer with npm; on Debian: apt-get install nodejs npm"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A built bundle. Shape: ``said`` is what the build printed."""

    folder: Path
    said: str

    @property
    def file(self) -> Path:
        return self.folder / "bundle.zip"


def node_or_skip() -> None:
    said = "" if shutil.which("npm") is None else _output("node", "--version")
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < NODE:
        pytest.skip(_NO_NODE)


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def install_node_modules() -> None:
    """As the README says it, where it was not done since the lock file changed."""
    node_or_skip()
    lock, installed = EDGE / "package-lock.json", EDGE / "node_modules" / ".package-lock.json"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = ["npm", "ci", "--prefer-offline"]
    done = subprocess.run(command, cwd=EDGE, capture_output=True, text=True, timeout=_NPM_S, check=False)
    if done.returncode:
        pytest.skip(f"needs npm's registry, or a mirror that npm knows: {done.stderr.strip()[-300:]}")


def run_node(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Node with this Python as the one that has pip. ``more`` is environment."""
    return subprocess.run(
        ["node", *arguments],
        cwd=EDGE,
        env={**os.environ, "PYTHON": sys.executable, **more},
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )


def build_bundle(folder: Path) -> Bundle:
    install_node_modules()
    done = run_node("build.mjs", "--out", str(folder))
    if done.returncode and "pip" in done.stderr and "download" in done.stderr:
        pytest.skip(f"needs PyPI, or a mirror that pip knows: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return Bundle(folder=folder, said=done.stdout)


def edge_served(bundle: Bundle, *options: str, cwd: Path, **more: str) -> AbstractContextManager[Served]:
    """The app in Pyodide on Node, on a free port of loopback. ``more`` is environment."""
    return _served("serve.mjs", bundle, *options, cwd=cwd, **more)


def workerd_served(bundle: Bundle, *options: str, cwd: Path, **more: str) -> AbstractContextManager[Served]:
    """The Worker in Cloudflare's own runtime, with bindings of its own. ``more`` is environment: its variables."""
    return _served("serve-workerd.mjs", bundle, *options, cwd=cwd, **more)


@contextmanager
def _served(program: str, bundle: Bundle, *options: str, cwd: Path, **more: str) -> Iterator[Served]:
    command = ["node", str(EDGE / program), "--bundle", str(bundle.file), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=cwd, env=environ(**more), stderr=subprocess.PIPE, text=True)
    server = Served(process=process)
    try:
        server.hear("asman serves ", 90.0)
        yield server
    finally:
        server.end()
