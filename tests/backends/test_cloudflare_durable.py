"""The job store in a Durable Object, and its directory (``asman_cloudflare.directory``), on the real thing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

import edge_exam
from asman.config import Config
from asman.errors import ConfigError
from asman_cloudflare import Platform
from asman_cloudflare.durable import SqlTransaction
from asman_sqlite.schema import STATEMENTS
from edge import Bundle, workerd_served
from edge_exam import examined_inside, make_kits
from in_process import ECHO
from remote import Remote, remote

INSIDE = Path(edge_exam.__file__).with_name("durable_inside.py")


@pytest.mark.timeout(400)
def test_the_store_does_what_the_kits_do_not_ask(edge_bundle: Bundle, tmp_path: Path) -> None:
    outcomes = examined_inside(edge_bundle, make_kits(tmp_path), [str(INSIDE)])[str(INSIDE)]
    assert [each for each in outcomes if each[1] != "passed"] == []
    assert len(outcomes) >= 14


async def test_what_was_acknowledged_is_there_after_the_runtime_is_killed(edge_bundle: Bundle, tmp_path: Path) -> None:
    """In the middle of submits to four queues; found again by the id alone, so the directory has them too."""
    options, acknowledged = ("--store", str(tmp_path / "store")), dict[str, Any]()
    enough = asyncio.Event()

    async def submit_until_it_ends(server: Remote, queue: str) -> None:
        for number in range(10_000):
            definition = {**ECHO, "command": f"echo {queue} {number}"}
            try:
                job_id = await server.submit(definition, queue=queue)
            except aiohttp.ClientError:
                return
            acknowledged[job_id] = definition
            if len(acknowledged) == 60:
                enough.set()

    with workerd_served(edge_bundle, *options, cwd=tmp_path, ASMAN_BACKEND="durable://JOBS") as served:
        async with remote(served.url) as server, asyncio.timeout(120), asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(submit_until_it_ends(server, f"killed-{n}"))
            await enough.wait()
            for process in (*_children(served.process.pid), served.process.pid):
                os.kill(process, signal.SIGKILL)
    with workerd_served(edge_bundle, *options, cwd=tmp_path, ASMAN_BACKEND="durable://JOBS") as served:
        async with remote(served.url) as server:
            for job_id, definition in acknowledged.items():
                assert (await server.get(f"/j/{job_id}/definition.json"))["data"] == definition


def _children(process: int) -> list[int]:
    named = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in named for child in file.read_text().split()]


def test_an_object_is_needed_and_the_directory_has_to_be_there() -> None:
    with pytest.raises(ConfigError, match="only a Durable Object"):
        Platform(SimpleNamespace()).asman_job_store("durable://", Config())
    with pytest.raises(ConfigError, match="no binding DIRECTORY"):
        Platform(SimpleNamespace(), object(), "q").asman_job_store("durable://DIRECTORY", Config())
    assert Platform(SimpleNamespace()).asman_job_store("memory:", Config()) is None


def test_a_new_row_tells_its_number() -> None:
    """There is no lastrowid: the statement of ``Transaction.insert`` has to be one that RETURNING id fits behind."""
    asked: list[str] = []

    class Sql:
        def exec(self, statement: str, *values: object) -> SimpleNamespace:
            asked.append(statement)
            rows = SimpleNamespace(toArray=lambda: SimpleNamespace(to_py=lambda: [[7]]))
            return SimpleNamespace(raw=lambda: rows)

    assert SqlTransaction(Sql(), SimpleNamespace(jsnull=object())).insert("insert", "q", 1.0) == 7
    assert asked == [f"{STATEMENTS['insert']} RETURNING id"]
