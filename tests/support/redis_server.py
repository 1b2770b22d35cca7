"""Private Redis servers for tests: alone, behind a sentinel, or as a cluster; gone at the end.

Each has a folder of its own, listens on loopback at a port that was free, and is told to die with this process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

__all__ = ["RedisServer", "redis_cluster", "redis_server", "redis_with_sentinel"]

_START_S = 20.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """One process. Shape: ``url`` is what asman takes; ``client`` a plain client of the library, for looking."""

    def __init__(self, folder: Path, *options: str, port: int = 0, password: str = "") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server; on Debian: apt-get install redis-server")
        self.folder, self.options, self.password = folder, options, password
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password or None, socket_timeout=5)

    def start(self, *, wait: bool = True) -> None:
        secret = ("--requirepass", self.password, "--masterauth", self.password) if self.password else ()
        base = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "")
        with (self.folder / f"log-{self.port}").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "redis-server", *base, *secret, *self.options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            until("redis answers", self._answers)

    def _answers(self) -> bool:
        try:
            with closing(self.client) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        assert self.process is not None
        return self.process.pid


def free_port() -> int:
    """A port such that the cluster's own port, 10000 above it, exists too."""
    while True:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


def until(what: str, ask: Callable[[], Any], within_s: float = _START_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.02)
    return answer


@contextmanager
def redis_server(*options: str, password: str = "", durable: bool = True) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="asman-redis-") as folder:
        server = RedisServer(Path(folder), *(DURABLE if durable else ()), *options, password=password)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[RedisServer]]:
    """Primaries that share all slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(redis_server("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
            for _ in range(nodes)
        ]
        clients = [stack.enter_context(closing(server.client)) for server in servers]
        share = 16384 // nodes
        for number, client in enumerate(clients):
            last = 16383 if number == nodes - 1 else (number + 1) * share - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        for client in clients:
            until("the cluster is up and knows all", lambda c=client: _is_whole(c, nodes))
        yield servers


def _is_whole(client: redis.Redis, nodes: int) -> bool:
    told = bytes(client.execute_command("CLUSTER", "INFO"))
    return b"cluster_state:ok" in told and f"cluster_known_nodes:{nodes}\r".encode() in told


@contextmanager
def redis_with_sentinel() -> Iterator[tuple[str, RedisServer, RedisServer]]:
    """(URL, primary, replica) with one sentinel that fails over within about a second."""
    with redis_server() as primary, redis_server("--replicaof", f"127.0.0.1 {primary.port}") as replica:
        with closing(replica.client) as client:
            until("the replica is in step", lambda: client.info("replication")["master_link_status"] == "up")
        with tempfile.TemporaryDirectory(prefix="asman-sentinel-") as folder:
            port = free_port()
            settings = Path(folder) / "sentinel.conf"
            settings.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor mine 127.0.0.1 {primary.port} 1\n"
                "sentinel down-after-milliseconds mine 500\nsentinel failover-timeout mine 3000\n"
            )
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "redis-server", str(settings), "--sentinel"],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                with closing(redis.Redis(port=port, socket_timeout=5)) as sentinel:
                    until("the sentinel knows the replica", lambda: _knows_replica(sentinel))
                yield f"redis+sentinel://127.0.0.1:{port}/mine", primary, replica
            finally:
                process.kill()
                process.wait()


def _knows_replica(sentinel: redis.Redis) -> bool:
    try:
        found = sentinel.sentinel_slaves("mine")
        return bool(found) and "s_down" not in found[0]["flags"]
    except redis.exceptions.RedisError:
        return False
