"""Starting servers and reading what they cost from the kernel's own accounts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Server", "asman_serve", "free_port", "redis_serving", "serving"]

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server process. Units: seconds of CPU in user and system mode, all threads; bytes."""

    port: int
    pid: int
    started_in_s: float

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def memory_bytes(self, name: str = "VmRSS") -> int:
        """``VmRSS`` is what it has now, ``VmHWM`` the most since ``forget_peak``."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(name)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, path: str = "/healthz") -> Iterator[Server]:
    """Run a command until its HTTP server answers, then stop it. Errors: RuntimeError with what it printed."""
    log = Path(f"/tmp/asman-bench-{port}.log")
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        while not _answers(port, path):
            if process.poll() is not None or time.perf_counter() - began > 30:
                raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.002)
        yield Server(port=port, pid=process.pid, started_in_s=time.perf_counter() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.unlink(missing_ok=True)


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def asman_serve(port: int, data: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "asman", "serve", "--port", str(port), "--data", str(data), *more]


@contextlib.contextmanager
def redis_serving(folder: Path, *options: str) -> Iterator[Server]:
    """A Redis of its own on loopback, without persistence unless the options say so."""
    port = free_port()
    base = ["redis-server", "--port", str(port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen([*base, *options], stdout=subprocess.DEVNULL)
    try:
        yield Server(port=port, pid=process.pid, started_in_s=0.0)
    finally:
        process.kill()
        process.wait()
