"""Pulling: shared between waiters, told in few lines, and not done where it need not be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asman_worker.docker import Engine
from asman_worker.images import (
    Images,
    ImageTooLarge,
    PullFailed,
    PullProgress,
    PullTimedOut,
    moves,
    registry_auth,
    registry_of,
)
from asman_worker.stock import Stock
from docker_engine import IMAGE, DockerEngine
from registries import Registry, tiny_registry
from worker_peers import until

LIMIT_S = 60.0
SUPPORT = Path(__file__).parents[1] / "support"


def test_progress_is_one_line_per_change_of_a_layer() -> None:
    progress = PullProgress()
    events = [
        {"status": "Pulling from library/alpine", "id": "3.19"},
        {"status": "Pulling fs layer", "id": "l1"},
        {"status": "Downloading", "id": "l1", "progressDetail": {"current": 1}},
        {"status": "Downloading", "id": "l1", "progressDetail": {"current": 2}},
        {"status": "Downloading", "id": "l2"},
        {"status": "Pull complete", "id": "l1"},
        {"status": "Digest: sha256:0"},
        {"status": "Digest: sha256:0"},
        {"aux": {}},
    ]
    assert [line for event in events if (line := progress.line(event))] == [
        "3.19: Pulling from library/alpine\n",
        "l1: Pulling fs layer\n",
        "l1: Downloading\n",
        "l2: Downloading\n",
        "l1: Pull complete\n",
        "Digest: sha256:0\n",
    ]


def test_only_latest_moves() -> None:
    assert moves("alpine:latest")
    assert moves("host:5000/a:latest")
    assert not moves("alpine:3.19.1")
    assert not moves("a:latest@sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("alpine:1", ""),
        ("me/tool:1", ""),
        ("ghcr.io/me/tool:1", "ghcr.io"),
        ("host:5000/a:1", "host:5000"),
        ("localhost/a:1", "localhost"),
    ],
)
def test_the_registry_is_the_first_part_if_it_looks_like_a_host(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_logins_are_taken_from_dockers_own_file(tmp_path: Path) -> None:
    login = base64.b64encode(b"me:pass:word").decode()
    auths = {"ghcr.io": {"auth": login}, "https://index.docker.io/v1/": {"auth": login}, "empty.io": {}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    env = {"DOCKER_CONFIG": str(tmp_path)}
    expected = {"username": "me", "password": "pass:word", "serveraddress": "ghcr.io"}
    assert registry_auth("ghcr.io/a:1", env) == expected
    assert registry_auth("alpine:1", env) == {**expected, "serveraddress": "https://index.docker.io/v1/"}
    assert registry_auth("empty.io/a:1", env) is None
    assert registry_auth("other.io/a:1", env) is None


@pytest.mark.parametrize("content", [None, "not json", '{"auths": null}', '{"auths": {"ghcr.io": {"auth": "%%%"}}}'])
def test_a_file_without_a_login_is_no_login(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert registry_auth("ghcr.io/a:1", {"DOCKER_CONFIG": str(tmp_path)}) is None


@pytest.fixture
def registry(docker_engine: DockerEngine, free_port: int, tmp_path: Path) -> Iterator[Registry]:
    with tiny_registry(docker_engine, free_port, tmp_path) as opened:
        yield opened


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


@pytest.mark.docker
async def test_an_image_that_is_here_is_used_without_asking_anybody(engine: Engine) -> None:
    said: list[str] = []
    info = await Images(engine).ensure(IMAGE, said.append, limit_s=LIMIT_S)
    assert info.user == ""
    assert not info.has_entrypoint
    assert said == []


@pytest.mark.docker
async def test_a_missing_image_is_pulled_and_told_line_by_line(engine: Engine, registry: Registry) -> None:
    said: list[str] = []
    name = f"{registry.address}/one:1"
    info = await Images(engine).ensure(name, said.append, limit_s=LIMIT_S)
    assert (info.user, info.has_entrypoint) == ("1000", True)
    assert any("Pulling from one" in line for line in said)
    assert any(line.endswith(": Pull complete\n") or "Already exists" in line for line in said)
    assert len(said) == len(set(said))
    assert await engine.image(name) == info


@pytest.mark.docker
async def test_the_time_of_a_pull_is_told_once_whoever_waits(engine: Engine, registry: Registry) -> None:
    took: list[float] = []
    images = Images(engine, on_pulled=took.append)
    name = f"{registry.address}/timed:1"
    await asyncio.gather(*(images.ensure(name, lambda text: None, limit_s=LIMIT_S) for _ in range(3)))
    await images.ensure(name, lambda text: None, limit_s=LIMIT_S)
    assert len(took) == 1
    assert took[0] > 0


@pytest.mark.docker
async def test_jobs_that_wait_for_one_image_share_one_pull(engine: Engine, registry: Registry) -> None:
    images, name = Images(engine), f"{registry.address}/shared:1"
    await images.ensure(f"{registry.address}/alone:1", lambda _: None, limit_s=LIMIT_S)
    registry.hold()
    said: list[list[str]] = [[], [], []]
    first = asyncio.create_task(images.ensure(name, said[0].append, limit_s=LIMIT_S))
    await until(lambda: bool(said[0]))
    others = [asyncio.create_task(images.ensure(name, listener.append, limit_s=LIMIT_S)) for listener in said[1:]]
    await until(lambda: all(said))
    registry.release()
    infos = await asyncio.gather(first, *others)
    assert infos[0] == infos[1] == infos[2]
    assert registry.count("/v2/shared/manifests") == registry.count("/v2/alone/manifests")
    assert said[0] == said[1] == said[2]


@pytest.mark.docker
async def test_one_waiter_that_goes_does_not_end_the_pull_of_the_others(engine: Engine, registry: Registry) -> None:
    images, name = Images(engine), f"{registry.address}/stays:1"
    registry.hold()
    said: list[str] = []
    goes = asyncio.create_task(images.ensure(name, said.append, limit_s=LIMIT_S))
    await until(lambda: bool(said))
    stays = asyncio.create_task(images.ensure(name, said.append, limit_s=LIMIT_S))
    await until(lambda: len(said) >= 2)
    goes.cancel()
    with pytest.raises(asyncio.CancelledError):
        await goes
    registry.release()
    assert (await stays).user == "1000"


@pytest.mark.docker
async def test_a_pull_that_nobody_waits_for_is_given_up_and_can_be_begun_again(
    engine: Engine, registry: Registry
) -> None:
    images, name = Images(engine), f"{registry.address}/again:1"
    registry.hold()
    said: list[str] = []
    only = asyncio.create_task(images.ensure(name, said.append, limit_s=LIMIT_S))
    await until(lambda: bool(said))
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    registry.release()
    assert (await images.ensure(name, said.append, limit_s=LIMIT_S)).user == "1000"


@pytest.mark.docker
async def test_a_pull_has_a_time_limit(engine: Engine, registry: Registry) -> None:
    registry.hold()
    name = f"{registry.address}/slow:1"
    try:
        with pytest.raises(PullTimedOut, match=r"within 0\.5s"):
            await Images(engine).ensure(name, lambda _: None, limit_s=0.5)
    finally:
        registry.release()


@pytest.mark.docker
async def test_an_image_that_the_registry_lacks_says_so(engine: Engine, registry: Registry) -> None:
    with pytest.raises(PullFailed, match="manifest unknown"):
        await Images(engine).ensure(f"{registry.address}/missing:1", lambda _: None, limit_s=LIMIT_S)


@pytest.mark.docker
async def test_latest_is_asked_for_again_but_not_at_every_job(engine: Engine, registry: Registry) -> None:
    images, name = Images(engine), f"{registry.address}/moving:latest"
    await images.ensure(name, lambda _: None, limit_s=LIMIT_S)
    asked_once = registry.count("/v2/moving/manifests")
    await images.ensure(name, lambda _: None, limit_s=LIMIT_S)
    assert registry.count("/v2/moving/manifests") == asked_once
    await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)
    assert registry.count("/v2/moving/manifests") > asked_once


@pytest.mark.docker
async def test_a_fixed_tag_that_is_here_is_not_asked_for_again(engine: Engine, registry: Registry) -> None:
    name = f"{registry.address}/fixed:1"
    await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)
    asked = registry.count("")
    await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)
    assert registry.count("") == asked


@pytest.mark.docker
async def test_a_local_latest_is_used_if_the_registry_fails(engine: Engine, registry: Registry) -> None:
    name = f"{registry.address}/gone:latest"
    info = await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)
    (registry.folder / "broken").touch()
    said: list[str] = []
    assert await Images(engine).ensure(name, said.append, limit_s=LIMIT_S) == info
    assert "using the copy that is here" in said[-1]


@pytest.mark.docker
async def test_the_owners_login_is_used_for_a_private_registry(
    engine: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry.address}/closed:1"
    (registry.folder / "private").touch()
    with pytest.raises(PullFailed):
        await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)
    login = {"auths": {registry.address: {"auth": base64.b64encode(b"me:secret").decode()}}}
    (registry.folder / "config.json").write_text(json.dumps(login))
    monkeypatch.setitem(os.environ, "DOCKER_CONFIG", str(registry.folder))
    assert (await Images(engine).ensure(name, lambda _: None, limit_s=LIMIT_S)).user == "1000"


# Limits and what is kept ------------------------------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.docker
async def test_a_pull_that_grows_too_large_is_broken_off(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    stock = Stock(engine, tmp_path / "s.json")
    name = f"{registry.address}/large:1"
    with pytest.raises(ImageTooLarge, match=r"4\.0 MiB packed; this worker allows 1\.0 MiB"):
        await Images(engine, stock=stock, max_bytes=MIB).ensure(name, lambda _: None, limit_s=LIMIT_S)
    assert await engine.image(name) is None
    assert stock.items() == []
    assert (await Images(engine, max_bytes=8 * MIB).ensure(name, lambda _: None, limit_s=LIMIT_S)).user == "1000"
    await engine.ask("DELETE", f"images/{name}")


@pytest.mark.docker
async def test_an_image_that_is_too_large_unpacked_is_removed_again(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    stock = Stock(engine, tmp_path / "s.json")
    name = f"{registry.address}/dense:1"
    with pytest.raises(ImageTooLarge, match="allows"):
        await Images(engine, stock=stock, max_bytes=MIB).ensure(name, lambda _: None, limit_s=LIMIT_S)
    assert await engine.image(name) is None
    assert stock.items() == []


@pytest.mark.docker
async def test_what_is_pulled_is_noted_as_ours_and_what_was_here_is_not(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    stock = Stock(engine, tmp_path / "s.json")
    pulled, owners = f"{registry.address}/noted:1", f"{registry.address}/owners:latest"
    await Images(engine).ensure(owners, lambda _: None, limit_s=LIMIT_S)
    images = Images(engine, stock=stock)
    for name in (IMAGE, owners, pulled):
        await images.ensure(name, lambda _: None, limit_s=LIMIT_S)
    (item,) = stock.items()
    found = await engine.image(pulled)
    assert found is not None
    assert (item.name, item.id, item.size_bytes) == (pulled, found.id, found.size_bytes)


def test_sizes_are_those_of_the_layers_as_they_are_sent() -> None:
    progress = PullProgress()
    for layer, current, total in (("a", 10, 100), ("b", 5, 50), ("a", 70, 100), ("c", 30, -1)):
        detail = {"current": current, "total": total}
        progress.count({"status": "Downloading", "id": layer, "progressDetail": detail})
    progress.count({"status": "Extracting", "id": "a", "progressDetail": {"current": 100, "total": 1000}})
    progress.count({"status": "Downloading", "id": "a", "progressDetail": {}})
    assert (progress.size_bytes, progress.fetched_bytes) == (180, 105)
