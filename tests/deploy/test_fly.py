"""The start script of Fly's workers: an engine first, the worker on it, and the engine until the worker has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from docker_engine import remove_home, what_is_missing
from examples import DEPLOY
from processes import eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# A machine of its own as far as it matters: a network, /run, and a program named asman.
MACHINE = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"'


def test_the_engine_is_there_before_the_worker_and_after_it(tmp_path: Path) -> None:
    missing = what_is_missing() or (None if shutil.which("docker") else "needs docker, the command")
    if missing:
        pytest.skip(missing)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "asman"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m asman "$@"\n')
    program.chmod(0o755)
    known = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "ENGINE_DATA": str(tmp_path / "docker"),
        "ASMAN_WORKER_DATA": str(tmp_path / "worker"),
        "ASMAN_WORKER_MEMORY": "256m",
        "ASMAN_WORKER_STATUS": "127.0.0.1:9000",
    }
    log = tmp_path / "log"
    command = ["unshare", "--net", "--mount", "sh", "-c", MACHINE, "sh", str(DEPLOY / "fly" / "worker" / "start"), "q"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **known}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        ask = ["curl", "-fsS", "http://127.0.0.1:9000/healthz"]
        inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", *ask]
        eventually("the worker is well", lambda: _succeeds(inside) or process.poll() is not None, timeout_s=60)
        assert process.poll() is None, log.read_text()
        engines = _children(process.pid, "dockerd")
        assert len(engines) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert not Path(f"/proc/{engines[0]}").exists(), "the engine was left"
        text = log.read_text()
        assert "leaving" in text, text
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        remove_home(tmp_path / "docker")


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def _children(pid: int, name: str) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().strip() == name]
