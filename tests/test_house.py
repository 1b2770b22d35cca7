"""The test run's own parts: the Docker engine, skips in CI, and which asman is under test."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import asman
from docker_engine import IMAGE, DockerEngine

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif("ASMAN_TEST_INSTALLED" not in os.environ, reason="only tox tests the installed wheel")
def test_the_asman_under_test_is_the_installed_wheel() -> None:
    assert asman.__file__ is not None
    assert Path(asman.__file__).is_relative_to(sys.prefix), f"imported from {asman.__file__}"
    code = "import asman; print(asman.__file__)"
    seen = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert Path(seen.strip()) == Path(asman.__file__), "a process started in the repository imports another asman"


def test_a_free_port_can_be_listened_on(free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)) as server:
        assert server.getsockname()[1] == free_port


@pytest.mark.docker
def test_the_engine_runs_a_shell_of_the_named_image(docker_engine: DockerEngine) -> None:
    wanted = {"Image": IMAGE, "Cmd": ["sh", "-c", "echo to-stdout; exit 7"]}
    made = _post(docker_engine, "/containers/create", wanted)
    _post(docker_engine, f"/containers/{made['Id']}/start", {})
    assert _post(docker_engine, f"/containers/{made['Id']}/wait", {})["StatusCode"] == 7
    status, log = docker_engine.request("GET", f"/containers/{made['Id']}/logs?stdout=1")
    assert (status, log[8:]) == (200, b"to-stdout\n")
    assert docker_engine.request("DELETE", f"/containers/{made['Id']}")[0] == 204


@pytest.mark.docker
def test_the_engine_keeps_off_the_networks_of_this_machine(docker_engine: DockerEngine) -> None:
    seen = subprocess.run(docker_engine.inside("ip", "-o", "link"), capture_output=True, text=True, check=True).stdout
    names = {line.split(": ")[1].split("@")[0] for line in seen.splitlines()}
    assert {"lo", "docker0"} <= names
    assert "eth0" not in names


def _post(engine: DockerEngine, path: str, body: Mapping[str, object]) -> dict[str, object]:
    status, answer = engine.request("POST", path, json.dumps(body).encode())
    assert status < 300, answer
    return json.loads(answer) if answer else {}


SKIPPING = """
import pytest

@pytest.mark.skip(reason="needs a moon")
def test_marked(): ...

@pytest.fixture
def moon():
    pytest.skip("needs a moon too")

def test_from_a_fixture(moon): ...

@pytest.mark.skip(reason="says another capability")
def test_for_another_reason(): ...
"""


@pytest.mark.parametrize(("ci", "failed", "skipped"), [("true", 3, 1), ("", 0, 4)], ids=["in CI", "elsewhere"])
def test_a_skip_for_want_of_something_fails_in_ci_only(tmp_path: Path, ci: str, failed: int, skipped: int) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_importing.py").write_text("import pytest\npytest.importorskip('no_such_module_anywhere')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = "-p ci_skips -p no:cacheprovider --continue-on-collection-errors"
    command = [sys.executable, "-m", "pytest", *options.split()]
    environ = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests" / "support")}
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    counted = dict.fromkeys(("failed", "error", "skipped"), 0)
    for number, what in re.findall(r"(\d+) (failed|error|skipped)", run.stdout.splitlines()[-1]):
        counted[what] = int(number)
    assert (counted["failed"] + counted["error"], counted["skipped"]) == (failed, skipped), run.stdout
    assert (run.returncode == 0) == (failed == 0)
