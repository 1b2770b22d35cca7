from __future__ import annotations

import asyncio
import json

import pytest

from asman import operations as ops
from asman.job import State
from asman.routes.sockets import parse_socket_path
from core import QUEUE, Core, Socket, core, definition, finished


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("q/name/client", ("name", "client")),
        ("q/name/browser", ("name", "client")),
        ("name/client", ("name", "client")),
        ("name/browser", ("name", "client")),
        ("q/name/worker", ("name", "worker")),
        ("name/worker", ("name", "worker")),
        ("q//name//client", ("name", "client")),
        ("q/name/client/extra", ("name", "client")),
        ("q/sp%20ace/client", ("sp ace", "client")),
        ("q/undefined/client", None),
        ("null/client", None),
        ("undefined/worker", ("undefined", "worker")),
        ("q/name", None),
        ("name", None),
        ("q/name/admin", None),
    ],
)
def test_paths_and_their_aliases(path: str, found: tuple[str, str] | None) -> None:
    assert parse_socket_path(path) == found


def _submit(job_id: str, raw: dict[str, object], namespace: str = "_") -> dict[str, object]:
    enqueued = {"id": job_id, "definition": raw, "control": {"namespace": namespace}}
    return {"state": "Queued", "job": job_id, "tag": "", "value": {"type": "Queued", "time": 5, "enqueued": enqueued}}


def _end(job_id: str, reason: str, namespace: str | None = None) -> dict[str, object]:
    value: dict[str, object] = {"type": "Finished", "reason": reason, "time": 5}
    if namespace is not None:
        value["namespace"] = namespace
    return {"state": "Finished", "job": job_id, "tag": "", "value": value}


async def _assigned(c: Core, worker: Socket, name: str = "w1") -> tuple[str, int]:
    """Register, take the one waiting job: (job id, attempt)."""
    await worker.register(name)
    await worker.ready()
    _, given = await worker.hear_until("Assign")
    return given["jobId"], given["attempt"]


async def test_a_client_is_shown_workers_and_then_the_whole_queue() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/client") as client:
            assert await client.hear() == ("Workers", {"workers": []})
            kind, payload = await client.hear()
            assert (kind, payload["isSubset"], set(payload["state"]["jobs"])) == ("JobStates", False, {job.job_id})


async def test_a_client_sees_a_job_it_submits_go_through_its_life() -> None:
    async with core() as c:
        job_id = (await c.submit(queue="elsewhere")).job_id
        async with c.socket(f"/{QUEUE}/client") as client, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await client.say("StateChange", _submit(job_id, definition(), "doc"))
            assert (await client.hear_state(job_id, "Queued"))["namespaces"] == ["doc"]
            given, attempt = await _assigned(c, worker)
            assert (given, attempt) == (job_id, 1)
            assert (await client.hear_state(job_id, "Running"))["worker"] == "w1"
            change = {"job": job_id, "state": "Finished", "attempt": 1, "value": finished("w1", code=3)}
            await worker.say("StateChange", change)
            assert (await worker.hear_until("Ack"))[1]["accepted"] is True
            record = await client.hear_state(job_id, "Finished")
            assert (record["finishedReason"], record["outcome"], record["exitCode"]) == ("Success", "failed", 3)
            assert "finished" not in record
            assert await ops.find_result(c.services, job_id, QUEUE) is not None


async def test_a_cancel_over_the_socket_is_seen_at_once_and_revokes() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/client") as client, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
            await client.say("StateChange", _end(job.job_id, "Cancelled"))
            assert (await client.hear_state(job.job_id, "Finished"))["finishedReason"] == "Cancelled"
            _, revoked = await worker.hear_until("Revoke")
            assert (revoked["jobId"], revoked["attempt"], revoked["reason"]) == (job.job_id, 1, "Cancelled")


async def test_a_delete_clears_caches_and_a_submit_runs_anew() -> None:
    async with core() as c:
        job = await c.run(await c.submit())
        async with c.socket(f"/q/{QUEUE}/client") as client, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            await client.say("StateChange", _end(job.job_id, "Deleted", "_"))
            assert (await worker.hear_until("ClearJobCache"))[1] == {"jobId": job.job_id, "namespace": "_"}
            await client.say("StateChange", _submit(job.job_id, definition()))
            assert (await client.hear_state(job.job_id, "Queued"))["generation"] == 2


