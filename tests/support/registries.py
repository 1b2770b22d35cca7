"""A registry process (``tiny_registry.py``) where an engine can reach it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker_engine import DockerEngine

__all__ = ["Registry", "tiny_registry"]


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
