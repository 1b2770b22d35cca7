"""The units of ``deploy/systemd``: systemd understands them, they are tight, and their commands run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples import DEPLOY
from processes import call
from served import environ, served

FOLDER = DEPLOY / "systemd"
EXPOSED_AT_MOST = {"asman-server": 2.0, "asman-worker": 4.0}


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze; on Debian: apt-get install systemd")
    for path in FOLDER.glob("*.service"):
        text = path.read_text().replace("/opt/asman/bin/asman", "/bin/true")
        (tmp_path / path.name).write_text(text)
    # What the worker's unit wants to be there: an engine.
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    return tmp_path


def _options(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (FOLDER / f"{name}.service").read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", list(EXPOSED_AT_MOST))
def test_systemd_understands_the_unit(units: Path, name: str) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(units / f"{name}.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in done.stderr.splitlines() if name in line]
    assert said == [], done.stderr


@pytest.mark.parametrize(("name", "most"), EXPOSED_AT_MOST.items())
def test_the_unit_gives_no_more_than_is_needed(units: Path, name: str, most: float) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(units / f"{name}.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= most, done.stdout


def test_a_worker_is_given_time_to_drain() -> None:
    options = _options("asman-worker")
    (drain,) = re.findall(r"ASMAN_WORKER_DRAIN=(\d+)", " ".join(options["Environment"]))
    assert int(options["TimeoutStopSec"][0]) >= int(drain) + 30


def test_the_server_runs_by_the_units_command_with_the_example_settings(tmp_path: Path) -> None:
    (command,) = _options("asman-server")["ExecStart"]
    assert command == "/opt/asman/bin/asman serve"
    settings = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "server.env.example").read_text(), re.MULTILINE))
    with served("--port", "0", "--data", str(tmp_path / "data"), cwd=tmp_path, **settings) as server:
        port = server.url.rpartition(":")[2]
        assert call("GET", f"http://127.0.0.1:{port}/readyz")[0] == 200
        assert server.stop() == 0


def test_the_worker_starts_by_the_units_command_with_the_example_settings(tmp_path: Path) -> None:
    (command,) = _options("asman-worker")["ExecStart"]
    assert command == "/opt/asman/bin/asman worker"
    settings = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "worker.env.example").read_text(), re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "asman", "worker"],
        env=environ(**settings, ASMAN_WORKER_DATA=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "engine" in done.stderr, "it got as far as looking for its engine"
