from __future__ import annotations

import asyncio
from itertools import pairwise

from core import QUEUE, core, definition


async def test_an_unknown_queue_and_an_empty_one_look_the_same() -> None:
    async with core() as c:
        job = await c.submit()
        await c.call("DELETE", f"/q/{QUEUE}/j/{job.job_id}")
        empty = await c.call("GET", f"/q/{QUEUE}")
        unknown = await c.call("GET", "/q/a-queue-nobody-has-used")
        assert empty[:2] == unknown[:2] == (200, {"data": {}})


async def test_the_listing_has_records_and_leaves_out_what_is_unset() -> None:
    async with core() as c:
        job = await c.submit(definition(tags=["lab"], requirements={"cpus": 2}))
        for path in (f"/q/{QUEUE}", f"/q/{QUEUE}/j"):
            _, body, _ = await c.call("GET", path)
            record = body["data"][job.job_id]
            assert record["state"] == "Queued"
            assert record["worker"] == ""
            assert (record["tags"], record["requirements"]) == (["lab"], {"cpus": 2})
            assert "finishedReason" not in record
            assert isinstance(record["queuedTime"], int)


async def test_the_status_of_an_empty_queue() -> None:
    async with core() as c:
        _, body, _ = await c.call("GET", "/q/empty/status")
        assert (body["jobs"], body["localWorkers"], body["clientCount"]) == ({}, {}, 0)
        assert body["queueInfo"]["jobCount"] == 0


async def test_the_status_asks_workers_and_shows_no_definition() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            asked = asyncio.create_task(c.call("GET", f"/{QUEUE}/status"))
            await worker.hear_until("StatusRequest")
            held = {job.job_id: {"jobId": job.job_id, "finished": False, "definition": {"env": {"S": "secret"}}}}
            await worker.say("WorkerStatusResponse", {"id": "w1", "cpus": 1, "gpus": 0, "time": 5, "queue": held})
            async with asyncio.timeout(1.5):
                _, body, _ = await asked
        assert body["localWorkers"]["w1"]["queue"] == {job.job_id: {"jobId": job.job_id, "finished": False}}
        assert "secret" not in str(body)
        assert body["queueInfo"]["localWorkerCount"] == 1


async def test_a_server_has_the_name_it_was_given() -> None:
    async with core(server_id="api-7") as c:
        _, body, _ = await c.call("GET", "/q/empty/status")
        assert body["queueInfo"]["serverId"] == "api-7"


# --- the last hour ---------------------------------------------------------------------------------------------------


async def test_the_last_hour_tells_what_happened_in_each_minute() -> None:
    async with core() as c:
        jobs = [await c.submit(definition(f"a{number}")) for number in range(4)]
        c.clock.tick(120)
        await c.run(jobs[0])
        await c.run(jobs[1], code=3)
        c.clock.tick(60)
        await c.call("POST", f"/q/{QUEUE}/j/{jobs[2].job_id}/cancel")
        status, body, headers = await c.call("GET", f"/q/{QUEUE}/history")
        assert (status, headers["Cache-Control"]) == (200, "no-store")
        assert (body["queue"], body["servers"], body["queued"]) == (QUEUE, 1, 1)
        assert body["hour"]["submitted"] == 4
        assert body["hour"]["started"] == 2
        assert body["hour"]["finished"] == {"succeeded": 1, "failed": 1, "cancelled": 1}
        assert body["hour"]["wait"]["count"] == 2
        assert 114 <= body["hour"]["wait"]["median"] <= 126
        minutes = body["minutes"]
        assert [minute["queued"] for minute in minutes] == [4, 4, 2, 1]
        assert [minute["submitted"] for minute in minutes] == [4, 0, 0, 0]
        assert [sum(minute["finished"].values()) for minute in minutes] == [0, 0, 2, 1]
        assert minutes[1]["wait"] == {"count": 0, "median": None, "p90": None}
        assert [b["start"] - a["start"] for a, b in pairwise(minutes)] == [60_000] * 3
        assert minutes[0]["start"] <= body["since"] < minutes[1]["start"]
        assert body["time"] - minutes[-1]["start"] < 60_000


async def test_the_last_hour_of_an_unknown_queue_is_that_of_an_empty_one_and_creates_nothing() -> None:
    async with core() as c:
        c.clock.tick(2 * 3_600)
        _, body, _ = await c.call("GET", "/q/nobody/history")
        assert len(body["minutes"]) == 60
        assert body["since"] == body["minutes"][0]["start"]
        assert body["hour"]["submitted"] == body["queued"] == 0
        assert c.hub.channels == ()


async def test_a_queue_without_a_name_has_no_history() -> None:
    async with core() as c:
        status, body, _ = await c.call("GET", "/q/a%20b/history")
        assert (status, body["code"]) == (400, "bad_name")
