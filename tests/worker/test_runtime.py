"""One container, observed by a real engine, also when the connection to it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import asman_worker.runtime as runtime
from asman.errors import Unavailable
from asman_worker.docker import ContainerState, Engine, EngineError
from asman_worker.logs import LogPump
from asman_worker.runtime import ContainerLost, Exit, follow_container, insist, remaining_s, run_container
from docker_engine import IMAGE
from worker_peers import until

LABEL = {"test.runtime": "1"}


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened
        for container in await opened.find(LABEL):
            await opened.remove(container.id)


def body(script: str, **host: Any) -> dict[str, Any]:
    return {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", script],
        "Labels": LABEL,
        "HostConfig": {"NetworkMode": "none", "Init": True, **host},
    }


class Run:
    """One run with its log and its steps."""

    def __init__(self) -> None:
        self.pump = LogPump(lambda lines: None)
        self.steps: list[str] = []

    async def __call__(self, engine: Engine, request: dict[str, Any], limit_s: float = 60.0) -> Exit:
        gate = asyncio.Semaphore(2)
        async with asyncio.timeout(60):
            end = await run_container(
                engine, request, self.pump, limit_s=limit_s, grace_s=1.0, start_gate=gate, at_step=self.steps.append
            )
        self.pump.finish()
        return end

    def text(self, *, stderr: bool = False) -> str:
        return "".join(line[0] for line in self.pump.kept.lines() if (len(line) == 3) is stderr)


@pytest.mark.docker
async def test_a_run_goes_through_its_steps_and_loses_no_byte(engine: Engine) -> None:
    run = Run()
    end = await run(engine, body("echo first; seq 1 20000; echo oops >&2; printf last; exit 4"))
    assert run.steps == ["create", "start", "wait"]
    assert (end.code, end.timed_out, end.oom_killed) == (4, False, False)
    assert run.text() == "first\n" + "".join(f"{n}\n" for n in range(1, 20001)) + "last"
    assert run.text(stderr=True) == "oops\n"


@pytest.mark.docker
async def test_binary_output_does_not_disturb_anything(engine: Engine) -> None:
    run = Run()
    end = await run(engine, body("head -c 300000 /dev/urandom; echo; echo end"))
    assert end.code == 0
    assert run.text().endswith("end\n")


@pytest.mark.docker
@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 137, 143, 255])
async def test_exit_codes_come_through(engine: Engine, code: int) -> None:
    assert (await Run()(engine, body(f"exit {code}"))).code == code


@pytest.mark.docker
async def test_at_the_limit_the_job_gets_term_then_kill_and_its_last_words_are_kept(engine: Engine) -> None:
    run = Run()
    script = "trap 'echo goodbye; exit 0' TERM; echo hi; while :; do sleep 0.1; done"
    end = await run(engine, body(script), limit_s=0.5)
    assert end.timed_out
    assert end.duration_s >= 0.5
    assert run.text() == "hi\ngoodbye\n"
    deaf = await Run()(engine, body("trap '' TERM; while :; do sleep 0.1; done"), limit_s=0.2)
    assert (deaf.timed_out, deaf.code) == (True, 137)


@pytest.mark.docker
async def test_running_out_of_memory_is_seen(engine: Engine) -> None:
    end = await Run()(engine, body("tail /dev/zero", Memory=16 << 20, MemorySwap=16 << 20))
    assert (end.code, end.oom_killed) == (137, True)


@pytest.mark.docker
async def test_a_container_that_cannot_start_is_an_error_of_the_start(engine: Engine) -> None:
    run = Run()
    request = body("true", Init=False) | {"Cmd": None, "Entrypoint": ["/no/such/program"]}
    with pytest.raises(EngineError):
        await run(engine, request)
    assert run.steps == ["create", "start"]


@pytest.mark.docker
async def test_a_container_that_somebody_removes_is_lost_or_killed_but_never_waited_for(engine: Engine) -> None:
    run = Run()
    running = asyncio.create_task(run(engine, body("echo up; sleep 60")))
    await until(lambda: "up" in run.text())
    for container in await engine.find(LABEL):
        await engine.remove(container.id)
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(outcome, ContainerLost) or (isinstance(outcome, Exit) and outcome.code == 137)


async def started(engine: Engine, script: str) -> str:
    container = await engine.create(body(script))
    await engine.start(container)
    return container


@pytest.mark.docker
async def test_a_running_container_is_followed_from_its_first_line(engine: Engine) -> None:
    container = await started(engine, "echo one; sleep 1; echo two; exit 5")
    pump = LogPump(lambda lines: None)
    end = await asyncio.wait_for(follow_container(engine, container, pump, limit_s=60, grace_s=1), 30)
    pump.finish()
    assert (end.code, end.timed_out) == (5, False)
    assert [line[0] for line in pump.kept.lines()] == ["one\n", "two\n"]


@pytest.mark.docker
async def test_an_ended_container_is_followed_too(engine: Engine) -> None:
    container = await started(engine, "echo one; exit 6")
    await engine.wait(container)
    pump = LogPump(lambda lines: None)
    end = await asyncio.wait_for(follow_container(engine, container, pump, limit_s=60, grace_s=1), 30)
    assert end.code == 6
    assert [line[0] for line in pump.kept.lines()] == ["one\n"]


@pytest.mark.docker
async def test_the_limit_of_a_followed_container_counts_from_its_own_start(engine: Engine) -> None:
    container = await started(engine, "sleep 60")
    state = await engine.inspect(container)
    assert state is not None
    await until(lambda: remaining_s(state, 1.0) == 0)
    pump = LogPump(lambda lines: None)
    begun = time.monotonic()
    end = await asyncio.wait_for(follow_container(engine, container, pump, limit_s=1.0, grace_s=1), 30)
    assert end.timed_out
    assert time.monotonic() - begun < 10


class Relay:
    """A unix socket in front of the engine's, that can break all connections."""

    def __init__(self, path: Path, target: str) -> None:
        self.address = f"unix://{path}"
        self._path, self._target = path, target.removeprefix("unix://")
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, inner_writer}
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))

    async def cut(self) -> None:
        """Break everything and stop listening."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._path.unlink(missing_ok=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.docker
async def test_a_broken_connection_to_the_engine_loses_neither_the_job_nor_a_line(
    engine: Engine, docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_RETRY_S", 0.1)
    relay = Relay(tmp_path / "relay.sock", docker_host)
    await relay.open()
    run = Run()
    async with Engine(relay.address) as through:
        script = "for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.25; done; exit 7"
        running = asyncio.create_task(run(through, body(script)))
        await until(lambda: "line 2" in run.text())
        await relay.cut()
        await relay.open()
        end = await running
        await relay.cut()
    assert end.code == 7
    assert run.text() == "".join(f"line {n}\n" for n in range(1, 9))


async def test_an_engine_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_ENGINE_BACK_S", 0.05)
    monkeypatch.setattr(runtime, "_RETRY_S", 0.01)
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await asyncio.wait_for(insist(ask), 10)
    assert asked > 1


RUNNING = ContainerState(
    status="running", running=True, exit_code=0, oom_killed=False, started_at=0.0, finished_at=0.0, error=""
)


def test_what_is_left_of_a_limit_is_never_below_zero() -> None:
    def state(started_at: float) -> ContainerState:
        return ContainerState(
            status="running",
            running=True,
            exit_code=0,
            oom_killed=False,
            started_at=started_at,
            finished_at=0,
            error="",
        )

    assert remaining_s(state(time.time() - 100), 10) == 0
    assert 8 < remaining_s(state(time.time() - 1), 10) <= 9
    assert remaining_s(state(0.0), 10) == 10
