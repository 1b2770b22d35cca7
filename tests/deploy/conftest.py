"""Wheels, and the images that are made of them: once for all examples."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docker_engine import DockerEngine
from examples import DEPLOY, ROOT
from machine_images import import_python, run_or_fail

EXTRAS = "client,worker,redis,s3,webhooks,metrics,fast"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of asman, of what it needs, and of pip."""
    folder = tmp_path_factory.mktemp("wheels")
    run_or_fail(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (asman,) = folder.glob("asman-*.whl")
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(folder)]
    wanted = [f"{asman}[{EXTRAS}]", "pip"]
    done = subprocess.run([*fetch, *wanted], capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        pytest.skip(f"needs PyPI, or a mirror that pip knows: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.fixture(scope="session")
def base_image(docker_engine: DockerEngine, wheels: Path) -> str:
    """An image with this machine's Python."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker, the command; on Debian: apt-get install docker.io")
    return import_python(docker_engine, wheels)


def _built(what: str, engine: DockerEngine, base: str, wheels: Path) -> str:
    """The same extras for both images, so that the engine installs them once."""
    env = {"DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "0", "BASE": base, "PACKAGES": "", "WHEELS": str(wheels)}
    run_or_fail(str(DEPLOY / what / "build"), f"asman-{what}-test", env={**env, "EXTRAS": EXTRAS})
    return f"asman-{what}-test"


@pytest.fixture(scope="session")
def worker_image(docker_engine: DockerEngine, base_image: str, wheels: Path) -> str:
    return _built("worker", docker_engine, base_image, wheels)


@pytest.fixture(scope="session")
def server_image(docker_engine: DockerEngine, base_image: str, wheels: Path) -> str:
    return _built("server", docker_engine, base_image, wheels)
