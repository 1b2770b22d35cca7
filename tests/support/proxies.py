"""The proxies of ``deploy/proxy``, run for real: the shipped files, with ports and paths of the test put in."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from processes import eventually

__all__ = ["PROXIES", "Proxy", "caddy", "nginx"]

FOLDER = Path(__file__).parents[2] / "deploy" / "proxy"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A running proxy. Shape: ``scratch`` is where it would keep bodies, None if it keeps none; ``log`` is a file."""

    port: int
    is_tls: bool
    log: Path
    scratch: Path | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.port}"


@contextlib.contextmanager
def nginx(server_port: int, folder: Path) -> Iterator[Proxy]:
    """nginx with a certificate of its own."""
    _want("nginx", "nginx-light")
    _want("openssl", "openssl")
    port, plain_port = _free_port(), _free_port()
    _certificate(folder)
    (folder / "scratch").mkdir()
    text = (FOLDER / "nginx.conf").read_text()
    for pattern, value in (
        (r"listen \[::\]:\d+[^;]*;", ""),
        (r"listen 443\b", f"listen 127.0.0.1:{port}"),
        (r"listen 80\b", f"listen 127.0.0.1:{plain_port}"),
        (r"server 127\.0\.0\.1:8000\b", f"server 127.0.0.1:{server_port}"),
        (r"/etc/ssl/asman/", f"{folder}/"),
        (r"/var/log/nginx/", f"{folder}/"),
    ):
        text, count = re.subn(pattern, value, text)
        assert count, f"nginx.conf has no {pattern}"
    (folder / "asman.conf").write_text(text)
    paths = "".join(f"{kind}_temp_path {folder}/scratch/{kind};" for kind in _NGINX_PATHS)
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{ {paths} include {folder}/asman.conf; }}\n")
    globally = f"daemon off; pid {folder}/pid; user root;" if os.geteuid() == 0 else f"daemon off; pid {folder}/pid;"
    command = ["nginx", "-p", str(folder), "-e", f"{folder}/start.log", "-c", f"{folder}/nginx.conf", "-g", globally]
    log = folder / "asman.log"
    with _running(command, port, folder / "start.log"):
        yield Proxy(port=port, is_tls=True, log=log, scratch=folder / "scratch")


_NGINX_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def caddy(server_port: int, folder: Path) -> Iterator[Proxy]:
    """Caddy, without TLS: its certificates come from the internet."""
    _want("caddy", "caddy")
    port = _free_port()
    env = {
        "SITE": f"http://:{port}",
        "SERVERS": f"127.0.0.1:{server_port}",
        "CADDY_ADMIN": f"unix/{folder}/admin",
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(FOLDER / "Caddyfile")]
    with _running(command, port, folder / "log", env):
        yield Proxy(port=port, is_tls=False, log=folder / "log")


PROXIES = {"nginx": nginx, "caddy": caddy}


def _want(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}; on Debian: apt-get install {package}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """The program, until it listens; gone afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )
    try:
        eventually(f"{command[0]} listens or ends", lambda: _listens(port) or process.poll() is not None, timeout_s=20)
        assert process.poll() is None, log.read_text(errors="replace")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
