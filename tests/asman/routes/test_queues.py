from __future__ import annotations

import asyncio

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
