"""A private Docker engine for one test run: started here, used over its socket, gone afterwards.

The engine gets its own data, its own socket, its own cgroup and its own network namespace, so that two runs on one
machine, or a run beside the machine's own Docker, cannot see each other: bridges and firewall rules live in the
namespace and vanish with it. It shares the machine's mounts, because a worker hands it paths.

The network namespace has no way out. An image is made here from busybox and called ``alpine:3.19.1``, the name that
jobs in examples use; nothing is pulled. Where this cannot work the reason starts with "needs": such a skip is a
failure in CI (see ``ci_skips``).

``ASMAN_TEST_DOCKER_HOST`` names an engine to use instead; it must have the image already.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

__all__ = ["GUARD_IMAGE", "IMAGE", "DockerEngine", "EngineFailed", "remove_home", "what_is_missing"]

IMAGE = "alpine:3.19.1"
GUARD_IMAGE = "busybox:1.36"
_START_S = 60.0
_STOP_S = 20.0
_TOOLS = {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2", "busybox": "busybox-static"}


class EngineFailed(Exception):
    """The engine did not start, or did not answer as it should."""


def what_is_missing() -> str | None:
    """One line that starts with "needs", or None where an engine can be started."""
    if os.uname().sysname != "Linux":
        return "needs Linux to start a private Docker engine, or ASMAN_TEST_DOCKER_HOST=unix:///path"
    if os.geteuid() != 0:
        return "needs root to start a private Docker engine, or ASMAN_TEST_DOCKER_HOST=unix:///path"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        return f"needs a Docker engine; on Debian: apt-get install {' '.join(missing)}"
    return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerEngine:
    """One running engine.

    Shape: ``host`` is what DOCKER_HOST takes; ``pid`` the engine's process, whose network namespace is the one that
           containers see as the host's (``inside`` runs a command in it); None for an engine that was given to us.
    """

    kind = "docker"

    @property
    def worker_flags(self) -> tuple[str, ...]:
        """What a worker has to be told so that it starts with this engine."""
        return ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """Limits that this engine cannot keep on this machine."""
        return ()

    def __init__(self, host: str, pid: int | None) -> None:
        self.host = host
        self.pid = pid

    def as_worker(self, command: Sequence[str]) -> list[str]:
        """The command line of a worker that is to use this engine: as the same user, where that matters."""
        return list(command)

    @contextlib.contextmanager
    def folder(self, given: Path) -> Iterator[Path]:
        """A place for a worker's data that this engine reaches too; ``given`` where that will do."""
        yield given

    @classmethod
    @contextlib.contextmanager
    def given(cls, host: str) -> Iterator[DockerEngine]:
        """An engine that runs already. Errors: EngineFailed if it does not answer or lacks the image."""
        engine = cls(host, None)
        try:
            status, _ = engine.request("GET", f"/images/{IMAGE}/json")
        except OSError as error:
            raise EngineFailed(f"ASMAN_TEST_DOCKER_HOST is {host}, where no engine answers: {error}") from error
        if status != 200:
            raise EngineFailed(f"the engine at {host} lacks the image {IMAGE}; run: docker -H {host} pull {IMAGE}")
        yield engine

    @classmethod
    @contextlib.contextmanager
    def private(cls, tools: Path | None = None, config: str = "{}") -> Iterator[DockerEngine]:
        """Start an engine, load the image, and leave nothing behind. Errors: EngineFailed, with the engine's log.

        Shape:  ``tools`` is a folder whose programs the engine finds first; ``config`` is its ``daemon.json``.
        """
        name = f"asman-tests-{secrets.token_hex(4)}"
        home = Path(tempfile.mkdtemp(prefix="asman-docker-"))
        log = home / "log"
        path = f"{tools}:{os.environ['PATH']}" if tools else os.environ["PATH"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(home, name, config),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
        try:
            engine = cls(f"unix://{home / 'docker.sock'}", process.pid)
            engine.wait_until_up(process, log)
            for image in (IMAGE, GUARD_IMAGE):
                engine.load_image(image)
            yield engine
            engine._kill_containers()
        finally:
            _stop(process, name)
            remove_home(home)

    def request(
        self, method: str, path: str, body: bytes | IO[bytes] | None = None, timeout_s: float = 60.0
    ) -> tuple[int, bytes]:
        """One call of the engine's HTTP interface. Errors: OSError if nobody answers."""
        connection = _UnixConnection(self.host.removeprefix("unix://"), timeout_s)
        try:
            connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def load_image(self, tag: str) -> None:
        """Make an image of busybox under this name."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        changes = "".join(f"&changes={quote(line)}" for line in (f"ENV {path}", 'CMD ["/bin/sh"]'))
        query = f"fromSrc=-&repo={quote(tag)}{changes}"
        status, answer = self.request("POST", f"/images/create?{query}", _busybox_tree())
        if status != 200 or b'"error"' in answer:
            raise EngineFailed(f"the engine did not import {tag}: {status} {answer.decode(errors='replace')}")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command in the engine's network namespace."""
        if self.pid is None:
            raise EngineFailed("an engine given by ASMAN_TEST_DOCKER_HOST has no network namespace of ours")
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def _kill_containers(self) -> None:
        """What tests left running is not worth the grace period that a stopping engine would give it."""
        for container in json.loads(self.request("GET", "/containers/json")[1]):
            self.request("POST", f"/containers/{container['Id']}/kill")

    def wait_until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Errors: EngineFailed, with the end of the log."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise EngineFailed(f"the engine ended with {process.returncode}: {_tail(log)}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/_ping", timeout_s=5.0)[0] == 200:
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        raise EngineFailed(f"the engine did not answer within {_START_S:.0f} s: {_tail(log)}")


def _command(home: Path, name: str, config: str) -> list[str]:
    """Dies with us (``--pdeathsig``), in a network namespace of its own, with loopback up."""
    engine = [
        *("dockerd", "--data-root", str(home / "data"), "--exec-root", str(home / "exec")),
        *("--pidfile", str(home / "pid"), "-H", f"unix://{home / 'docker.sock'}"),
        *("--cgroup-parent", f"/{name}", "--config-file", str(home / "daemon.json"), "--log-level", "warn"),
    ]
    (home / "daemon.json").write_text(config)
    script = 'ip link set lo up && exec "$@"'
    return ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", "sh", "-c", script, "sh", *engine]


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-8:])


