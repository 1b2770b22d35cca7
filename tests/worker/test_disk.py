"""The floor of free disk: what happens at each level, on a small disk that is really filled."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from asman.errors import AsmanError
from asman_worker.disk import NO_ROOM, Disk, DiskShort, Space, fastest, floor_bytes, spaces
from asman_worker.docker import Engine
from asman_worker.intake import Intake
from asman_worker.remains import Key
from asman_worker.stock import Stock
from docker_engine import IMAGE, DockerEngine
from small_disk import small_disk
from worker_bench import GRANT, Bench
from worker_peers import ScriptedServer, until

MIB = 1 << 20
GIB = 1 << 30
A, B = ("q", "a" * 64, 1), ("q", "b" * 64, 1)
needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


def test_the_floor_is_ten_gibibytes_or_a_tenth_unless_the_owner_says() -> None:
    assert floor_bytes(None, 1000 * GIB) == 10 * GIB
    assert floor_bytes(None, 50 * GIB) == 5 * GIB
    assert floor_bytes(3, 50 * GIB) == 3
    assert floor_bytes(0, 50 * GIB) == 0


def test_the_job_that_grew_most_is_found() -> None:
    assert fastest({A: 100 * MIB, B: 5 * MIB}, {A: 101 * MIB, B: 9 * MIB}) == B
    assert fastest({A: 100 * MIB}, {A: 101 * MIB, B: 9 * MIB}) == B
    assert fastest({A: 100 * MIB}, {A: 100 * MIB + 5}) is None
    assert fastest({}, {}) is None
    assert fastest({A: 0}, {A: 9 * MIB}, lost_bytes=100 * MIB) is None
    assert fastest({A: 0}, {A: 10 * MIB}, lost_bytes=100 * MIB) == A


@needs_mounts
def test_each_file_system_is_counted_once_and_what_is_not_here_is_left_out(tmp_path: Path) -> None:
    with small_disk(tmp_path, 8 * MIB) as disk:
        (disk / "folder").mkdir()
        found = spaces((disk, disk / "folder", tmp_path, tmp_path / "missing"))
        assert [space.path for space in found] == [disk, tmp_path]
        assert found[0] == Space(path=disk, total_bytes=8 * MIB, free_bytes=found[0].free_bytes)
        assert 7 * MIB < found[0].free_bytes <= 8 * MIB


class Eaters:
    """Jobs whose files a test writes by hand: job A fills ``a`` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: list[tuple[Key, AsmanError]] = []

    async def disk_use(self) -> Mapping[Key, int]:
        return {key: self._file(key).stat().st_size for key in (A, B) if self._file(key).exists()}

    async def break_off(self, key: Key, error: AsmanError) -> None:
        self.ended.append((key, error))
        self._file(key).unlink()

    def _file(self, key: Key) -> Path:
        return self.folder / key[1][0]

    def write(self, key: Key, size_bytes: int) -> None:
        self._file(key).write_bytes(bytes(size_bytes))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 40 * MIB) as disk:
        yield disk


def watcher(disk: Path, jobs: Eaters, stock: Stock, floor: int | None = 20 * MIB) -> tuple[Disk, Intake]:
    intake = Intake()
    return Disk(paths=[disk], floor=floor, stock=stock, jobs=jobs, intake=intake), intake


async def no_stock(folder: Path) -> Stock:
    return Stock(Engine(f"unix://{folder}/none.sock"), folder / "stock.json")


