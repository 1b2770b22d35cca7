"""kill -9 of a worker at each named point of a job: the job ends once and well, and nothing is left behind.

``ASMAN_TEST_ROUNDS`` says how often each point is hit; few by default, because the points are many.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from docker_engine import IMAGE, DockerEngine
from processes import call, eventually, server

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(3600)]

QUEUE = "a-queue-whose-worker-dies-at-named-points"
BUILD_MARK = "true this is a build that is killed"
ROUNDS = int(os.environ.get("ASMAN_TEST_ROUNDS", "2"))
POINTS = (
    "job taken",
    "step=room",
    "step=inputs",
    "step=image",
    "step=create",
    "step=start",
    "step=wait",
    "step=outputs",
    "step=report",
    "job ended",
    "step=build",
)
TIMES = {
    "ASMAN_LEASE": "6s",
    "ASMAN_RENEW": "1s",
    "ASMAN_RECONNECT_GRACE": "4s",
    "ASMAN_SWEEP": "500ms",
    "ASMAN_MAX_ATTEMPTS": "1000",
    "ASMAN_LISTED": "1h",
}


class _Worker:
    """A worker process whose log is read as it comes; ``kill_at`` kills it the moment it says something."""

    def __init__(self, url: str, data: Path, env: dict[str, str]) -> None:
        command = [sys.executable, "-m", "asman", "worker", QUEUE, "--server", url, "--data-directory", str(data)]
        self.process = subprocess.Popen(
            [*command, "--debug"], stderr=subprocess.PIPE, text=True, env={**os.environ, **env}, start_new_session=True
        )
        self.tail: deque[str] = deque(maxlen=60)
        self._at: tuple[str, str] | None = None
        self.struck = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.tail.append(line)
            at = self._at
            if at is not None and at[0] in line and at[1] in line:
                self._at = None
                if at[0] == "step=build":
                    time.sleep(random.uniform(0, 1.5))  # anywhere in it: before, in and after its steps
                self.process.send_signal(signal.SIGKILL)
                self.struck.set()

    def kill_at(self, point: str, job_id: str) -> None:
        self._at = (point, job_id)

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(10)


def _job(key: str, number: int, point: str) -> dict[str, Any]:
    """A job with an input to fetch, output to upload, and lines to keep; for a kill in a build, one to be built."""
    script = f"sh -c 'echo {number}; cat /inputs/data > /outputs/big; echo {number} > /outputs/n'"
    definition: dict[str, Any] = {"command": script, "inputs": {"data": {"type": "key", "value": key}}}
    if point != "step=build":
        return definition | {"image": IMAGE}
    return definition | {"build": {"dockerfile": f"FROM {IMAGE}\nRUN {BUILD_MARK}; sleep 1; echo {number} > /n\n"}}


@contextmanager
def _running(url: str, data: Path, env: dict[str, str]) -> Iterator[list[_Worker]]:
    workers = [_Worker(url, data, env)]
    try:
        yield workers
    finally:
        workers[-1].end()


def _result(url: str, job_id: str) -> Any:
    status, answer = call("GET", f"{url}/q/{QUEUE}/j/{job_id}/result.json", timeout_s=10)
    return answer["data"] if status == 200 else None


def test_a_worker_killed_at_any_named_point_loses_no_job_and_leaves_nothing(
    docker_engine: DockerEngine, free_port: int, tmp_path: Path
) -> None:
    env = {**TIMES, "DOCKER_HOST": docker_engine.host}
    content = os.urandom(100_000)
    key = hashlib.sha256(content).hexdigest()
    data = tmp_path / "worker"
    with server(free_port, tmp_path / "server", env=env) as url, _running(url, data, env) as workers:
        assert call("PUT", f"{url}/f/{key}", content)[0] == 200
        number = 0
        for _ in range(ROUNDS):
            for point in POINTS:
                number += 1
                _strike(url, data, env, workers, point, key, number)
        eventually("no container is left", lambda: _containers(docker_engine, "asman.queue", QUEUE) == [], 60, 0.5)
        workers[-1].end()
        workers.append(_Worker(url, data, env))  # what a kill leaves half written goes at the next start
        eventually("no file is left", lambda: not _files(data), 30, 0.5)
        workers[-1].end(signal.SIGTERM)
        worker_id = (data / "worker-id").read_text().strip()
        for label in ("asman.worker", "asman.helper"):
            assert _containers(docker_engine, label, worker_id) == []
        assert [c for c in _all_containers(docker_engine) if BUILD_MARK in c["Command"]] == []
        assert str(data) not in Path("/proc/self/mountinfo").read_text()
        workers.append(_Worker(url, data, env))


def _strike(
    url: str, data: Path, env: dict[str, str], workers: list[_Worker], point: str, key: str, number: int
) -> None:
    definition = _job(key, number, point)
    status, planned = call("POST", f"{url}/q/{QUEUE}?dry_run=1", {"definition": definition})
    assert status == 200, planned
    workers[-1].kill_at(point, planned["jobId"])
    status, answer = call("POST", f"{url}/q/{QUEUE}", {"definition": definition})
    assert (status, answer["jobId"]) == (200, planned["jobId"])
    assert workers[-1].struck.wait(60), f"the worker never came to {point!r}: {''.join(workers[-1].tail)}"
    workers[-1].end()
    workers.append(_Worker(url, data, env))
    found = eventually(f"a result after a kill at {point!r}", lambda: _result(url, answer["jobId"]), 90, 0.1)
    result = found["finished"]["result"]
    told = f"{point}: {json.dumps(result)[:2000]} {''.join(workers[-1].tail)}"
    assert (found["finishedReason"], result.get("StatusCode")) == ("Success", 0), told
    assert "".join(line[0] for line in result["logs"]) == f"{number}\n", told
    assert set(result["outputs"]) == {"big", "n"}, told


def _containers(engine: DockerEngine, label: str, value: str) -> list[Any]:
    filters = quote(json.dumps({"label": [f"{label}={value}"]}))
    found: list[Any] = json.loads(engine.request("GET", f"/containers/json?all=1&filters={filters}")[1])
    return found


def _all_containers(engine: DockerEngine) -> list[Any]:
    found: list[Any] = json.loads(engine.request("GET", "/containers/json?all=1")[1])
    return found


def _files(data: Path) -> list[Path]:
    return [path for part in ("jobs", "held", "outbox") for path in (data / part).rglob("*") if path.is_file()]