async def test_queries_are_answered_to_the_asker_only() -> None:
    async with core() as c:
        job = await c.submit()
        path = f"/q/{QUEUE}/client"
        async with c.socket(path) as asker, c.socket(path) as other:
            await other.hear_until("JobStates")
            await asker.hear_until("JobStates")
            await asker.say("QueryJobStates")
            await asker.hear_until("JobStates")
            await asker.say("QueryJob", {"jobId": job.job_id})
            assert job.job_id in (await asker.hear_until("JobStateUpdates"))[1]["state"]["jobs"]
            await asker.say("QueryJob", {"jobId": "0" * 64})
            assert (await asker.hear_until("JobStateUpdates"))[1]["state"]["jobs"] == {}
            await other.say_text("PING")
            assert await other.hear_text() == "PONG"


async def test_a_job_that_left_the_list_is_still_answered() -> None:
    async with core() as c:
        job = await c.run(await c.submit())
        c.clock.tick(61)
        await c.sweep()
        async with c.socket(f"/q/{QUEUE}/client") as client:
            await client.say("QueryJob", {"jobId": job.job_id})
            assert (await client.hear_state(job.job_id, "Finished"))["finishedReason"] == "Success"


@pytest.mark.parametrize("text", ["", "undefined", "hello", "[1]"])
async def test_frames_that_are_no_messages_are_passed_over_in_silence(text: str) -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/client") as client:
        await client.hear_until("JobStates")
        await client.say_text(text)
        await client.say_text("PING")
        assert await client.hear_text() == "PONG"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00binary",
        "{not json",
        '{"payload": {}}',
        '{"type": 5}',
        '{"type": "Nonsense", "payload": {}}',
        '{"type": "WorkerRegistration", "payload": {"id": "w"}}',
        '{"type": "StateChange", "payload": {"state": "Running", "job": "x", "value": {}}}',
        '{"type": "StateChange", "payload": {"state": "Finished", "job": "x", "value": {"reason": "Success"}}}',
        '{"type": "StateChange", "payload": {"state": "Queued", "job": "x", "value": {"enqueued": {}}}}',
        "{" + "x" * (17 << 20),
    ],
)
async def test_bad_messages_are_answered_with_an_error_and_the_socket_stays(frame: str | bytes) -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/client") as client:
        await client.hear_until("JobStates")
        await client.say_text(frame)
        kind, payload = await client.hear()
        assert kind == "Error"
        assert payload["code"] in ("bad_json", "bad_message", "limit_exceeded", "job_not_found")
        await client.say_text("PING")
        assert await client.hear_text() == "PONG"
        assert await c.services.jobs.counts(None) == {}


async def test_errors_are_not_sent_without_measure() -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/client") as client:
        await client.hear_until("JobStates")
        for _ in range(50):
            await client.say("Nonsense", {})
        await client.say_text("PING")
        heard = []
        while (text := await client.hear_text()) != "PONG":
            heard.append(json.loads(text)["type"])
        assert heard == ["Error"] * 5


async def test_log_lines_are_relayed_kept_and_never_twice() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/client") as client, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
            lines = [["a\n", 1], ["b\n", 2], ["c\n", 3]]
            base = {"jobId": job.job_id, "step": "Running", "attempt": 1}
            await worker.say("JobStatusLogs", {**base, "logs": lines[:2], "seq": 0})
            assert (await client.hear_until("JobStatusPayload"))[1]["logs"] == lines[:2]
            await worker.say("JobStatusLogs", {**base, "logs": lines, "seq": 0})
            assert (await client.hear_until("JobStatusPayload"))[1]["logs"] == lines[2:]
            await worker.say("JobStatusLogs", {**base, "logs": [["stale\n", 9]], "seq": 9, "attempt": 7})
            await worker.say_text("PING")
            assert await worker.hear_text() == "PONG w1"
            page = await ops.read_lines(c.services, job.job_id, "run", 0)
            assert page.lines == lines


async def test_a_report_of_a_stale_attempt_is_refused_with_its_reason() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
            change = {"job": job.job_id, "state": "Finished", "attempt": 9, "value": finished("w1")}
            await worker.say("StateChange", change)
            _, ack = await worker.hear_until("Ack")
            assert (ack["accepted"], ack["code"], ack["attempt"]) == (False, "lease_lost", 9)


