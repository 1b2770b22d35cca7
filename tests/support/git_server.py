"""A forge on a real socket: repositories by git's own ``http-backend``, and files, over https with its own certificate.

Use with ``with``. It runs in threads, in the network namespace of whoever starts it.
"""

from __future__ import annotations

import base64
import os
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

__all__ = ["GitServer", "commit", "git", "make_certificate"]

_WHO = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """Run git there, as a person who makes a repository would; its output."""
    made = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env=os.environ | _WHO,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def commit(folder: Path, message: str = "m") -> str:
    """Commit everything in a working tree; the commit's id."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def make_certificate(folder: Path, *addresses: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    certificate, key = folder / "ca.pem", folder / "key.pem"
    names = ",".join(["DNS:localhost", "DNS:git.test", "IP:127.0.0.1", *(f"IP:{address}" for address in addresses)])
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate, "-addext", f"subjectAltName={names}"],
        capture_output=True,
        check=True,
    )
    return certificate, key


class GitServer:
    """One forge.

    Shape:  ``files`` by path; ``passwords`` (user:password) and ``redirects`` by the first part of a path, the rest of
            which is kept; ``old`` speaks the older protocol only; ``hold`` stops sending in the middle of a repository
            until the server is closed, and sets ``held``. ``asked`` are (method, path, user:password).
    """

    def __init__(self, folder: Path, certificate: tuple[Path, Path], host: str = "127.0.0.1") -> None:
        self.folder, self.ca_file = folder / "served", certificate[0]
        self.folder.mkdir(exist_ok=True)
        self.files: dict[str, bytes] = {}
        self.passwords: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.old = False
        self.hold = False
        self.fail_next = 0
        self.held, self.closing = threading.Event(), threading.Event()
        server = self

        class Handler(_Handler):
            forge = server

        self._http = _Server((host, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        self.url = f"https://{'localhost' if host == '127.0.0.1' else host}:{self.port}"

    def __enter__(self) -> GitServer:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def publish(self, tree: Path, name: str) -> str:
        """Serve a clone of a repository; its address."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        git(tree, "clone", "--quiet", "--mirror", str(tree), str(target))
        git(target, "config", "uploadpack.allowFilter", "true")
        return f"{self.url}/{name}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # clients that are stopped in the middle are what the tests are about


class _Handler(BaseHTTPRequestHandler):
    forge: GitServer

    def log_message(self, format: str, *arguments: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        forge, path = self.forge, self.path
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        login = base64.b64decode(given).decode() if given else ""
        forge.asked.append((self.command, path, login))
        first = path.split("/")[1].partition("?")[0]
        if forge.fail_next:
            forge.fail_next -= 1
            return self._send(503, b"later")
        if first in forge.redirects:
            return self._send(302, b"", Location=forge.redirects[first] + path.removeprefix(f"/{first}"))
        if forge.passwords.get(first, login) != login:
            return self._send(401, b"", **{"WWW-Authenticate": "Basic"})
        if urlsplit(path).path in forge.files:
            return self._send(200, forge.files[urlsplit(path).path])
        if not (forge.folder / first).is_dir():
            return self._send(404, b"nothing here")
        return self._backend()

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _backend(self) -> None:
        """Source: git-http-backend(1); RFC 3875."""
        parts = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.forge.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        if not self.forge.old:
            environment["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        environment["CONTENT_LENGTH"] = str(len(body))
        made = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
        ).stdout
        head, _, content = made.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        if self.forge.hold and self.command == "POST" and b"command=fetch" in body:
            self.send_response(status)
            self.send_header("Content-Type", headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.forge.held.set()
            self.forge.closing.wait(60)
            return
        self._send(status, content, **headers)