@needs_mounts
async def test_below_the_floor_no_jobs_are_taken_until_there_is_clearly_room(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Eaters(small)
    disk, intake = watcher(small, jobs, await no_stock(small))
    await disk.look()
    assert intake.is_open
    jobs.write(A, 22 * MIB)
    with caplog.at_level(logging.WARNING):
        await disk.look()
        await disk.look()
    assert intake.reasons == (NO_ROOM,)
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "--disk-floor" in said.message
    assert said.__dict__["floor"] == "20.0 MiB"
    jobs.write(A, 19 * MIB)
    await disk.look()
    assert intake.reasons == (NO_ROOM,), "a little above the floor is not enough to begin again"
    jobs.write(A, 10 * MIB)
    await disk.look()
    assert intake.is_open
    assert jobs.ended == []


@needs_mounts
async def test_far_below_the_floor_the_job_that_grows_is_ended_and_the_large_one_is_not(small: Path) -> None:
    jobs = Eaters(small)
    jobs.write(A, 21 * MIB)
    disk, _ = watcher(small, jobs, await no_stock(small))
    await disk.look()
    assert jobs.ended == []
    jobs.write(B, 12 * MIB)
    await disk.look()
    ((key, error),) = jobs.ended
    assert key == B
    assert (error.code, type(error)) == ("disk_limit", DiskShort)
    assert "7.0 MiB left" in error.message


@needs_mounts
async def test_a_job_that_takes_all_between_two_looks_is_found_too(small: Path) -> None:
    jobs = Eaters(small)
    jobs.write(A, 2 * MIB)
    disk, intake = watcher(small, jobs, await no_stock(small))
    await disk.look()
    jobs.write(B, 37 * MIB)
    await disk.look()
    assert [key for key, _ in jobs.ended] == [B]
    await disk.look()
    assert intake.is_open


@needs_mounts
async def test_no_job_is_ended_for_what_somebody_else_wrote(small: Path) -> None:
    jobs = Eaters(small)
    disk, intake = watcher(small, jobs, await no_stock(small))
    (small / "other").write_bytes(bytes(21 * MIB))
    await disk.look()
    (small / "other").write_bytes(bytes(37 * MIB))
    jobs.write(A, MIB + 4096)
    await disk.look()
    assert jobs.ended == []
    assert not intake.is_open


@needs_mounts
async def test_a_floor_of_nothing_never_stops_anything(small: Path) -> None:
    jobs = Eaters(small)
    disk, intake = watcher(small, jobs, await no_stock(small), floor=0)
    jobs.write(A, 39 * MIB)
    await disk.look()
    assert intake.is_open
    assert jobs.ended == []


@pytest.mark.docker
@needs_mounts
async def test_caches_go_before_jobs_do(
    docker_engine: DockerEngine, docker_host: str, small: Path, tmp_path: Path
) -> None:
    """The engine's images are on another disk here, so that they go does not help: the last one is gone too."""
    async with Engine(docker_host) as engine:
        stock = Stock(engine, tmp_path / "stock.json")
        for name in ("disk-old:1", "disk-new:1"):
            docker_engine.load_image(name)
            found = await engine.image(name)
            assert found is not None
            await stock.add_image(name, found.id, found.size_bytes)
        jobs = Eaters(small)
        disk, intake = watcher(small, jobs, stock)
        jobs.write(A, 22 * MIB)
        await disk.look()
        assert stock.items() == []
        assert await engine.image("disk-old:1") is None
        assert await engine.image(IMAGE) is not None
        assert not intake.is_open
        assert jobs.ended == []


@pytest.mark.docker
@needs_mounts
async def test_a_real_job_that_eats_the_disk_is_ended_and_its_neighbour_goes_on(bench: Bench, tmp_path: Path) -> None:
    with small_disk(tmp_path, 120 * MIB) as point:
        bench.data = point
        executor = bench.another(replace(GRANT, max_output_bytes=GIB))
        intake = Intake()
        disk = Disk(paths=[point], floor=80 * MIB, stock=executor.stock, jobs=executor, intake=intake)
        watching = asyncio.create_task(disk.run())
        quiet = bench.assignment({"command": "echo quiet; while [ ! -e /outputs/end ]; do sleep 0.1; done; echo done"})
        beside = bench.begin(quiet, executor)
        await until(lambda: "quiet" in bench.live())
        eater = "while :; do head -c 1000000 /dev/zero >> /outputs/x; sync; sleep 0.03; done"
        report = await bench.run(eater, executor)
        assert (report["outcome"], report["result"]["errorCode"]) == ("error", "disk_limit")
        assert not beside.done()
        (folder,) = point.glob(f"jobs/*/*/{quiet.job_id}/1/outputs")
        (folder / "end").touch()
        assert (await beside)["outcome"] == "succeeded"
        await executor.settle()
        await disk.look()
        assert intake.is_open
        watching.cancel()


@pytest.mark.docker
@needs_mounts
async def test_a_worker_says_that_it_takes_nothing_and_begins_again_by_itself(
    server: ScriptedServer, docker_host: str, small: Path
) -> None:
    (small / "ballast").write_bytes(bytes(25 * MIB))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asman_worker", "first", "--server", server.url, "--data-directory", str(small)),
        *("--disk-floor", "20m"),
        env={**os.environ, "DOCKER_HOST": docker_host},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        peer = await server.arrival()
        await peer.register()
        assert (await peer.hears("Ready"))["jobs"] == 0
        (small / "ballast").unlink()
        assert (await peer.hears("Ready", lambda ready: ready["jobs"] > 0))["jobs"] == 1
    finally:
        process.terminate()
        _, log = await process.communicate()
    assert log.count(b"no more jobs are taken until there is room") == 1
