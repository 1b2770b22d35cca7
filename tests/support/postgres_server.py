"""A PostgreSQL server of the test run's own: started privately, killed and started again at will, stopped after."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["PostgresServer", "why_no_postgres"]


def _binaries() -> Path | None:
    """Where initdb and postgres are; Debian keeps them off the PATH, one folder per version."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    tools = ("initdb", "postgres", "pg_basebackup", "pg_isready", "psql")
    return next((place for place in places if all((place / tool).exists() for tool in tools)), None)


def _user() -> str:
    """Whom to run as: the server refuses to be root's."""
    if os.geteuid() != 0:
        return getpass.getuser()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return ""


def why_no_postgres() -> str | None:
    """A reason to skip, or None."""
    if _binaries() is None:
        return "needs a PostgreSQL server (on Debian: apt-get install postgresql)"
    return None if _user() else "needs an unprivileged user to run PostgreSQL as"


class PostgresServer:
    """One server in a temporary folder. Shape: ``url`` is over its Unix socket, ``tcp_url`` over loopback."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @classmethod
    @contextlib.contextmanager
    def private(cls, *settings: str) -> Iterator[PostgresServer]:
        """Made, started, and gone at the end. ``settings`` are lines of postgresql.conf."""
        folder = Path(tempfile.mkdtemp(prefix="asman-pg-"))  # short: a socket's path has 107 bytes at most
        server = cls(folder, *settings)
        try:
            server._make()
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def standby(self) -> Iterator[PostgresServer]:
        """A server that follows this one and can be promoted; what this one acknowledges from now on, it has."""
        binaries = _binaries()
        assert binaries is not None
        folder = Path(tempfile.mkdtemp(prefix="asman-pg-"))
        other = PostgresServer(folder)
        try:
            other._give_folder()
            command = [binaries / "pg_basebackup", "-D", other.data, "-h", self.folder, "-p", str(self.port)]
            flags = ["-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
            subprocess.run([*command, *flags], check=True, capture_output=True, cwd=folder, **self._as_user())
            other._configure()
            other.start()
            self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.sql("SELECT pg_reload_conf()")
            yield other
        finally:
            other.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    @property
    def tcp_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def output(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(_user())
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _make(self) -> None:
        self._give_folder()
        binaries = _binaries()
        assert binaries is not None
        command = [binaries / "initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust"]
        subprocess.run([*command, "--no-sync"], check=True, capture_output=True, cwd=self.folder, **self._as_user())
        rules = "local all locked scram-sha-256\nhost all locked all scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(
            rules + "local all,replication all trust\nhost all all 127.0.0.1/32 trust\n"
        )
        self._configure()

    def _give_folder(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, _user())

    def _configure(self) -> None:
        """The last line of a setting counts."""
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\n")
            conf.write(f"unix_socket_directories = '{self.folder}'\nshared_buffers = '32MB'\n")
            conf.write("".join(f"{line}\n" for line in self._settings))

    def start(self) -> None:
        """Start it and wait until it takes connections. Errors: AssertionError with its log."""
        binaries = _binaries()
        assert binaries is not None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries / "postgres", "-D", self.data],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_user(),
            )
        deadline = time.monotonic() + 30
        ask = [binaries / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port), "-U", "postgres"]
        while subprocess.run(ask, check=False).returncode != 0:
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the server; and its children, as when the power goes. Waited for, so that it can start again."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "--ppid", str(self._process.pid), "-o", "pid="], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in [str(self._process.pid), *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._process.wait()

    def signal(self, number: int) -> None:
        """Signal the server alone, for example SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it at once, without the last checkpoint: what it kept is thrown away."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the superuser, also where the server is read-only, and answer with what psql prints."""
        binaries = _binaries()
        assert binaries is not None
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database]
        command = [binaries / "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, "-c", statement]
        env = {**os.environ, "PGOPTIONS": "-c default_transaction_read_only=off"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
