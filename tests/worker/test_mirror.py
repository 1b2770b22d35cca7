"""An older server: the worker mirrors its queue and helps itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asman_worker import agent, link, mirror
from asman_worker.outbox import Outbox
from worker_peers import Connected, LocalHost, ScriptedServer, job_id, running, until


class _OldQueue:
    """What an older server shows. It knows no Registered, Assign or Ack."""

    def __init__(self, peer: Connected) -> None:
        self.peer = peer
        self.jobs: dict[str, dict[str, Any]] = {}
        self.commands: dict[str, str] = {}
        peer.answer = self._give_definitions

    async def queue(self, number: int, command: str, *, at: int = 0, **more: Any) -> str:
        self.jobs[job_id(number)] = {"state": "Queued", "queuedTime": at, "time": at, "worker": "", **more}
        self.commands[job_id(number)] = command
        return job_id(number)

    async def show(self) -> None:
        await self.peer.say("JobStates", {"state": {"jobs": self.jobs}, "isSubset": False})

    async def set(self, job: str, state: str, worker: str = "", **more: Any) -> None:
        self.jobs[job] |= {"state": state, "worker": worker, **more}
        await self.peer.say("JobStateUpdates", {"state": {"jobs": {job: self.jobs[job]}}, "isSubset": True})

    async def _give_definitions(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "RequestJobDefinitions":
            given = {job: {"image": "local:1", "command": self.commands[job]} for job in payload["jobIds"]}
            await self.peer.say("BroadcastJobDefinitions", {"definitions": given})

    async def claimed(self) -> str:
        claim = await self.peer.hears("StateChange", lambda change: change["state"] == "Running")
        await self.set(claim["job"], "Running", claim["value"]["worker"])
        return str(claim["job"])

    async def finished(self) -> dict[str, Any]:
        return await self.peer.hears("StateChange", lambda change: change["state"] == "Finished")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a worker waits for an answer to its registration before it mirrors."""
    monkeypatch.setattr(agent, "_REGISTERED_WITHIN_S", 0.1)


@pytest.fixture
def short_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six seconds of doubt are a rule of older servers, not of these tests."""
    monkeypatch.setattr(mirror, "_DOUBT_S", 0.3)
    monkeypatch.setattr(mirror, "_TICK_S", 0.1)


async def _old_server(server: ScriptedServer) -> _OldQueue:
    peer = await server.arrival()
    queue = _OldQueue(peer)
    await queue.show()
    await peer.hears("WorkerRegistration")
    return queue


async def test_a_job_of_an_older_server_is_claimed_run_and_reported(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host) as worker:
        old = await _old_server(server)
        job = await old.queue(1, "echo hello")
        await old.show()
        assert await old.claimed() == job
        finished = await old.finished()
        assert [r.job_id for r in _pending(tmp_path)] == [job], "kept until the server shows the job as finished"
        await old.set(job, "Finished", worker.worker_id, finishedReason="Success")
        await until(lambda: not _pending(tmp_path))
    assert "attempt" not in finished
    assert finished["value"]["result"]["logs"][0][0] == "hello\n"
    assert all("seq" not in log and "attempt" not in log for log in old.peer.all_of("JobStatusLogs"))


async def test_jobs_are_taken_oldest_first_and_no_more_than_there_is_room(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host) as worker:
        old = await _old_server(server)
        young = await old.queue(1, "true", at=300)
        middle = await old.queue(3, "true", at=200)
        same_time = await old.queue(2, "true", at=200)
        await old.show()
        order = []
        for _ in range(3):
            order.append(await old.claimed())
            assert (await old.finished())["job"] == order[-1], "one core runs one job at a time"
            await old.set(order[-1], "Finished", worker.worker_id, finishedReason="Success")
    assert order == [same_time, middle, young]


async def test_a_job_that_leaves_the_queue_is_ended_and_not_reported(
    server: ScriptedServer, host: LocalHost, tmp_path: Path, short_doubt: None
) -> None:
    async with running(server.url, tmp_path, host):
        old = await _old_server(server)
        job = await old.queue(1, "sleep 60")
        await old.show()
        await old.claimed()
        await until(lambda: bool(host.processes))
        del old.jobs[job]
        await old.show()
        await until(lambda: not host.processes)
        assert not [c for c in old.peer.all_of("StateChange") if c["state"] == "Finished"]
        assert not _pending(tmp_path)


async def test_a_job_that_only_seems_gone_for_a_moment_runs_on(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with running(server.url, tmp_path, host, cpus=2.0):
        old = await _old_server(server)
        job = await old.queue(1, f"while [ ! -e {gate} ]; do sleep 0.02; done")
        await old.show()
        await old.claimed()
        record = old.jobs.pop(job)
        other = await old.queue(2, "sleep 60")
        await old.show()
        assert await old.claimed() == other, "the worker has looked at a queue without the first job"
        old.jobs[job] = record
        await old.show()
        gate.touch()
        assert (await old.finished())["job"] == job
    assert len(host.started) == 2


async def test_of_two_workers_with_one_job_the_id_that_sorts_first_keeps_it(
    server: ScriptedServer, host: LocalHost, tmp_path: Path, short_doubt: None
) -> None:
    async with running(server.url, tmp_path, host, cpus=2.0, worker_id="m-worker"):
        old = await _old_server(server)
        loses, keeps = await old.queue(1, "sleep 60", at=1), await old.queue(2, "sleep 1", at=2)
        await old.show()
        await old.claimed()
        await old.claimed()
        await until(lambda: len(host.processes) == 2)
        await old.set(loses, "Running", "a-worker")
        await old.set(keeps, "Running", "z-worker")
        await until(lambda: loses not in {key[1] for key in host.processes})
        assert (await old.finished())["job"] == keeps


async def test_a_job_that_the_server_has_queued_again_is_announced_again(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        old = await _old_server(server)
        job = await old.queue(1, "sleep 60")
        await old.show()
        await old.claimed()
        await until(lambda: bool(host.processes))
        await old.set(job, "Queued")
        assert await old.claimed() == job
    assert len(host.started) == 1


async def test_jobs_that_this_worker_can_never_run_are_left_to_others(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        old = await _old_server(server)
        await old.queue(1, "true", at=1, requirements={"cpus": 64})
        await old.queue(2, "true", at=2, tags=["special"])
        fits = await old.queue(3, "true", at=3)
        await old.show()
        assert await old.claimed() == fits
        asked = [job for request in old.peer.all_of("RequestJobDefinitions") for job in request["jobIds"]]
    assert asked == [fits]


async def test_after_a_restart_a_job_that_still_runs_is_followed_not_started_again(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with running(server.url, tmp_path, host):
        old = await _old_server(server)
        job = await old.queue(1, f"while [ ! -e {gate} ]; do sleep 0.02; done")
        await old.show()
        await old.claimed()
        await until(lambda: bool(host.processes))
    async with running(server.url, tmp_path, host):
        again = _OldQueue(await server.arrival())
        again.jobs = old.jobs
        await again.show()
        gate.touch()
        assert (await again.finished())["job"] == job
    assert len(host.started) == 1


async def test_a_server_that_answers_late_but_shows_no_queue_is_not_taken_for_an_older_one(
    server: ScriptedServer, host: LocalHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_EVERY_S", 0.05)
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.heard_pings(10)
        await peer.register()
        assert (await peer.hears("Ready"))["jobs"] == 1
    assert len(peer.all_of("WorkerRegistration")) == 1


def _pending(data: Path) -> tuple[Any, ...]:
    outbox = Outbox(data / "outbox")
    outbox.load()
    return outbox.pending("first")
