"""Private engines of other kinds, in the shape of ``DockerEngine``: Podman, and Docker without root rights.

Each lives in a namespace of its own for processes, mounts and network: with its first process everything ends that it
ever started, and every mount it made. Users, their ranges of ids and device nodes that an engine without rights needs
are laid over the machine's in that namespace only; nothing of the machine is changed.

An engine without rights reaches only what its user reaches, so a worker that uses it has to be that user as well:
``as_worker`` says how. What lies below folders that are closed to others (a Python in root's home) is shown to that
user at its own path.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from docker_engine import GUARD_IMAGE, IMAGE, DockerEngine, remove_home

__all__ = ["ENGINES", "Podman", "RootlessDocker", "RootlessPodman", "why_not"]

_USER = 64321
_NAME = "asman-test"
_COMMON = {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "busybox": "busybox-static"}
_PODMAN = {
    "podman": "podman",
    "runc": "runc",
    "catatonit": "catatonit",
    "iptables": "iptables",
    "/usr/lib/podman/netavark": "netavark",
}
_ROOTLESS = {"slirp4netns": "slirp4netns", "newuidmap": "uidmap", "nsenter": "util-linux"}
_TOOLS = {
    "podman": _PODMAN,
    "rootless": {**_ROOTLESS, "dockerd": "docker.io", "iptables": "iptables", "rootlesskit": "rootlesskit"},
    "rootless-podman": {**_ROOTLESS, **_PODMAN},
}
_RAISES_LIMITS = 1 << 24
"""CAP_SYS_RESOURCE, as a bit."""


def why_not(kind: str) -> str | None:
    """Why this kind of engine cannot be started here, None where it can."""
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        return f"needs Linux and root to start a private engine of the kind {kind}"
    missing = [package for tool, package in {**_COMMON, **_TOOLS[kind]}.items() if shutil.which(tool) is None]
    if missing:
        return f"needs an engine of the kind {kind}; on Debian: apt-get install {' '.join(sorted(set(missing)))}"
    if kind.startswith("rootless") and not Path("/dev/net/tun").exists():
        return "this kernel has no /dev/net/tun, without which an engine without root rights has no network"
    return None


@contextlib.contextmanager
def _process(script: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell script in namespaces of its own; killed at the end, with all that it started.

    The shell stays, as the first process of its namespace: it is told to die with its parent, and that is forgotten by
    a process that becomes another user. Its death ends all others.
    """
    spaces = (
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--mount",
        "--propagation",
        "slave",
        "--net",
    )
    with (home / "log").open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *spaces, "sh", "-euc", f"{script}; exit"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        remove_home(home)


class Podman(DockerEngine):
    """Podman with root rights, over its Docker-compatible socket."""

    kind = "podman"

    @classmethod
    @contextlib.contextmanager
    def private(cls, tools: Path | None = None) -> Iterator[DockerEngine]:
        """Start it, load the image, and leave nothing behind. Errors: EngineFailed, with the engine's log."""
        home = Path(tempfile.mkdtemp(prefix="asman-podman-"))
        (home / "containers.conf").write_text(_podman_settings(home, home / "net"))
        (home / "registries.conf").write_text(_REGISTRIES)
        where = f"--root {home}/data --runroot {home}/run --tmpdir {home}/tmp --storage-driver overlay"
        script = (
            f"cd {home}; ip link set lo up; export CONTAINERS_CONF={home}/containers.conf "
            f"CONTAINERS_REGISTRIES_CONF={home}/registries.conf; "
            f"podman {where} system service --time=0 unix://{home}/podman.sock"
        )
        try:
            with _process(script, home) as process:
                engine = cls(f"unix://{home}/podman.sock", process.pid)
                engine.wait_until_up(process, home / "log")
                for image in (IMAGE, GUARD_IMAGE):
                    engine.load_image(image)
                try:
                    yield engine
                finally:
                    engine._remove_containers()
        finally:
            _remove_empty_groups()

    def _remove_containers(self) -> None:
        """Their cgroups are outside of the engine's namespaces, and go with them."""
        for container in json.loads(self.request("GET", "/containers/json?all=1")[1]):
            self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")


