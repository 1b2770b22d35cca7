"""The worker's image: built without a network from wheels that were fetched before, then one job through it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docker_engine import IMAGE, DockerEngine
from examples import DEPLOY
from machine_images import run_or_fail

FOLDER = DEPLOY / "worker"

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_the_image_says_what_it_is_and_refuses_to_start_without_a_queue(docker_host: str, worker_image: str) -> None:
    docker = ("docker", "-H", docker_host, "run", "--rm", "--network", "none")
    version = run_or_fail("docker", "-H", docker_host, "run", "--rm", "--network", "none", worker_image, "--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", version)
    done = subprocess.run([*docker, worker_image], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no queue is named" in done.stderr


def test_one_job_runs_through_the_image(docker_engine: DockerEngine, worker_image: str, free_port: int) -> None:
    env = {
        "DOCKER_HOST": docker_engine.host,
        "PORT": str(free_port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    said = run_or_fail(*docker_engine.inside(str(FOLDER / "smoke"), worker_image, IMAGE), env=env)
    assert "one job ran through asman-worker-test" in said


def test_nothing_in_the_dockerfile_names_an_architecture() -> None:
    text = (FOLDER / "Dockerfile").read_text().lower()
    assert not re.search(r"amd64|x86|arm64|aarch64|--platform", text)
