"""Devices with somebody else's process on them: set aside, said, and lent again. Jobs never share one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asman.errors import Unavailable
from asman_worker import occupancy
from asman_worker.config import WorkerConfig
from asman_worker.docker import Engine
from asman_worker.executor import Assignment, Executor
from asman_worker.gpu import Gpu
from asman_worker.occupancy import Occupancy
from asman_worker.process import read_grant
from docker_engine import IMAGE, DockerEngine, what_is_missing
from fake_nvidia import FakeNvidia
from old_server import OldServer
from worker_peers import job_id, until
from worker_programs import Host

A, B = Gpu(index=0, uuid="GPU-a"), Gpu(index=1, uuid="GPU-b")
WAITS = "echo up; until [ -e /outputs/go ]; do sleep 0.1; done"


class Tool:
    """Answers as the driver's tool does; None for one that does not tell."""

    def __init__(self) -> None:
        self.answer: Mapping[str, tuple[int, ...]] | None = {}
        self.asked = 0

    async def __call__(self) -> Mapping[str, tuple[int, ...]] | None:
        self.asked += 1
        return self.answer


async def test_a_device_with_a_process_is_set_aside_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tool = Tool()
    known = Occupancy(tool)
    with caplog.at_level(logging.INFO):
        tool.answer = {"GPU-a": (41, 42)}
        assert not await known.look((A, B))
        assert not await known.look((A,))
        assert await known.look((B,))
        assert known.occupied == {"GPU-a"}
        tool.answer = {}
        assert await known.look((A,))
        assert known.occupied == frozenset()
    said = [(record.levelname, getattr(record, "gpu", ""), getattr(record, "pids", "")) for record in caplog.records]
    assert said == [("WARNING", "GPU-a", "41,42"), ("INFO", "GPU-a", "")]


async def test_a_tool_that_does_not_tell_changes_nothing() -> None:
    tool = Tool()
    known = Occupancy(tool)
    tool.answer = {"GPU-a": (41,)}
    assert not await known.look((A,))
    tool.answer = None
    assert not await known.look((A,))
    assert await known.look((B,))


async def test_nothing_is_asked_for_jobs_without_a_device_and_devices_without_a_uuid() -> None:
    tool = Tool()
    known = Occupancy(tool)
    assert await known.look(())
    assert await known.look((Gpu(index=3),))
    assert tool.asked == 0


async def test_waiting_for_a_strangers_process_has_an_end_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(occupancy, "_PATIENCE_S", 0.03)
    tool = Tool()
    tool.answer = {"GPU-a": (41,)}
    known = Occupancy(tool)
    assert not await known.look((A,))
    await known.pause(1)
    with pytest.raises(Unavailable, match="GPU-a by process 41"):
        await known.pause(3)


# On an engine with a runtime that gives out devices -----------------------------------------------------------------


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> FakeNvidia:
    return FakeNvidia(tmp_path_factory.mktemp("nvidia"), 2)


@pytest.fixture(scope="module")
def nvidia_engine(nvidia: FakeNvidia) -> Iterator[DockerEngine]:
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    with DockerEngine.private(tools=nvidia.tools) as engine:
        yield engine


@pytest.fixture
async def old() -> AsyncIterator[OldServer]:
    async with OldServer() as server:
        yield server


@pytest.fixture
async def host(nvidia_engine: DockerEngine, nvidia: FakeNvidia, old: OldServer, tmp_path: Path) -> AsyncIterator[Host]:
    opened = Host(nvidia_engine, old, tmp_path, tools=nvidia.tools)
    yield opened
    opened.remove_all()
    nvidia.set_processes(())


def _definition(name: str, gpus: int = 1) -> dict[str, Any]:
    requirements = {"cpus": 0.5, "memory": "64m", "gpus": gpus}
    return {
        "image": IMAGE,
        "command": f"sh -c 'echo {name} $NVIDIA_VISIBLE_DEVICES; {WAITS}'",
        "requirements": requirements,
    }


@pytest.mark.docker
@pytest.mark.slow
async def test_two_jobs_get_a_device_each_and_a_third_gets_one_when_the_first_has_ended(
    host: Host, old: OldServer, nvidia: FakeNvidia
) -> None:
    async with host.worker("m-worker", "--gpus", "all", "--cpus", "4"):
        assert old.said("WorkerRegistration")[0]["gpus"] == 2
        jobs = [await old.submit(_definition(name)) for name in ("one", "two")]
        await old.until(lambda: all(old.relayed.get(job) for job in jobs))
        given = {job: nvidia.given(host.containers(job)[0]["Id"]) for job in jobs}
        assert sorted(given.values()) == [(uuid,) for uuid in nvidia.uuids]
        third = await old.submit(_definition("three"))
        without = await old.submit({"image": IMAGE, "command": "echo plain", "requirements": {"cpus": 0.5}})
        await old.finished(without)
        assert old.changes(third, "Running") == []
        assert host.containers(third) == []
        host.let_go(jobs[1])
        await old.finished(jobs[1])
        await old.until(lambda: old.relayed.get(third))
        assert nvidia.given(host.containers(third)[0]["Id"]) == given[jobs[1]]
        shown = "".join(line[0] for line in old.relayed[third])
        assert given[jobs[1]][0] in shown, "the job sees the device that the engine was asked for"
        for job in (jobs[0], third):
            host.let_go(job)
            assert (await old.finished(job))["reason"] == "Success"


