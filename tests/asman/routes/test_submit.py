from __future__ import annotations

import asyncio

import pytest

from asman.identity import known_id
from core import QUEUE, core, definition


async def test_the_answer_names_the_job_and_its_state() -> None:
    async with core() as c:
        status, body, _ = await c.call("POST", f"/q/{QUEUE}", {"definition": definition()})
        expected = {"success": True, "jobId": known_id(definition()), "cached": False, "state": "Queued"}
        assert (status, body) == (200, expected)
        assert (await c.call("POST", f"/q/{QUEUE}/j", {"definition": definition()}))[0] == 200


async def test_unknown_members_of_a_definition_are_kept_with_a_warning() -> None:
    async with core() as c:
        _, body, _ = await c.call("POST", f"/q/{QUEUE}", {"definition": definition(colour="blue")})
        assert "colour" in str(body["warnings"])
        _, found, _ = await c.call("GET", f"/j/{body['jobId']}/definition.json")
        assert found["data"]["colour"] == "blue"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"null", 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b'{"definition": {"image": "a"}, "x": 1}', 400, "bad_request"),
        (b'{"definition": []}', 422, "bad_definition"),
        (b'{"definition": {}}', 422, "bad_definition"),
        (b'{"definition": {"image": "a", "maxDuration": "soon"}}', 422, "bad_definition"),
        (b'{"definition": {"image": "a", "requirements": {"gpus": -1}}}', 422, "bad_definition"),
        (b'{"id": "' + b"0" * 64 + b'", "definition": {"image": "a"}}', 422, "id_mismatch"),
        (b'{"definition": {"image": NaN}}', 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b"[" * 5000, 413, "limit_exceeded"),
    ],
)
async def test_bad_bodies_have_their_answer_and_change_nothing(body: bytes, status: int, code: str) -> None:
    async with core() as c:
        got, answer, _ = await c.call("POST", f"/q/{QUEUE}", body)
        assert (got, answer["code"]) == (status, code)
        assert answer["hint"]
        assert await c.services.jobs.counts(None) == {}


@pytest.mark.parametrize("queue", ["a%20b", "%2e%2e", "x" * 129, "%00", "a%3Cb"])
async def test_names_that_no_queue_can_have_are_refused(queue: str) -> None:
    async with core() as c:
        status, body, _ = await c.call("POST", f"/q/{queue}", {"definition": definition()})
        assert (status, body["code"]) == (400, "bad_name")


async def test_a_caller_may_wait_for_the_result() -> None:
    async with core() as c:
        asked = asyncio.create_task(c.call("POST", f"/q/{QUEUE}", {"definition": definition()}, {"Prefer": "wait=30"}))
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            await worker.ready()
            _, given = await worker.hear_until("Assign")
            value = {"reason": "Success", "worker": "w1", "result": {"StatusCode": 4, "logs": [], "outputs": {}}}
            change = {"job": given["jobId"], "state": "Finished", "attempt": given["attempt"], "value": value}
            await worker.say("StateChange", change)
            async with asyncio.timeout(10):
                status, body, headers = await asked
        assert (status, body["state"], body["job"]["outcome"]) == (200, "Finished", "failed")
        assert body["data"]["finished"]["result"]["StatusCode"] == 4
        assert headers["Preference-Applied"] == "wait=30"


async def test_a_wait_that_ends_before_the_job_says_where_it_is() -> None:
    async with core() as c:
        _, body, _ = await c.call("POST", f"/q/{QUEUE}", {"definition": definition()}, {"Prefer": "wait=0"})
        assert (body["state"], "data" in body) == ("Queued", False)


async def test_a_dry_run_stores_nothing_and_says_who_would_take_it() -> None:
    async with core() as c:
        _, body, _ = await c.call("POST", f"/q/{QUEUE}?dry_run=1", {"definition": definition()})
        assert (body["dryRun"], body["cached"], body["wouldRun"], body["workers"]) == (True, False, False, 0)
        assert await c.services.jobs.counts(None) == {}
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1", cpus=2)
            _, body, _ = await c.call("POST", f"/q/{QUEUE}?dry_run=1", {"definition": definition()})
            assert (body["wouldRun"], body["fitting"]) == (True, ["w1"])
            big = definition(requirements={"cpus": 9})
            assert not (await c.call("POST", f"/q/{QUEUE}?dry_run=1", {"definition": big}))[1]["wouldRun"]
