"""``asman up`` for tests: a server and a worker on an engine, which a test may stop and start again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import Process, call, eventually

__all__ = ["Up", "running_up"]


class Up:
    """A running ``asman up``. Shape: ``url`` without a final slash; ``queue`` is served by the worker beside it."""

    def __init__(self, docker_host: str, folder: Path, queue: str) -> None:
        port = _free_port()
        self.docker_host = docker_host
        self._env = {**os.environ, "DOCKER_HOST": docker_host, "ASMAN_PORT": str(port)}
        self._folder = folder
        self.url, self.queue = f"http://localhost:{port}", queue
        self.process = self._start()

    def _start(self) -> Process:
        return Process("up", "--queue", self.queue, env=self._env, cwd=self._folder)

    def start_again(self) -> None:
        """Stop it in good order, start it on the same port and data, and wait for its worker."""
        self.process.__exit__()
        self.process = self._start()
        self.wait()

    def wait(self) -> None:
        """Until a worker is connected."""
        eventually("a worker is connected", self._has_worker, timeout_s=60)

    def _has_worker(self) -> bool:
        assert self.process.is_running(), self.process.output
        try:
            return bool(call("GET", f"{self.url}/q/{self.queue}/status", timeout_s=5.0)[1]["localWorkers"])
        except OSError:
            return False


@contextmanager
def running_up(docker_host: str, folder: Path, queue: str) -> Iterator[Up]:
    up = Up(docker_host, folder, queue)
    try:
        up.wait()
        yield up
    finally:
        up.process.__exit__()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
