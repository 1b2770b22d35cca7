"""Registry processes where an engine can reach them: a tiny one of ours to pull from, and Debian's to push to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_engine import DockerEngine

__all__ = ["Registry", "full_registry", "tiny_registry"]


class Registry:
    """The registry process, in the engine's network."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder

    def count(self, part: str) -> int:
        log = self.folder / "log"
        return sum(part in line for line in log.read_text().splitlines()) if log.exists() else 0

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink()


@contextmanager
def tiny_registry(docker_engine: DockerEngine, free_port: int, folder: Path) -> Iterator[Registry]:
    command = [sys.executable, str(Path(__file__).parent / "tiny_registry.py"), str(free_port), str(folder)]
    if docker_engine.pid is not None:
        command = docker_engine.inside(*command)
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "ready").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Registry(f"127.0.0.1:{free_port}", folder)
    finally:
        process.kill()
        process.wait()


_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def full_registry(docker_engine: DockerEngine, free_port: int, folder: Path) -> Iterator[str]:
    """Debian's ``docker-registry``, which takes pushes; the address that the engine knows it by."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry; on Debian: apt-get install docker-registry")
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(folder=folder / "data", port=free_port))
    command = ["docker-registry", "serve", str(config)]
    if docker_engine.pid is not None:
        command = docker_engine.inside(*command)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not _answers(docker_engine, free_port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{free_port}"
    finally:
        process.kill()
        process.wait()


def _answers(docker_engine: DockerEngine, port: int) -> bool:
    """Does it answer, seen from the engine?"""
    command = ["busybox", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{port}/v2/"]
    if docker_engine.pid is not None:
        command = docker_engine.inside(*command)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
