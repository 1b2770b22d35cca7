"""Real asman processes for tests: start, wait for the ready line, kill, read what they printed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Process", "asman", "call", "eventually", "server", "worker"]


def eventually(what: str, ask: Callable[[], Any], timeout_s: float = 30.0, every_s: float = 0.05) -> Any:
    """The first true answer; AssertionError with ``what`` if there is none in time."""
    deadline = time.monotonic() + timeout_s
    answer = ask()
    while not answer:
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s; last answer: {answer!r}")
        time.sleep(every_s)
        answer = ask()
    return answer


def call(
    method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> tuple[int, Any]:
    """One HTTP request: (status, decoded JSON or bytes). Errors: OSError if nobody answers."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, _decoded(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _decoded(error.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} broke off: {error!r}") from error


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


class Process:
    """A child process whose output goes to a file. It is killed at the end of its ``with``."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.command = [sys.executable, "-m", "asman", *arguments]
        handle, self._log_path = tempfile.mkstemp(prefix="asman-test-", suffix=".log")
        self._log = os.fdopen(handle, "wb")
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return Path(self._log_path).read_text(errors="replace")

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Until it has printed this. Errors: AssertionError with all it printed."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            if not self.is_running() or time.monotonic() > deadline:
                raise AssertionError(f"{' '.join(self.command[1:])} did not print {text!r}:\n{self.output}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and not a moment to say goodbye; children of its group go too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code. Errors: subprocess.TimeoutExpired."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            self.terminate(15)
        self.discard()

    def discard(self) -> None:
        """SIGKILL, and its output goes too."""
        self.kill()
        self._log.close()
        Path(self._log_path).unlink(missing_ok=True)


@contextlib.contextmanager
def server(port: int, data: Path, *more: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server on loopback; yields its URL when it is ready."""
    with Process("serve", "--port", str(port), "--data", str(data), *more, env=env):
        url = f"http://127.0.0.1:{port}"
        eventually("the server is ready", lambda: _is_ready(url))
        yield url


def _is_ready(url: str) -> bool:
    try:
        return call("GET", f"{url}/readyz", timeout_s=2.0)[0] == 200
    except OSError:
        return False


def worker(url: str, queue: str, data: Path, *more: str, env: Mapping[str, str] | None = None) -> Process:
    """A worker process for one queue."""
    return Process("worker", queue, "--server", url, "--data-directory", str(data), *more, env=env)


def asman(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asman", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        check=False,
    )
