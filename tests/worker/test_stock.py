"""What is kept on the engine and what goes first; nothing of anybody else's ever."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asman_worker.docker import Engine
from asman_worker.stock import IMAGE, VOLUME, Item, Stock, to_remove
from docker_engine import DockerEngine

docker = pytest.mark.docker


def image(name: str, size: int, used_at: float) -> Item:
    return Item(kind=IMAGE, name=name, id=name, size_bytes=size, used_at=used_at)


def test_what_is_over_the_budget_goes_oldest_first() -> None:
    items = [image("new", 30, 3), image("old", 10, 1), image("middle", 20, 2), Item(kind=VOLUME, name="v")]
    assert [item.name for item in to_remove(items, 60)] == []
    assert [item.name for item in to_remove(items, 55)] == ["old"]
    assert [item.name for item in to_remove(items, 35)] == ["old", "middle"]
    assert [item.name for item in to_remove(items, 0)] == ["old", "middle", "new"]
    assert to_remove(items, None) == []


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 100
        return self.now


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


async def brought(engine: Engine, docker_engine: DockerEngine, stock: Stock, name: str) -> str:
    """An image that this worker brought here; its id."""
    docker_engine.load_image(name)
    found = await engine.image(name)
    assert found is not None
    await stock.add_image(name, found.id, found.size_bytes)
    return found.id


@docker
async def test_images_go_by_last_use_until_they_fit(
    engine: Engine, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    docker_engine.load_image("stock-own:1")
    size = (await engine.image("stock-own:1")).size_bytes  # type: ignore[union-attr]
    stock = Stock(engine, tmp_path / "s.json", budget_bytes=2 * size, clock=Clock())
    for name in ("stock-a:1", "stock-b:1"):
        await brought(engine, docker_engine, stock, name)
    await stock.trim()
    assert {item.name for item in stock.items()} == {"stock-a:1", "stock-b:1"}
    await stock.use_image("stock-a:1")
    await brought(engine, docker_engine, stock, "stock-c:1")
    await stock.trim()
    assert {item.name for item in stock.items()} == {"stock-a:1", "stock-c:1"}
    assert await engine.image("stock-b:1") is None
    assert await engine.image("stock-own:1") is not None
    while await stock.free_one():
        pass
    assert await engine.image("stock-a:1") is None
    assert await engine.image("stock-own:1") is not None, "an image of the owner's was removed"
    await engine.ask("DELETE", "images/stock-own:1")


@docker
async def test_what_is_known_survives_a_restart(engine: Engine, docker_engine: DockerEngine, tmp_path: Path) -> None:
    stock = Stock(engine, tmp_path / "s.json", clock=Clock())
    await brought(engine, docker_engine, stock, "stock-kept:1")
    await stock.use_volume("asman-cache-x")
    again = Stock(engine, tmp_path / "s.json")
    assert again.items() == stock.items()
    assert again.has_image("stock-kept:1")
    assert os.listdir(tmp_path) == ["s.json"]
    assert await again.free_one()
    assert Stock(engine, tmp_path / "s.json").items() == again.items()
    assert await again.free_one()
    assert not await again.free_one()


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', '[{"kind": "image"}]', "[1]", '[{"name": "x", "else": 1}]'])
async def test_a_file_that_cannot_be_read_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        stock = Stock(engine, tmp_path / "s.json")
        assert stock.items() == []
        await stock.use_volume("v")
    assert json.loads((tmp_path / "s.json").read_text())[0]["name"] == "v"


@docker
async def test_what_is_in_use_stays(engine: Engine, docker_engine: DockerEngine, tmp_path: Path) -> None:
    wanted = {"stock-wanted:1"}
    stock = Stock(engine, tmp_path / "s.json", budget_bytes=0, wanted=lambda: wanted, clock=Clock())
    await brought(engine, docker_engine, stock, "stock-wanted:1")
    await brought(engine, docker_engine, stock, "stock-run:1")
    await engine.ensure_volume("asman-cache-in-use")
    await stock.use_volume("asman-cache-in-use")
    mount = {"Type": "volume", "Source": "asman-cache-in-use", "Target": "/c"}
    container = await engine.create({"Image": "stock-run:1", "Cmd": ["-"], "HostConfig": {"Mounts": [mount]}})
    await stock.trim()
    assert not await stock.free_one()
    assert {item.name for item in stock.items()} == {"stock-wanted:1", "stock-run:1", "asman-cache-in-use"}
    await engine.remove(container)
    wanted.clear()
    await stock.trim()
    assert await stock.free_one()
    assert stock.items() == []


@docker
async def test_a_name_that_somebody_else_gave_to_another_image_is_left_alone(
    engine: Engine, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    stock = Stock(engine, tmp_path / "s.json", budget_bytes=0, clock=Clock())
    ours = await brought(engine, docker_engine, stock, "stock-renamed:1")
    docker_engine.load_image("stock-renamed:1")
    theirs = await engine.image("stock-renamed:1")
    await stock.trim()
    assert await engine.image("stock-renamed:1") == theirs
    assert not stock.has_image("stock-renamed:1")
    await engine.ask("DELETE", "images/stock-renamed:1")
    await engine.ask("DELETE", f"images/{ours}")


@docker
async def test_what_had_the_name_before_is_removed_by_its_id(
    engine: Engine, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    stock = Stock(engine, tmp_path / "s.json", clock=Clock())
    old = await brought(engine, docker_engine, stock, "stock-moving:latest")
    new = await brought(engine, docker_engine, stock, "stock-moving:latest")
    assert {item.id for item in stock.items()} == {old, new}
    assert await stock.free_one()
    assert await engine.image(old) is None
    assert await engine.image(new) is not None
    assert await stock.free_one()
    assert await engine.image(new) is None


async def test_a_use_is_noted_now_and_then_and_not_at_every_job(tmp_path: Path) -> None:
    now = [1000.0]
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        stock = Stock(engine, tmp_path / "s.json", clock=lambda: now[0])
        await stock.use_volume("v")
        written = (tmp_path / "s.json").stat().st_mtime_ns
        now[0] += 30
        await stock.use_volume("v")
        assert (tmp_path / "s.json").stat().st_mtime_ns == written
        now[0] += 40
        await stock.use_volume("v")
        await stock.use_image("not-ours:1")
    assert [(item.name, item.used_at) for item in stock.items()] == [("v", 1070.0)]
