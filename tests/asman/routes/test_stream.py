from __future__ import annotations

import asyncio
import json
from typing import Any

from asman import operations as ops
from asman.routes.stream import follow
from core import QUEUE, Core, core, finished


def _events(raw: bytes) -> list[tuple[str, str, Any]]:
    """(event, id, data) of a finished stream."""
    found = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


async def _finished_job(c: Core) -> str:
    job = await ops.announce(c.services, QUEUE, (await c.submit()).job_id, "w1")
    assert job is not None
    await ops.keep_lines(c.services, job, "docker image pull", [["p\n", 1]])
    await ops.keep_lines(c.services, job, "Running", [["a\n", 2], ["b\n", 3, True]])
    await ops.report(c.services, QUEUE, job.job_id, "w1", 1, finished("w1"))
    return job.job_id


async def test_a_finished_job_is_told_whole_and_ends() -> None:
    async with core() as c:
        job_id = await _finished_job(c)
        status, raw, headers = await c.call("GET", f"/q/{QUEUE}/j/{job_id}/stream")
        assert (status, headers["Content-Type"]) == (200, "text/event-stream")
        kinds = [(kind, data) for kind, _, data in _events(raw)]
        assert [kind for kind, _ in kinds] == ["state", "build-log", "run-log", "final"]
        assert kinds[2][1] == {"lines": [["a\n", 2], ["b\n", 3, True]], "cursor": 2}
        assert (kinds[3][1]["state"], kinds[3][1]["reason"]) == ("Finished", "Success")


async def test_a_reader_goes_on_where_it_was() -> None:
    async with core() as c:
        job_id = await _finished_job(c)
        path = f"/q/{QUEUE}/j/{job_id}/stream"
        _, raw, _ = await c.call("GET", path, headers={"Last-Event-ID": "1-1-1"})
        logs = [(kind, data["lines"]) for kind, _, data in _events(raw) if kind.endswith("log")]
        assert logs == [("run-log", [["b\n", 3, True]])]
        _, raw, _ = await c.call("GET", f"{path}?build_since=1&run_since=2")
        assert [kind for kind, _, _ in _events(raw)] == ["state", "final"]


async def test_a_reader_of_an_older_attempt_gets_the_new_one_from_its_start() -> None:
    async with core() as c:
        job_id = await _finished_job(c)
        _, raw, _ = await c.call("GET", f"/q/{QUEUE}/j/{job_id}/stream", headers={"Last-Event-ID": "7-50-60"})
        assert ("run-log", "1-1-2") in [(kind, event_id) for kind, event_id, _ in _events(raw)]


async def test_states_and_lines_come_as_they_happen() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.app.test_client().request(f"/q/{QUEUE}/j/{job.job_id}/stream") as stream:
            heard = b""

            async def until(text: bytes) -> None:
                nonlocal heard
                async with asyncio.timeout(5):
                    while text not in heard:
                        heard += await stream.receive()

            await until(b'"state":"Queued"')
            running = await ops.announce(c.services, QUEUE, job.job_id, "w1")
            assert running is not None
            await until(b'"state":"Running"')
            await ops.keep_lines(c.services, running, "Running", [["live\n", 1]])
            await until(b"live")
            await ops.cancel(c.services, QUEUE, job.job_id, "*")
            await until(b"event: final")
            assert b'"reason":"Cancelled"' in heard


async def test_an_unknown_job_ends_the_stream_after_a_short_grace() -> None:
    async with core() as c:
        async with asyncio.timeout(9):
            _, raw, _ = await c.call("GET", f"/q/{QUEUE}/j/{'0' * 64}/stream")
        kind, _, data = _events(raw)[-1]
        assert (kind, data) == ("final", {"state": "Unknown", "reason": "job not found"})
        assert c.hub.channels == ()


async def test_a_reader_that_leaves_is_forgotten() -> None:
    async with core() as c:
        job = await c.submit()
        events = follow(c.services, c.hub, QUEUE, job.job_id)
        await anext(events)
        assert c.hub.present(QUEUE) is not None
        await events.aclose()
        assert c.hub.present(QUEUE) is None