def _remove_empty_groups() -> None:
    """Podman's own group is outside of its namespaces. Another Podman that is at work keeps what it uses."""
    groups = list(Path("/sys/fs/cgroup").glob("*/libpod_parent/**/"))
    for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


_REGISTRIES = """
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "127.0.0.1"
insecure = true
"""
"""As Docker's engine has it without being told."""


def _podman_settings(home: Path, networks: Path) -> str:
    return f"""
[containers]
init_path = "{shutil.which("catatonit")}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{_runtime(home)}"
[network]
network_backend = "netavark"
network_config_dir = "{networks}"
[engine.runtimes]
clipped = ["{home}/clipped"]
"""


_CLIPPED = """#!{python} -ISE
import json, os, resource, sys
MOST = {most}
if "--bundle" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    for limit in config["process"].get("rlimits", []):
        for name in ("hard", "soft"):
            limit[name] = min(limit[name], MOST.get(limit["type"], limit[name]))
    with open(path, "w") as file:
        json.dump(config, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""


def _runtime(home: Path) -> str:
    """Podman asks for more open files and processes than a machine may give that has no right to raise limits."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    if int(line.split()[1], 16) & _RAISES_LIMITS:
        return "runc"
    most = {
        "RLIMIT_NOFILE": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "RLIMIT_NPROC": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    program = home / "clipped"
    program.write_text(_CLIPPED.format(python=sys.executable, most=most))
    program.chmod(0o755)
    return "clipped"


class _Rootless(DockerEngine):
    """An engine of a user without rights, with ids of its own."""

    @classmethod
    @contextlib.contextmanager
    def private(cls, tools: Path | None = None) -> Iterator[DockerEngine]:
        """Start it, load the image, and leave nothing behind. Errors: EngineFailed, with the engine's log."""
        home = Path(tempfile.mkdtemp(prefix=f"asman-{cls.kind}-"))
        home.chmod(0o755)
        with _process(_as_user(home, cls._command(home)), home) as process:
            engine = cls(f"unix://{home}/user/engine.sock", process.pid)
            engine.wait_until_up(process, home / "log")
            for image in (IMAGE, GUARD_IMAGE):
                engine.load_image(image)
            yield engine

    @staticmethod
    def _command(home: Path) -> str:
        """What the user runs. Shape: a shell command that listens at ``user/engine.sock`` below ``home``."""
        raise NotImplementedError

    @property
    def worker_flags(self) -> tuple[str, ...]:
        return ("--without-limits", ",".join(self.lacks)) if self.lacks else ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """By the kernel's groups, not by what the engine says: that is what is tested."""
        return () if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ("memory", "cpus", "pids")

    def as_worker(self, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", f"--setuid={_USER}", f"--setgid={_USER}"]
        return [*enter, "env", f"--chdir={Path.cwd()}", *command]

    @contextlib.contextmanager
    def folder(self, given: Path) -> Iterator[Path]:
        made = Path(tempfile.mkdtemp(prefix="asman-data-"))
        made.chmod(0o755)
        os.chown(made, _USER, _USER)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


class RootlessDocker(_Rootless):
    """Docker's engine without root rights."""

    kind = "rootless"

    @staticmethod
    def _command(home: Path) -> str:
        (home / "daemon.json").write_text("{}")
        engine = (
            f"rm -f /run/docker /run/containerd /run/xtables.lock; exec dockerd --rootless --log-level warn "
            f"--data-root {home}/user/data --exec-root {home}/user/exec --pidfile {home}/user/pid "
            f"-H unix://{home}/user/engine.sock --config-file {home}/daemon.json"
        )
        kit = f"rootlesskit --state-dir={home}/user/kit --net=slirp4netns --mtu=65520 --disable-host-loopback"
        more = "--port-driver=builtin --copy-up=/etc --copy-up=/run --propagation=rslave"
        return f"{kit} {more} sh -c {shlex.quote(engine)}"


class RootlessPodman(_Rootless):
    """Podman without root rights."""

    kind = "rootless-podman"

    @staticmethod
    def _command(home: Path) -> str:
        (home / "containers.conf").write_text(_podman_settings(home, home / "user/net"))
        (home / "registries.conf").write_text(_REGISTRIES)
        where = f"--root {home}/user/data --runroot {home}/user/run --tmpdir {home}/user/tmp --storage-driver overlay"
        settings = f"CONTAINERS_CONF={home}/containers.conf CONTAINERS_REGISTRIES_CONF={home}/registries.conf"
        return f"{settings} podman {where} system service --time=0 unix://{home}/user/engine.sock"


def _as_user(home: Path, command: str) -> str:
    """A script that makes a user with ids of its own, as this namespace sees it, and runs a command as that user."""
    entry, group = f"{_NAME}:x:{_USER}:{_USER}::{home}/user:/bin/sh", f"{_NAME}:x:{_USER}:"
    texts = {
        "passwd": Path("/etc/passwd").read_text() + entry + "\n",
        "group": Path("/etc/group").read_text() + group + "\n",
        "subuid": f"{_NAME}:2000000:65536\n",
        "subgid": f"{_NAME}:2000000:65536\n",
    }
    lines = [f"cd {home}; ip link set lo up"]
    for name, text in texts.items():
        (home / name).write_text(text)
        lines.append(f"[ -e /etc/{name} ] || touch /etc/{name}; mount --bind {home}/{name} /etc/{name}")
    lines += [
        "mount -t tmpfs -o mode=755 tmpfs /dev/net; mknod -m 666 /dev/net/tun c 10 200",
        f"mkdir {home}/user; chown {_USER}:{_USER} {home}/user; chmod 700 {home}/user",
        *_shown(home, (sys.prefix, sys.base_prefix, *(path for path in sys.path if path), Path.cwd())),
        f"setpriv --reuid {_USER} --regid {_USER} --clear-groups env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "
        f"HOME={home}/user XDG_RUNTIME_DIR={home}/user USER={_NAME} {command}",
    ]
    return "\n".join(lines)


def _shown(home: Path, paths: Iterable[str | Path]) -> Iterator[str]:
    """Lines that show folders to everybody which lie below a closed one, at their own path.

    A folder may be closed within one that is shown: tox closes its own, in the checkout.
    """
    wanted = sorted({Path(path).resolve() for path in paths if Path(path).is_dir()})
    shown = [(path, closed) for path in wanted if (closed := _closed_above(path, wanted)) is not None]
    yield "umask 022"
    for number, (path, _) in enumerate(shown):
        yield f"mkdir -p {home}/shown/{number}; mount --bind {path} {home}/shown/{number}"
    covered = set()
    for number, (path, closed) in enumerate(shown):
        if closed not in covered:
            covered.add(closed)
            yield f"mount -t tmpfs -o mode=755 tmpfs {closed}"
        yield f"mkdir -p {path}; mount --bind {home}/shown/{number} {path}"


def _closed_above(path: Path, wanted: Sequence[Path]) -> Path | None:
    """The first folder on the way that others may not pass through, from the nearest wanted one on."""
    start = max((top for top in wanted if top in path.parents), key=lambda top: len(top.parts), default=None)
    ways = (folder for folder in reversed(path.parents) if start is None or start in folder.parents)
    return next((folder for folder in ways if not folder.stat().st_mode & stat.S_IXOTH), None)


ENGINES: dict[str, type[DockerEngine]] = {
    "docker": DockerEngine,
    "podman": Podman,
    "rootless": RootlessDocker,
    "rootless-podman": RootlessPodman,
}
"""Kinds of engine that tests can start, by the name that ``ASMAN_TEST_ENGINE`` takes."""
