"""The adapter: finding the engine, reading its answers, and each call against a real one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asman.errors import Unavailable
from asman_worker.docker import Engine, EngineError, engine_address, read_moment
from asman_worker.logs import Demultiplexer
from docker_engine import IMAGE, DockerEngine


def test_docker_host_wins() -> None:
    assert engine_address({"DOCKER_HOST": "tcp://h:1", "DOCKER_CONTEXT": "other"}) == "tcp://h:1"


@pytest.mark.parametrize("chosen_by", ["file", "variable"])
def test_the_chosen_context_is_used(tmp_path: Path, chosen_by: str) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/mine.sock"}}}))
    env = {"DOCKER_CONFIG": str(tmp_path)}
    if chosen_by == "file":
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    else:
        env["DOCKER_CONTEXT"] = "mine"
    assert engine_address(env) == "unix:///run/mine.sock"


def test_a_rootless_socket_is_found_where_there_is_no_other(tmp_path: Path) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        found = engine_address(env)
    assert found in (f"unix://{tmp_path}/docker.sock", "unix:///var/run/docker.sock")
    if not Path("/var/run/docker.sock").is_socket():
        assert found == f"unix://{tmp_path}/docker.sock"


def test_the_usual_socket_is_named_where_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    assert engine_address({"DOCKER_CONFIG": str(tmp_path)}) == "unix:///var/run/docker.sock"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-02T03:04:05.678901234Z", 1767323045.678901),
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T04:04:05.5+01:00", 1767323045.5),
        ("2026-01-02T04:04:05+01:00", 1767323045.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_the_engines_times_are_read(text: str, seconds: float) -> None:
    assert read_moment(text) == pytest.approx(seconds, abs=1e-6)


async def test_an_engine_that_is_not_there_is_unavailable_and_says_where(tmp_path: Path) -> None:
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        for call in (engine.ping(), engine.info(), engine.image("a:1"), engine.find({}), engine.start("x")):
            with pytest.raises(Unavailable, match=r"none\.sock"):
                await call


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened


@pytest.mark.docker
async def test_a_creation_that_is_called_off_leaves_no_container(engine: Engine) -> None:
    mark = {"asman.test.mark": str(time.time_ns())}
    for pause_s in (0.0, 0.001, 0.003, 0.01, 0.03):
        creating = asyncio.create_task(engine.create({"Image": IMAGE, "Cmd": ["true"], "Labels": mark}))
        await asyncio.sleep(pause_s)
        creating.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # where it was made before, its caller has it
            await engine.remove(await creating)
    kept = await engine.create({"Image": IMAGE, "Cmd": ["true"], "Labels": mark})  # and what was asked before is over
    assert [container.id for container in await engine.find(mark)] == [kept]
    await engine.remove(kept)


def sh(script: str, **more: Any) -> dict[str, Any]:
    host = {"NetworkMode": "none", **more.pop("HostConfig", {})}
    return {"Image": IMAGE, "Cmd": ["sh", "-c", script], "HostConfig": host, **more}


async def read_all(chunks: AsyncIterator[bytes]) -> bytes:
    frames = Demultiplexer()
    return b"".join([data async for chunk in chunks for _, data in frames.feed(chunk)])


@pytest.mark.docker
async def test_a_container_from_create_to_removal(engine: Engine) -> None:
    await engine.ping()
    container = await engine.create(sh("echo hello; exit 3", Labels={"test.adapter": "1"}))
    created = await engine.inspect(container)
    assert created is not None
    assert (created.status, created.started_at) == ("created", 0.0)
    async with engine.attach(container) as chunks:
        await engine.start(container)
        assert await asyncio.wait_for(read_all(chunks), 30) == b"hello\n"
    assert await engine.wait(container) == 3
    ended = await engine.inspect(container)
    assert ended is not None
    assert (ended.running, ended.exit_code, ended.oom_killed) == (False, 3, False)
    assert ended.started_at > 0
    assert ended.finished_at > 0
    (listed,) = await engine.find({"test.adapter": "1"})
    assert (listed.id, listed.state, listed.is_running) == (container, "exited", False)
    await engine.remove(container)
    await engine.remove(container)
    assert await engine.inspect(container) is None
    assert await engine.find({"test.adapter": "1"}) == []


@pytest.mark.docker
async def test_the_variables_of_a_container_can_be_read_back(engine: Engine) -> None:
    container = await engine.create(sh("true", Env=["A=1", "B=x=y\nz", "C="]))
    try:
        env = await engine.environment(container)
    finally:
        await engine.remove(container)
    assert (env["A"], env["B"], env["C"]) == ("1", "x=y\nz", "")


@pytest.mark.docker
async def test_labels_are_matched_by_value_and_all_of_them(engine: Engine) -> None:
    container = await engine.create(sh("true", Labels={"test.l": "a=b,c", "test.m": "2"}))
    try:
        assert [c.id for c in await engine.find({"test.l": "a=b,c", "test.m": "2"})] == [container]
        assert await engine.find({"test.l": "a=b,c", "test.m": "3"}) == []
        assert await engine.find({"test.l": "a=b"}) == []
    finally:
        await engine.remove(container)


@pytest.mark.docker
async def test_stop_gives_a_grace_and_then_kills(engine: Engine) -> None:
    polite = await engine.create(sh("trap 'exit 9' TERM; while :; do sleep 0.1; done"))
    deaf = await engine.create(sh("trap '' TERM; while :; do sleep 0.1; done"))
    codes = []
    for container in (polite, deaf):
        await engine.start(container)
        await engine.stop(container, 2)
        codes.append(await engine.wait(container))
        await engine.stop(container, 2)
        await engine.remove(container)
    assert codes == [9, 137]
    await engine.stop(deaf, 1)


@pytest.mark.docker
async def test_stored_logs_carry_their_times(engine: Engine) -> None:
    bounded = {"Type": (await engine.info()).log_driver}
    container = await engine.create(sh("echo one; echo two >&2", HostConfig={"LogConfig": bounded}))
    try:
        await engine.start(container)
        await engine.wait(container)
        async with engine.logs(container) as chunks:
            lines = (await asyncio.wait_for(read_all(chunks), 30)).decode().splitlines()
        assert sorted(line.split(" ", 1)[1] for line in lines) == ["one", "two"]
        assert all(read_moment(line.split(" ", 1)[0]) > 0 for line in lines)
    finally:
        await engine.remove(container)


@pytest.mark.docker
async def test_what_the_engine_refuses_comes_with_its_own_words(engine: Engine) -> None:
    with pytest.raises(EngineError) as refused:
        await engine.create({"Image": "none-of-ours:1"})
    assert refused.value.status == 404
    with pytest.raises(EngineError):
        async with engine.attach("0" * 64):
            pass
    assert await engine.image("none-of-ours:1") is None


@pytest.mark.docker
async def test_two_workers_may_ask_for_the_network_at_once(engine: Engine, docker_engine: DockerEngine) -> None:
    async with Engine(engine.address) as second, Engine(engine.address) as third:
        await asyncio.gather(*(e.ensure_network("asman-test-net") for e in (engine, second, third, engine)))
    networks = json.loads(docker_engine.request("GET", "/networks")[1])
    made = [n for n in networks if n["Name"] == "asman-test-net"]
    try:
        assert len(made) == 1
        assert made[0]["EnableIPv6"] is False
        assert made[0]["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    finally:
        for network in made:
            docker_engine.request("DELETE", f"/networks/{network['Id']}")


@pytest.mark.docker
async def test_a_fresh_volume_can_be_opened_to_any_user(engine: Engine, docker_engine: DockerEngine) -> None:
    await engine.ensure_volume("asman-test-open")
    mounts = {"Mounts": [{"Type": "volume", "Source": "asman-test-open", "Target": "/v"}], "ReadonlyRootfs": True}
    codes = []
    for opened in (False, True):
        if opened:
            await engine.open_volume("asman-test-open", IMAGE, {"test.helper": "1"})
        container = await engine.create(sh("echo x > /v/x && cat /v/x", User="65532", HostConfig=mounts))
        await engine.start(container)
        codes.append(await engine.wait(container))
        await engine.remove(container)
    assert codes == [1, 0]
    assert await engine.find({"test.helper": "1"}) == []
    assert docker_engine.request("DELETE", "/volumes/asman-test-open")[0] == 204


@pytest.mark.docker
async def test_a_named_volume_may_be_there_already(engine: Engine, docker_engine: DockerEngine) -> None:
    for _ in range(2):
        await engine.ensure_volume("asman-test-volume")
    assert docker_engine.request("DELETE", "/volumes/asman-test-volume")[0] == 204


@pytest.mark.docker
async def test_what_ran_out_of_memory_is_found_in_the_engines_notices_too(engine: Engine) -> None:
    async def ended(script: str) -> str:
        limits = {"Memory": 16 << 20, "MemorySwap": 16 << 20}
        body = {"Image": IMAGE, "Cmd": ["sh", "-c", script], "HostConfig": limits}
        container = await engine.create(body)
        await engine.start(container)
        await engine.wait(container)
        return container

    since = time.time() - 1
    bomb, plain = await ended("tail /dev/zero; sleep 1"), await ended("kill -9 $$")
    assert await engine.has_run_out_of_memory(bomb, since)
    assert not await engine.has_run_out_of_memory(plain, since)
    for container in (bomb, plain):
        await engine.remove(container)
