"""What an earlier process left: containers, notes and reports, in every combination."""

from __future__ import annotations

import asyncio
from pathlib import Path

from asman_worker.executor import Held
from asman_worker.reconcile import to_follow
from asman_worker.shelf import Shelf, ShelvedJob
from worker_peers import LocalHost, ScriptedServer, job_id, running, until


def _note(number: int, *, queue: str = "first", attempt: int = 1) -> ShelvedJob:
    return ShelvedJob(queue=queue, job_id=job_id(number), attempt=attempt, protocol=2, since=1.0, definition={})


def _held(note: ShelvedJob, *, is_running: bool = True) -> Held:
    return Held(queue=note.queue, job_id=note.job_id, attempt=note.attempt, running=is_running)


def test_only_a_container_with_a_note_and_without_a_report_is_followed() -> None:
    follow, ended, reported, other_queue = _note(1), _note(2), _note(3), _note(4, queue="second")
    without_container, older = _note(5), _note(6, attempt=1)
    notes = [follow, ended, reported, other_queue, without_container, older]
    held = [_held(follow), _held(ended, is_running=False), _held(reported), _held(other_queue)]
    held += [_held(_note(6, attempt=2)), _held(_note(7))]
    found = to_follow(held, {note.key: note for note in notes}, {reported.key}, ("first",))
    assert found == [follow, ended]


async def test_after_a_crash_running_and_ended_jobs_are_reported_once_with_gapless_logs(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    command = f"echo one; echo two; while [ ! -e {gate} ]; do sleep 0.02; done; echo three"
    async with running(server.url, tmp_path, host, cpus=2.0):
        first = await server.arrival()
        await first.register()
        job = await first.assign(1, command)
        ended = await first.assign(2, f"while [ ! -e {tmp_path / 'other'} ]; do sleep 0.02; done", attempt=4)
        await until(lambda: sum(len(log["logs"]) for log in first.all_of("JobStatusLogs")) == 2)
        await until(lambda: len(host.processes) == 2)
    (tmp_path / "other").touch()
    async with asyncio.timeout(10):
        await host.processes["first", ended, 4].ended.wait()
    async with running(server.url, tmp_path, host, cpus=2.0):
        second = await server.arrival()
        registration = await second.register()
        gate.touch()
        reports = {}
        for _ in range(2):
            finished = await second.hears("StateChange")
            reports[finished["job"]] = finished
            await second.ack(finished)
    assert registration["holding"] == {job: 1, ended: 4}
    assert {(r["job"], r["attempt"]) for r in reports.values()} == {(job, 1), (ended, 4)}
    assert [line[0] for line in reports[job]["value"]["result"]["logs"]] == ["one\n", "two\n", "three\n"]
    lines = {
        batch["seq"] + i: line[0]
        for peer in (first, second)
        for batch in peer.all_of("JobStatusLogs")
        if batch["jobId"] == job
        for i, line in enumerate(batch["logs"])
    }
    assert lines == {0: "one\n", 1: "two\n", 2: "three\n"}
    assert len(host.started) == 2


async def test_what_a_restarted_worker_lost_to_others_is_ended_and_not_reported(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "echo started; sleep 60")
        await peer.hears("JobStatusLogs")
    assert host.processes
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register(adopted={}, lost=[job])
        assert (await peer.hears("Ready", lambda ready: ready["jobs"] == 1))["jobs"] == 1
        assert not host.processes
        assert not peer.all_of("StateChange")
    assert not Shelf(tmp_path / "held").load()


async def test_what_nobody_tracks_is_removed_at_the_start(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    await host.start(("first", job_id(9), 1), "sleep 60")
    (tmp_path / "held").mkdir()
    await Shelf(tmp_path / "held").put(_note(8))
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        assert (await peer.register())["holding"] == {}
        assert not host.processes
    assert not Shelf(tmp_path / "held").load()
