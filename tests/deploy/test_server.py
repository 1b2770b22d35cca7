"""The server's image: built without a network from wheels that were fetched before, then used as in production."""

from __future__ import annotations

import re

import pytest

from docker_engine import DockerEngine
from examples import DEPLOY
from machine_images import run_or_fail

FOLDER = DEPLOY / "server"

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_a_job_outlives_the_container_that_took_it(docker_engine: DockerEngine, server_image: str) -> None:
    said = run_or_fail(str(FOLDER / "smoke"), server_image, env={"DOCKER_HOST": docker_engine.host})
    assert f"one job was kept by {server_image} over a restart" in said


def test_the_image_has_every_backend_and_the_faster_server(docker_host: str, server_image: str) -> None:
    docker = ("docker", "-H", docker_host, "run", "--rm", "--network", "none", "--entrypoint", "python", server_image)
    run_or_fail(*docker, "-c", "import uvicorn, uvloop, httptools, httpx, prometheus_client")


def test_nothing_in_the_dockerfile_names_an_architecture() -> None:
    text = (FOLDER / "Dockerfile").read_text().lower()
    assert not re.search(r"amd64|x86|arm64|aarch64|--platform", text)
