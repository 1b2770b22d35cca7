"""The stack of ``deploy/compose``: its files are understood, and it runs, on images made of this machine's programs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from docker_engine import IMAGE, DockerEngine
from examples import DEPLOY
from machine_images import import_program, run_or_fail

FOLDER = DEPLOY / "compose"


def _compose() -> list[str]:
    done = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False) if _has("docker") else None
    )
    if done is not None and done.returncode == 0:
        return ["docker", "compose"]
    if not _has("docker-compose"):
        pytest.skip("needs docker-compose; on Debian: apt-get install docker-compose")
    return ["docker-compose"]


def _has(tool: str) -> bool:
    return shutil.which(tool) is not None


def test_the_file_and_the_example_settings_fit(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "compose")
    (tmp_path / "compose" / ".env").write_text((FOLDER / ".env.example").read_text())
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    command = [*_compose(), "-f", "compose.yaml", "config"]
    done = subprocess.run(command, cwd=tmp_path / "compose", env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"server", "bucket", "redis", "s3", "proxy", "worker"}
    assert "ports" not in {key for name, service in services.items() if name != "proxy" for key in service}
    assert "WARN" not in done.stderr, done.stderr


def test_every_variable_of_the_file_is_in_the_example_or_has_a_value() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    offered = set(re.findall(r"^(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    assert needed <= offered
    assert offered - {"COMPOSE_PROJECT_NAME"} <= set(re.findall(r"\$\{(\w+)", text))


def test_redis_writes_to_its_disk_before_it_answers() -> None:
    command = " ".join(yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["redis"]["command"])
    assert "--appendonly yes --appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command


def test_caddy_takes_its_file() -> None:
    if not _has("caddy"):
        pytest.skip("needs caddy; on Debian: apt-get install caddy")
    command = ["caddy", "validate", "--adapter", "caddyfile", "--config", str(FOLDER / "Caddyfile")]
    done = subprocess.run(command, env={**os.environ, "SITE": "http://a.example"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


OVERRIDE = """
services:
  s3:
    image: {python}
    command: [python, -m, moto.server, -H, 0.0.0.0, -p, "9000"]
    environment: {{PYTHONPATH: /site}}
    volumes: ["{site}:/site:ro"]
    healthcheck:
      test: [CMD, python, -c, "import socket; socket.create_connection(('127.0.0.1', 9000), 2)"]
      interval: 1s
  redis:
    healthcheck: {{interval: 1s}}
"""


@pytest.mark.docker
@pytest.mark.slow
def test_jobs_run_through_the_whole_stack(
    docker_engine: DockerEngine, base_image: str, server_image: str, worker_image: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto, an S3 store; in the dependency group test")
    _compose()
    programs, user = ["redis-server", "redis-cli"], "redis:x:999:999::/:/bin/sh\n"
    redis = import_program(docker_engine, "redis-of-this-machine:1", programs, "redis-server", user)
    caddy = import_program(docker_engine, "caddy-of-this-machine:1", ["caddy"], "caddy")
    (tmp_path / "override.yaml").write_text(OVERRIDE.format(python=base_image, site=sysconfig.get_path("purelib")))
    env = {
        "DOCKER_HOST": docker_engine.host,
        "DOCKER_SOCKET": docker_engine.host.removeprefix("unix://"),
        "OVERRIDE": str(tmp_path / "override.yaml"),
        "SERVER_IMAGE": server_image,
        "WORKER_IMAGE": worker_image,
        "REDIS_IMAGE": redis,
        "PROXY_IMAGE": caddy,
        "HOME": str(tmp_path),
    }
    said = run_or_fail(str(FOLDER / "smoke"), IMAGE, env=env, timeout_s=280)
    assert "two jobs ran through the stack" in said