class Bench:
    """An executor that lends what the fake tool lists."""

    def __init__(self, executor: Executor, nvidia: FakeNvidia, engine: DockerEngine) -> None:
        self.executor, self.nvidia, self._engine = executor, nvidia, engine
        self.lines: dict[str, list[Any]] = {}

    def start(self, number: int, gpus: int = 1) -> asyncio.Task[dict[str, Any]]:
        given = Assignment(
            queue="q",
            job_id=job_id(number),
            attempt=1,
            definition=_definition(str(number), gpus),
            server_url="http://x",
        )
        return asyncio.create_task(self.executor.run(given, lambda step, lines: self._log(number, step, lines)))

    def _log(self, number: int, step: str, lines: list[list[Any]]) -> None:
        self.lines.setdefault(job_id(number), []).extend(lines)

    def is_up(self, number: int) -> bool:
        return any(line[0] == "up\n" for line in self.lines.get(job_id(number), []))

    def devices(self, number: int) -> tuple[str, ...]:
        shown = "".join(line[0] for line in self.lines[job_id(number)]).split()
        assert shown[0] == str(number)
        return tuple(shown[1].split(","))


@pytest.fixture
async def bench(
    nvidia_engine: DockerEngine, nvidia: FakeNvidia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setenv("PATH", str(nvidia.tools), prepend=":")
    monkeypatch.setattr(occupancy, "_LOOK_EVERY_S", 0.1)
    async with Engine(nvidia_engine.host) as engine, aiohttp.ClientSession() as session:
        grant = await read_grant(WorkerConfig(queues=("q",), server="http://x", cpus=4.0, gpus="all"), engine)
        executor = Executor(grant=grant, worker_id="gpu-bench", data_directory=tmp_path, docker=engine, session=session)
        yield Bench(executor, nvidia, nvidia_engine)
        nvidia.set_processes(())
        for number in range(10):
            await executor.stop("q", job_id(number), 1)
        await executor.settle()


@pytest.mark.docker
@pytest.mark.slow
async def test_a_device_with_a_strangers_process_is_passed_over_until_that_has_ended(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = bench.nvidia.uuids
    bench.nvidia.set_processes([(first, 4711)])
    bench.start(1)
    await until(lambda: bench.is_up(1))
    assert bench.devices(1) == (second,)
    assert "4711" in [getattr(record, "pids", "") for record in caplog.records]
    waiting = bench.start(2)
    looks = bench.nvidia.looks()
    await until(lambda: bench.nvidia.looks() > looks + 2)
    assert not waiting.done()
    assert not bench.is_up(2), "the only other device is not handed out"
    bench.nvidia.set_processes([(second, 12)])
    await until(lambda: bench.is_up(2))
    assert bench.devices(2) == (first,), "what runs on the device of a job does not concern others"


@pytest.mark.docker
@pytest.mark.slow
async def test_what_a_job_leaves_on_its_device_is_said_when_it_ends(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start(3, gpus=2)
    await until(lambda: bench.is_up(3))
    assert bench.devices(3) == bench.nvidia.uuids, "as many as it asked for, in the owner's order"
    bench.nvidia.set_processes([(bench.nvidia.uuids[1], 99)])
    assert not [record for record in caplog.records if getattr(record, "gpu", "")]
    await bench.executor.stop("q", job_id(3), 1)
    await until(lambda: any("a job has just ended there" in record.getMessage() for record in caplog.records))
    (said,) = [record for record in caplog.records if getattr(record, "gpu", "")]
    assert (getattr(said, "gpu", ""), getattr(said, "pids", "")) == (bench.nvidia.uuids[1], "99")


@pytest.mark.docker
@pytest.mark.slow
async def test_no_device_is_handed_out_while_a_job_is_being_taken_up_again(bench: Bench) -> None:
    bench.start(4)
    await until(lambda: bench.is_up(4))
    again = Executor(
        grant=bench.executor.grant,
        worker_id="gpu-bench",
        data_directory=bench.executor._remains._data,
        docker=bench.executor._engine,
        session=bench.executor._steps._session,
    )
    given = Assignment(queue="q", job_id=job_id(4), attempt=1, definition=_definition("4"), server_url="http://x")
    resumed = asyncio.create_task(again.resume(given, lambda step, lines: None))
    asked = Assignment(queue="q", job_id=job_id(5), attempt=1, definition=_definition("5"), server_url="http://x")
    fresh = asyncio.create_task(again.run(asked, lambda step, lines: bench._log(5, step, lines)))
    await until(lambda: bench.is_up(5))
    assert set(bench.devices(4)).isdisjoint(bench.devices(5))
    for number in (4, 5):
        await again.stop("q", job_id(number), 1)
    await asyncio.wait_for(asyncio.gather(resumed, fresh), 30)
