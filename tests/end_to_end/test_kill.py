"""kill -9 of server and workers at any moment: nothing acknowledged is lost, one result each, no container stays."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from docker_engine import DockerEngine
from processes import Process, call, eventually, worker

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

QUEUE = "a-queue-whose-workers-are-killed"
KILLS = 50
TIMES = {
    "ASMAN_LEASE": "4s",
    "ASMAN_RENEW": "1s",
    "ASMAN_RECONNECT_GRACE": "2s",
    "ASMAN_SWEEP": "500ms",
    "ASMAN_MAX_ATTEMPTS": "1000",
    "ASMAN_LISTED": "1h",
}


class _Cluster:
    """One server and two workers that are killed and started again in the same places."""

    def __init__(self, port: int, folder: Path, docker_host: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._folder, self._env = port, folder, {**TIMES, "DOCKER_HOST": docker_host}
        self.server = self._serve()
        self.workers = [self._work(n) for n in range(2)]

    def _serve(self) -> Process:
        return Process("serve", "--port", str(self._port), "--data", str(self._folder / "data"), env=self._env)

    def _work(self, number: int) -> Process:
        return worker(self.url, QUEUE, self._folder / f"worker{number}", "--cpus", "2", env=self._env)

    def kill_one(self, chance: random.Random) -> None:
        if chance.random() < 0.4:
            self.server.discard()
            self.server = self._serve()
        else:
            number = chance.randrange(2)
            self.workers[number].discard()
            self.workers[number] = self._work(number)

    def stop(self) -> None:
        for process in [*self.workers, self.server]:
            process.__exit__()


def _submit(url: str, number: int) -> str | None:
    """The id if the submit was acknowledged."""
    definition = {"image": "alpine:3.19.1", "command": f"sh -c 'sleep 0.3; echo {number}; echo {number} > /outputs/n'"}
    try:
        status, answer = call("POST", f"{url}/q/{QUEUE}", {"definition": definition}, timeout_s=5.0)
    except OSError:
        return None
    return answer["jobId"] if status == 200 else None


def _result(url: str, job_id: str) -> Any:
    try:
        status, answer = call("GET", f"{url}/q/{QUEUE}/j/{job_id}/result.json", timeout_s=5.0)
    except OSError:
        return None
    return answer["data"] if status == 200 else None


class _Watcher(threading.Thread):
    """Reads results all the time and notes any that changes after it was first seen."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.jobs, self.seen, self.changed = url, {}, {}, []  # type: ignore[var-annotated]
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            for job_id in list(self.jobs):
                found = _result(self.url, job_id)
                if found is None:
                    continue
                finished = json.dumps(found["finished"], sort_keys=True)
                if self.seen.setdefault(job_id, finished) != finished:
                    self.changed.append(job_id)


def test_fifty_kills_lose_nothing_and_leave_nothing(
    docker_engine: DockerEngine, free_port: int, tmp_path: Path
) -> None:
    chance = random.Random(20261123)
    cluster = _Cluster(free_port, tmp_path, docker_engine.host)
    watcher = _Watcher(cluster.url)
    watcher.start()
    try:
        number = 0
        for _ in range(KILLS):
            until = time.monotonic() + chance.uniform(0.3, 1.5)
            while time.monotonic() < until:
                job_id = _submit(cluster.url, number)
                if job_id is not None:
                    watcher.jobs[job_id] = number
                    number += 1
                time.sleep(0.25)
            cluster.kill_one(chance)
        assert number > 20, cluster.server.output
        eventually("every job has a result", lambda: _all_seen(watcher), timeout_s=240, every_s=0.5)
        watcher.stopped.set()
        watcher.join()
        assert watcher.changed == []
        for job_id, n in watcher.jobs.items():
            result = json.loads(watcher.seen[job_id])["result"]
            assert result["StatusCode"] == 0, result
            assert "".join(line[0] for line in result["logs"]) == f"{n}\n"
            assert set(result["outputs"]) == {"n"}
        eventually("no container is left", lambda: _own_containers(docker_engine) == [], timeout_s=60, every_s=0.5)
    finally:
        watcher.stopped.set()
        cluster.stop()


def _all_seen(watcher: _Watcher) -> bool:
    assert watcher.is_alive(), "the thread that reads results has died"
    return len(watcher.seen) == len(watcher.jobs)


def _own_containers(engine: DockerEngine) -> list[Any]:
    filters = '{"label":["asman.queue=' + QUEUE + '"]}'
    found: list[Any] = json.loads(engine.request("GET", f"/containers/json?all=1&filters={quote(filters)}")[1])
    return found
