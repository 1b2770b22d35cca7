"""The worker as a program, on a real engine: run, be killed, come back, leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from docker_engine import IMAGE, DockerEngine
from processes import call, eventually, worker
from processes import server as serving
from worker_peers import Connected, ScriptedServer, job_id

pytestmark = pytest.mark.docker


@asynccontextmanager
async def _program(
    server: ScriptedServer, data: Path, docker_host: str, *flags: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asman_worker", "first", "--server", server.url, "--data-directory", str(data), *flags),
        env={**os.environ, "DOCKER_HOST": docker_host},
        stderr=(data.parent / f"{data.name}.log").open("ab"),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _assign(peer: Connected, number: int, command: str, attempt: int = 1) -> str:
    definition = {"image": IMAGE, "command": f"sh -c '{command}'", "requirements": {"memory": "64m"}}
    payload = {"jobId": job_id(number), "attempt": attempt, "definition": definition}
    await peer.say("Assign", payload | {"lease_until": 0, "queuedTime": 0})
    return job_id(number)


def _containers(engine: DockerEngine, job: str) -> list[Any]:
    wanted = json.dumps({"label": [f"asman.job={job}"]})
    status, answer = engine.request("GET", f"/containers/json?all=1&filters={quote(wanted)}")
    assert status == 200, answer
    return list(json.loads(answer))


# The owner's signals and views, against a real server ------------------------------------------------------------

QUEUE = "a-queue-for-the-owners-view-5d8a"


def _submit(url: str, script: str, **definition: Any) -> str:
    wanted = {"image": IMAGE, "command": ["sh", "-c", script], "requirements": {"memory": "64m"}, **definition}
    status, answer = call("POST", f"{url}/q/{QUEUE}", {"definition": wanted})
    assert status == 200, answer
    return str(answer["jobId"])


def _is(url: str, job: str, state: str) -> bool:
    return bool(call("GET", f"{url}/q/{QUEUE}")[1]["data"][job]["state"] == state)


def _result(url: str, job: str) -> Any:
    return eventually("the job has ended", lambda: _ended(url, job), timeout_s=60)


def _ended(url: str, job: str) -> Any:
    status, answer = call("GET", f"{url}/q/{QUEUE}/j/{job}/result.json")
    return answer["data"] if status == 200 else None


def _answers(url: str, status: int) -> Any:
    """What a path of the status server says, once it has this status."""

    def ask() -> Any:
        try:
            found, answer = call("GET", url, timeout_s=5.0)
        except OSError:
            return None
        return answer if found == status else None

    return eventually(f"{url} answers {status}", ask)


def test_signals_drain_and_resume_a_worker_and_its_owner_sees_it(
    docker_host: str, free_port: int, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('[TOKEN]\nvalue = "tok-42-42"\n')
    secrets.chmod(0o600)
    with serving(free_port, tmp_path / "server") as url:
        flags = ("--status", "127.0.0.1:0", "--log-format", "json", "--cpus", "2", "--secrets", str(secrets))
        with worker(url, QUEUE, tmp_path / "data", *flags, env={"DOCKER_HOST": docker_host}) as process:
            process.wait_for("status is served")
            lines = [json.loads(line) for line in process.output.splitlines()]
            (address,) = (line["address"] for line in lines if line["message"] == "status is served")
            status = f"http://{address}"
            assert _answers(f"{status}/readyz", 200) == {"ready": True, "reasons": []}
            first = _submit(url, "echo $T; sleep 3; echo ran on", env={"T": "secret:TOKEN"})
            eventually("the job runs", lambda: 'jobs{phase="wait"} 1.0' in _answers(f"{status}/metrics", 200).decode())
            os.kill(process.pid, signal.SIGUSR1)
            assert _answers(f"{status}/readyz", 503)["reasons"] == ["drained by its owner"]
            alive = _answers(f"{status}/healthz", 200)
            assert (alive["draining"], alive["connected"], alive["jobs"]) == (True, 1, 1)
            second = _submit(url, "echo second")
            result = _result(url, first)
            assert [line[0] for line in result["finished"]["result"]["logs"]] == ["[secret TOKEN]\n", "ran on\n"]
            assert _is(url, second, "Queued"), "its server knows that it takes no jobs"
            os.kill(process.pid, signal.SIGUSR2)
            _answers(f"{status}/readyz", 200)
            assert _result(url, second)["finished"]["outcome"] == "succeeded"
            secrets.write_text('[TOKEN]\nvalue = "new-42-42"\n[MORE]\nvalue = "more-42-42"\n')
            os.kill(process.pid, signal.SIGHUP)
            process.wait_for('"secrets": 2')
            text = _answers(f"{status}/metrics", 200).decode()
            assert 'asman_worker_jobs_finished_total{outcome="succeeded"} 2.0' in text
            assert 'asman_worker_step_seconds_count{step="outputs"} 2.0' in text
            assert process.terminate() == 0
            for word in (QUEUE, first, second, "tok-42-42", "new-42-42"):
                assert word not in text
            lines = [json.loads(line) for line in process.output.splitlines()]
            told = [line["message"] for line in lines]
            assert told.index("no more jobs are taken") < told.index("jobs are taken again") < told.index("leaving")
            assert "42-42" not in process.output
            assert "42-42" not in "".join(p.read_text() for p in (tmp_path / "data").rglob("*.json"))


async def test_a_worker_whose_engine_goes_away_is_alive_and_not_ready(
    docker_host: str, server: ScriptedServer, tmp_path: Path, free_port: int
) -> None:
    between, status = tmp_path / "engine.sock", f"http://127.0.0.1:{free_port}"
    flags = ("--status", f"127.0.0.1:{free_port}")
    async with _passage(between, docker_host) as passage:
        async with _program(server, tmp_path / "data", f"unix://{between}", *flags):
            peer = await server.arrival()
            await peer.register()
            await peer.hears("Ready")
            assert await asyncio.to_thread(_answers, f"{status}/readyz", 200) == {"ready": True, "reasons": []}
            passage()
            told = await asyncio.to_thread(_answers, f"{status}/readyz", 503)
            assert "the container engine does not answer" in told["reasons"][0]
            assert str(between) in told["reasons"][0]
            assert (await asyncio.to_thread(_answers, f"{status}/healthz", 200))["connected"] == 1


@asynccontextmanager
async def _passage(path: Path, docker_host: str) -> AsyncIterator[Callable[[], None]]:
    """A socket that leads to the engine; gives what takes it away, with all that goes through it."""
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(docker_host.removeprefix("unix://"))
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    def take_away() -> None:
        listening.close()
        path.unlink(missing_ok=True)
        for writer in writers:
            writer.transport.abort()

    listening = await asyncio.start_unix_server(connect, path)
    try:
        yield take_away
    finally:
        take_away()
