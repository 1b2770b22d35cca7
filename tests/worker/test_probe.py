"""What the engine's host allows, tried on a real engine, also from where its mounts cannot be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asman_worker import quota
from asman_worker.docker import Engine
from asman_worker.probe import Abilities, probe
from docker_engine import DockerEngine

pytestmark = pytest.mark.docker
needs_mounts = pytest.mark.skipif(
    bool(quota.what_is_missing()), reason=f"needs root and e2fsprogs, mount: {quota.what_is_missing()}"
)

FROM_ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from asman_worker.docker import Engine
from asman_worker.probe import probe

async def main():
    async with Engine(sys.argv[1]) as engine:
        print((await probe(engine, Path(sys.argv[2]), "probe-test")).no_mounts)

asyncio.run(main())
"""


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


def _images(engine: DockerEngine) -> set[str]:
    """All that the engine has; what earlier tests left may still go meanwhile."""
    return {image["Id"] for image in json.loads(engine.request("GET", "/images/json?all=1")[1])}


@needs_mounts
async def test_beside_the_engine_mounts_are_seen_and_nothing_is_left(
    engine: Engine, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    before = _images(docker_engine)
    abilities = await probe(engine, tmp_path, "probe-test")
    assert (abilities.mounts, abilities.no_mounts, abilities.outputs_method) == (True, "", "file system")
    assert _images(docker_engine) <= before
    assert await engine.find({"asman.helper": "probe-test"}) == []
    assert os.listdir(tmp_path) == []


@needs_mounts
def test_from_another_mount_namespace_it_is_found_that_nothing_is_seen(docker_host: str, tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", FROM_ELSEWHERE]
    done = subprocess.run([*command, docker_host, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "the engine does not see what this process mounts\n"


@needs_mounts
async def test_what_a_killed_probe_left_is_removed_by_the_next(engine: Engine, tmp_path: Path) -> None:
    left = tmp_path / "probe-left" / "mounted"
    left.mkdir(parents=True)
    await quota.attach(left.parent / "image", left, quota.geometry(1 << 16, 4))
    await probe(engine, tmp_path, "probe-test")
    assert os.listdir(tmp_path) == []


async def test_without_the_tools_it_says_so(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_TOOLS_PATH", str(tmp_path))
    abilities = await probe(engine, tmp_path, "probe-test")
    assert not abilities.mounts
    assert abilities.no_mounts == quota.what_is_missing()
    assert abilities.outputs_method == "watching"


async def test_the_engines_word_on_layers_is_what_a_container_gets(engine: Engine, tmp_path: Path) -> None:
    """Whatever it is on this host: a container made with a bound exists, or is refused."""
    abilities = await probe(engine, tmp_path, "probe-test")
    raw = await engine.ask("GET", "info")
    on_overlay = raw["Driver"] == "overlay2" and "extfs" in json.dumps(raw["DriverStatus"])
    assert not (abilities.bounds_layers and on_overlay)


def test_the_method_is_named() -> None:
    assert Abilities().mounts
    assert not Abilities(no_mounts="because").mounts
