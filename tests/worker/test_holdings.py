"""Held jobs: what is reported, what is not, and in which order things are put down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asman_worker.executor import Assignment
from asman_worker.grant import Grant
from asman_worker.holdings import Holdings
from asman_worker.log_stream import Progress
from asman_worker.outbox import Outbox
from asman_worker.process import own_tasks
from asman_worker.shelf import Shelf, ShelvedJob
from worker_peers import GIB, LocalExecutor, LocalHost, job_id, until


class _Faulty(LocalExecutor):
    """An executor with a bug of its own."""

    async def run(self, assignment: Assignment, log: Callable[[str, list[list[Any]]], None]) -> dict[str, Any]:
        raise ZeroDivisionError("a bug")


def _make(
    executor: LocalExecutor, folder: Path, spawn: Any, *, most_jobs: int = 0, grant: Grant | None = None
) -> Holdings:
    outbox, shelf = Outbox(folder / "outbox"), Shelf(folder / "held")
    outbox.load()
    shelf.load()
    return Holdings(
        executor=executor,
        grant=grant or Grant(cores=2.0, memory_bytes=2 * GIB),
        outbox=outbox,
        shelf=shelf,
        worker_id="w",
        most_jobs=most_jobs,
        spawn=spawn,
    )


@pytest.fixture
async def holdings(host: LocalHost, tmp_path: Path) -> AsyncIterator[Holdings]:
    async with own_tasks() as spawn:
        yield _make(LocalExecutor(host), tmp_path, spawn)


def _assignment(number: int, command: str, *, attempt: int = 1) -> Assignment:
    definition = {"image": "local:1", "command": command}
    return Assignment(
        queue="first", job_id=job_id(number), attempt=attempt, definition=definition, server_url="http://localhost"
    )


def _start(holdings: Holdings, assignment: Assignment) -> Any:
    return holdings.start(assignment, protocol=2, need=holdings.need_of(assignment.definition))


async def test_a_job_that_ends_is_in_the_outbox_before_its_capacity_is_free(holdings: Holdings) -> None:
    held = _start(holdings, _assignment(1, "exit 3"))
    assert holdings.ledger.free.jobs == 1
    assert holdings.holding("first") == {job_id(1): 1}
    async with asyncio.timeout(10):
        await held.ended.wait()
    (report,) = holdings.outbox.pending("first")
    assert (report.value["reason"], report.value["worker"]) == ("Success", "w")
    assert report.value["result"]["StatusCode"] == 3
    assert holdings.ledger.free.jobs == 2
    assert holdings.holding("first") == {job_id(1): 1}, "held towards the server until it has answered"
    assert holdings.shelf.load() == {}
    await holdings.answered(report.key)
    assert holdings.holding("first") == {}


async def test_a_stopped_job_is_not_reported_and_frees_its_capacity(holdings: Holdings, host: LocalHost) -> None:
    held = _start(holdings, _assignment(1, "sleep 60"))
    await until(lambda: bool(host.processes))
    holdings.stop(held, "test")
    holdings.stop(held, "again")
    assert holdings.of("first") == {}
    assert holdings.is_stopping_some
    async with asyncio.timeout(10):
        await held.ended.wait()
    assert not host.processes
    assert len(holdings.outbox) == 0
    assert holdings.ledger.free.jobs == 2
    assert holdings.shelf.load() == {}


async def test_a_fault_of_the_worker_is_told_to_the_submitter(host: LocalHost, tmp_path: Path) -> None:
    async with own_tasks() as spawn, asyncio.timeout(10):
        holdings = _make(_Faulty(host), tmp_path, spawn)
        await _start(holdings, _assignment(1, "true")).ended.wait()
    (report,) = holdings.outbox.pending("first")
    assert (report.value["reason"], report.value["outcome"]) == ("Error", "error")
    assert "ZeroDivisionError: a bug" in report.value["result"]["error"]


async def test_a_note_is_on_disk_before_the_container_is_started(holdings: Holdings, host: LocalHost) -> None:
    _start(holdings, _assignment(1, "sleep 60", attempt=4))
    await until(lambda: bool(host.processes))
    (note,) = holdings.shelf.load().values()
    assert (note.key, note.definition["command"]) == (("first", job_id(1), 4), "sleep 60")


async def test_two_attempts_of_one_job_are_told_apart(holdings: Holdings, host: LocalHost) -> None:
    old = _start(holdings, _assignment(1, "sleep 60", attempt=1))
    await until(lambda: bool(host.processes))
    new = _start(holdings, _assignment(1, "echo new", attempt=2))
    assert holdings.of("first")[job_id(1)] is new
    holdings.stop(old, "assigned anew")
    async with asyncio.timeout(10):
        await asyncio.gather(old.ended.wait(), new.ended.wait())
    assert [report.attempt for report in holdings.outbox.pending("first")] == [2]


async def test_a_resumed_job_sends_only_the_lines_that_were_not_sent(host: LocalHost, tmp_path: Path) -> None:
    key = ("first", job_id(1), 1)
    found = await host.start(key, "echo one; echo two; echo three")
    async with asyncio.timeout(10):
        await found.ended.wait()
    async with own_tasks() as spawn, asyncio.timeout(10):
        holdings = _make(LocalExecutor(host), tmp_path, spawn)
        note = ShelvedJob(
            queue="first",
            job_id=job_id(1),
            attempt=1,
            protocol=2,
            since=1.0,
            definition={"command": "echo never again"},
        )
        await holdings.shelf.put(note)
        holdings.shelf.note_progress(key, Progress(seq=7, container_lines=2))
        held = holdings.resume(note, server_url="http://localhost")
        await held.ended.wait()
    batch = held.log.take()
    assert batch is not None
    assert (batch.seq, [line[0] for line in batch.lines]) == (7, ["three\n"])
    (report,) = holdings.outbox.pending("first")
    assert len(report.value["result"]["logs"]) == 3, "the result has the whole log"