def _busybox_tree() -> bytes:
    """A root file system as a tar: busybox, a link for each applet, and what programs expect to find."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = {
        "bin/busybox": Path(busybox).read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        "etc/os-release": b'ID=alpine\nNAME="busybox for tests"\nVERSION_ID=3.19.1\n',
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "usr", "usr/bin", "var"):
            _add(tar, name, tarfile.DIRTYPE, 0o755)
        _add(tar, "tmp", tarfile.DIRTYPE, 0o1777)
        for name, content in files.items():
            _add(tar, name, tarfile.REGTYPE, 0o755 if name.startswith("bin/") else 0o644, content)
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        _add(tar, "usr/bin/env", tarfile.SYMTYPE, 0o777, link="/bin/busybox")
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    tar.addfile(entry, io.BytesIO(content))


def _stop(process: subprocess.Popen[bytes], name: str) -> None:
    """TERM makes the engine stop its containers; what is left after the bound is killed, by its cgroup."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for group in _groups(name):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    _remove_groups(name)


def _groups(name: str) -> list[Path]:
    """The engine's cgroup and those below it, the deepest first, in every hierarchy."""
    root = Path("/sys/fs/cgroup")
    tops = [root / name, *(hierarchy / name for hierarchy in root.iterdir() if hierarchy.is_dir())]
    found = [group for top in tops if top.is_dir() for group in (top, *top.rglob("*/"))]
    return sorted(found, key=lambda group: len(group.parts), reverse=True)


def _remove_groups(name: str) -> None:
    deadline = time.monotonic() + _STOP_S
    while (left := _groups(name)) and time.monotonic() < deadline:
        for group in left:
            with contextlib.suppress(OSError):
                group.rmdir()


def remove_home(home: Path) -> None:
    """Unmount what the engine left mounted below its folder, then remove it."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{home}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)
