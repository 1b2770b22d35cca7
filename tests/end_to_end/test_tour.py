"""The README's five minutes, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import Process, call, eventually

README = Path(__file__).parents[2] / "README.md"

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def _blocks(heading: str) -> list[str]:
    section = README.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def _shell(script: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False
    )


def test_the_tour_works_as_written(docker_host: str, free_port: int, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl; on Debian: apt-get install curl")
    url = f"http://localhost:{free_port}"
    bin_folder = str(Path(sys.executable).parent)
    env = {
        **os.environ,
        "DOCKER_HOST": docker_host,
        "ASMAN_SERVER": url,
        "ASMAN_PORT": str(free_port),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    up, *rest = _blocks("Five minutes")
    assert up == "asman up\n"
    with Process("up", env=env, cwd=tmp_path) as running:
        eventually("a worker is connected", lambda: _has_worker(url, running), timeout_s=60)
        answers = [_shell(block.replace("http://localhost:8000", url), tmp_path, env) for block in rest]
    hello, three, files, http, look = answers
    assert (hello.stdout, hello.returncode) == ("hello\n", 0), hello.stderr
    assert three.returncode == 3, three.stderr
    assert (files.stdout.split()[-1:], files.returncode) == (["3"], 0), files.stderr
    assert '"over http\\n"' in http.stdout, http.stdout + http.stderr
    assert look.returncode == 0, look.stderr
    assert "succeeded" in look.stdout, look.stdout


def _has_worker(url: str, running: Process) -> bool:
    assert running.is_running(), running.output
    try:
        return bool(call("GET", f"{url}/q/local/status", timeout_s=5.0)[1]["localWorkers"])
    except OSError:
        return False