async def test_a_worker_that_comes_back_keeps_what_it_holds_and_hears_what_it_lost() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            told = await worker.register("w1", holding={job.job_id: 1, "0" * 64: 3})
            assert (told["adopted"], told["lost"]) == ({job.job_id: 1}, ["0" * 64])
        c.clock.tick(c.services.config.reconnect_grace_s + 1)
        await c.sweep()
        assert (await c.load(job)).state is State.QUEUED  # type: ignore[union-attr]


async def test_a_worker_without_memory_of_its_job_gives_it_up() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            waiting = await c.load(job)
            assert waiting is not None
            assert (waiting.state, waiting.lost) == (State.QUEUED, 1)


async def test_goodbye_hands_back_and_is_answered() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
            await worker.say("Goodbye", {"jobs": {job.job_id: 1}})
            assert (await worker.hear_until("Released"))[1] == {"jobs": [job.job_id]}
            assert (await c.load(job)).state is State.QUEUED  # type: ignore[union-attr]


async def test_renewing_tells_what_is_lost() -> None:
    async with core() as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await _assigned(c, worker)
            c.clock.tick(20)
            await worker.say("Renew", {"jobs": {job.job_id: 1, "0" * 64: 1}})
            assert (await worker.hear_until("Renewed"))[1] == {"lost": ["0" * 64]}
            assert (await c.load(job)).lease_until == c.clock() + 30  # type: ignore[union-attr]


async def test_a_waiting_worker_gets_a_new_job_at_once() -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
        await worker.register("w1", cpus=2)
        await worker.ready(jobs=2, cpus=2)
        await worker.say_text("PING")
        await worker.hear_text()
        async with asyncio.timeout(3):
            for number in range(2):
                job = await c.submit(definition(str(number)))
                assert (await worker.hear_until("Assign"))[1]["jobId"] == job.job_id


async def test_a_worker_is_never_given_more_than_it_has() -> None:
    async with core() as c:
        for number in range(4):
            await c.submit(definition(str(number)))
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1", cpus=2)
            for _ in range(3):  # said again before what was given could arrive
                await worker.ready(jobs=2, cpus=2)
            await worker.hear_until("Assign")
            await worker.hear_until("Assign")
            await worker.say_text("PING")
            assert await worker.hear_text() == "PONG w1"
            assert (await ops.outstanding(c.services, QUEUE)) == (2, 2)


async def test_a_newer_connection_of_a_worker_takes_the_place_of_the_older() -> None:
    async with core() as c:
        path = f"/q/{QUEUE}/worker?protocol=2"
        async with c.socket(path) as older, c.socket(path) as newer:
            await older.register("w1")
            await newer.register("w1")
            await newer.say_text("PING")
            assert await newer.hear_text() == "PONG w1"
            channel = c.hub.present(QUEUE)
            assert channel is not None
            assert list(channel.workers) == ["w1"]


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"id": ""},
        {"id": "x" * 129},
        {"id": "w", "protocol": 9},
        {"id": "w", "cpus": -1},
        {"id": "w", "holding": [1]},
    ],
)
async def test_registrations_that_make_no_sense_are_refused(payload: dict[str, object]) -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/worker") as worker:
        await worker.hear_until("JobStates")
        await worker.say("WorkerRegistration", payload or {"nothing": 1})
        assert (await worker.hear())[0] == "Error"
        await worker.say_text("PING")
        assert await worker.hear_text() == "PONG unknown"


async def test_the_bytes_of_an_event_do_not_grow_with_the_queue() -> None:
    async with core() as c:
        sizes = []
        for depth in (0, 300):
            for number in range(depth):
                await c.submit(definition(f"{depth}-{number}"))
            async with c.socket(f"/q/{QUEUE}/client") as client:
                await client.hear_until("JobStates")
                await c.submit(definition(f"one more at {depth}"))
                sizes.append(len(await client.hear_text()))
        assert abs(sizes[0] - sizes[1]) < 4


async def test_a_reader_that_never_reads_slows_nobody_and_is_bounded() -> None:
    async with core() as c:
        path = f"/q/{QUEUE}/client"
        async with c.socket(path), c.socket(path) as reader:
            await reader.hear_until("JobStates")
            for number in range(300):
                job = await c.submit(definition(str(number)))
                await reader.hear_state(job.job_id, "Queued")
            channel = c.hub.present(QUEUE)
            assert channel is not None
            assert all(outbox._bytes <= outbox._max_bytes for outbox in channel.clients)
