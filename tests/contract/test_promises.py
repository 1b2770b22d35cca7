"""The promises of the running system, one by one, from outside: what an answer means and what can never be seen."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asman.errors import StorageFull
from asman.identity import known_id
from asman.job import State
from asman.maintenance import Sweeper, sweep
from in_process import ECHO, Held, InProcess, finished_value, hello, in_process, skipping_time, turns

Q = "promises"
DAY = 86_400.0


# --- what an answer to a submit means (P1, P2) -----------------------------------------------------------------------


async def test_when_a_submit_is_answered_record_and_definition_are_stored(served: InProcess) -> None:
    job_id = await served.submit(Q)
    contents = served.contents()
    assert contents["jobs"][Q, job_id].state is State.QUEUED
    assert json.loads(contents["documents"][Q, job_id]["definition"]) == ECHO


async def test_repeating_a_submit_is_always_safe(served: InProcess) -> None:
    ids = await asyncio.gather(*(served.submit(Q) for _ in range(20)))
    assert len(set(ids)) == 1
    job = await served.job(Q, ids[0])
    assert (job.generation, job.state) == (1, State.QUEUED)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await served.submit(Q)
        assert (await served.job(Q, ids[0])).attempt == 1
        assert (await worker.finish(given))["accepted"]
        await served.submit(Q)
    assert served.witness.states(ids[0]) == ["Queued", "Running", "Finished"]


async def test_a_row_never_points_to_bytes_that_are_not_there(served: InProcess) -> None:
    """A large definition goes into a blob first; when that fails, nothing of the job is stored."""
    blobs: Any = served.services.blobs
    put, blobs.put = blobs.put, _out_of_order
    answer = await served.client.post(f"/q/{Q}", json={"definition": hello("x", env={"A": "x" * 50_000})})
    blobs.put = put
    assert (answer.status_code, (await answer.get_json())["code"]) == (507, "storage_full")
    assert served.contents()["jobs"] == {}


async def _out_of_order(*args: object, **options: object) -> None:
    raise StorageFull("the disk is full")


async def test_a_submit_that_a_stored_result_answers_says_so_and_runs_nothing(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id, code=4)
    for _ in range(2):
        answer = await (await served.client.post(f"/q/{Q}", json={"definition": ECHO})).get_json()
        assert (answer["cached"], answer["state"]) == (True, "Finished")
        served.clock.advance(100)
        await sweep(served.services)
    assert (await served.job(Q, job_id)).attempt == 1


@pytest.mark.parametrize("reason", ["Error", "TimedOut"])
async def test_a_failure_is_a_result_too_until_it_is_deleted(served: InProcess, reason: str) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        value = finished_value(worker.name, None, reason, error="no such image")
        assert (await worker.report(await worker.hear("Assign"), value))["accepted"]
    answer = await (await served.client.post(f"/q/{Q}", json={"definition": ECHO})).get_json()
    assert answer["cached"] is True
    await served.client.delete(f"/q/{Q}/j/{job_id}")
    answer = await (await served.client.post(f"/q/{Q}", json={"definition": ECHO})).get_json()
    assert (answer["cached"], answer["state"]) == (False, "Queued")


async def test_a_result_answers_in_its_own_queue_only(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    answer = await (await served.client.post("/q/other", json={"definition": ECHO})).get_json()
    assert (answer["cached"], answer["state"]) == (False, "Queued")
    assert (await served.get(f"/q/other/j/{job_id}/result.json"))["data"] is None


async def test_nobody_can_plant_a_result_under_another_jobs_id(served: InProcess) -> None:
    victim = await served.submit(Q, hello("victim"))
    await served.client.delete(f"/q/{Q}/j/{victim}")
    answer = await served.client.post(f"/q/{Q}", json={"id": victim, "definition": hello("attacker")})
    assert (answer.status_code, (await answer.get_json())["code"]) == (422, "id_mismatch")
    assert (await served.job(Q, victim)).reason == "Deleted"


# --- waiting, asking first -------------------------------------------------------------------------------------------


async def test_a_caller_that_prefers_to_wait_gets_the_result_as_soon_as_it_is_there(served: InProcess) -> None:
    async with served.worker(Q) as worker:
        headers = {"Prefer": "wait=100"}
        waiting = asyncio.create_task(served.client.post(f"/q/{Q}", json={"definition": ECHO}, headers=headers))
        given = await worker.hear("Assign")
        assert not waiting.done()
        await worker.finish(given, code=5)
        answer = await asyncio.wait_for(waiting, 5)
    assert answer.headers["Preference-Applied"] == "wait=100"
    body = await answer.get_json()
    assert (body["state"], body["job"]["exitCode"]) == ("Finished", 5)
    assert body["data"]["finished"]["result"]["StatusCode"] == 5
    assert served.hub.channels == ()


@pytest.mark.parametrize(("prefer", "waited_s"), [("wait=7", 7), ("wait=0", 0), ("respond-async, wait=9999", 300)])
async def test_a_wait_is_bounded_and_then_says_where_the_job_is(
    served: InProcess, prefer: str, waited_s: float
) -> None:
    with skipping_time() as skipped:
        answer = await served.client.post(f"/q/{Q}", json={"definition": ECHO}, headers={"Prefer": prefer})
        assert skipped() == pytest.approx(waited_s, abs=1.0)
    body = await answer.get_json()
    assert (body["success"], body["state"], body["job"]["state"]) == (True, "Queued", "Queued")
    assert "data" not in body


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_caller_that_waits_is_told_when_the_job_is_given_up(served: InProcess, how: str) -> None:
    headers = {"Prefer": "wait=100"}
    waiting = asyncio.create_task(served.client.post(f"/q/{Q}", json={"definition": ECHO}, headers=headers))
    job_id = known_id(ECHO)
    async with served.connect(f"/q/{Q}/client") as client:
        await client.hear_job(job_id, "Queued")
    if how == "cancel":
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
    else:
        await served.client.delete(f"/q/{Q}/j/{job_id}")
    body = await (await asyncio.wait_for(waiting, 5)).get_json()
    assert (body["state"], body["data"]) == ("Finished", None)


async def test_a_wait_for_a_stored_result_does_not_wait(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    with skipping_time() as skipped:
        answer = await served.client.post(f"/q/{Q}", json={"definition": ECHO}, headers={"Prefer": "wait=60"})
        assert skipped() < 1
    assert (await answer.get_json())["data"]["state"] == "Finished"


async def test_a_dry_run_tells_id_cache_and_takers_and_stores_nothing(served: InProcess) -> None:
    body = {"definition": hello("x", requirements={"cpus": 2}), "control": {"namespace": "n"}}

    async def ask(**more: Any) -> dict[str, Any]:
        answer = await served.client.post(f"/q/{Q}?dry_run=1", json={**body, **more})
        told: dict[str, Any] = await answer.get_json()
        return told

    before = served.contents()
    told = await ask()
    assert (told["dryRun"], told["cached"], told["state"], told["workers"]) == (True, False, None, 0)
    assert told["wouldRun"] is False
    async with served.worker(Q, "small", cpus=1), served.worker(Q, "large", cpus=2):
        told = await ask()
        assert (told["workers"], told["wouldRun"], told["fitting"]) == (2, True, ["large"])
    assert served.contents() == before
    job_id = await served.submit(Q, body["definition"])
    assert told["jobId"] == job_id
    assert (await ask())["state"] == "Queued"
    await served.finish(Q, job_id)
    assert (await ask())["cached"] is True
    answer = await served.client.post(f"/q/{Q}?dry_run=1", json={"definition": {"image": ""}})
    assert answer.status_code == 422


# --- one accepted result (P3, P4, P5) --------------------------------------------------------------------------------


async def test_of_many_reports_for_one_job_exactly_one_is_accepted(served: InProcess) -> None:
    """Three attempts, each of which reports twice, in every order that the fencing has to sort out."""
    job_id = await served.submit(Q)
    async with (
        served.worker(Q, "w1") as one,
        served.worker(Q, "w2", jobs=0) as two,
        served.worker(Q, "w3", jobs=0) as three,
    ):
        first = await one.hear("Assign")
        served.clock.advance(31)
        await sweep(served.services)
        await two.ready(1)
        second = await two.hear("Assign")
        assert not (await one.finish(first, code=1))["accepted"]
        served.clock.advance(31)
        await sweep(served.services)
        await three.ready(1)
        third = await three.hear("Assign")
        assert [first["attempt"], second["attempt"], third["attempt"]] == [1, 2, 3]
        said = [
            (await worker.finish({**given, "attempt": attempt}, code=code))["accepted"]
            for worker, given, attempt, code in (
                (two, second, 2, 2),
                (one, first, 1, 1),
                (one, first, 3, 1),
                (three, third, 2, 3),
                (three, third, 4, 3),
                (three, third, 3, 3),
                (three, third, 3, 3),
                (two, second, 2, 2),
                (two, second, 3, 2),
            )
        ]
    assert said == [False, False, False, False, False, True, True, False, False]
    results = (await served.get(f"/j/{job_id}"))["data"]["results"]
    assert (results["exitCode"], results["attempt"], results["worker"]) == (3, 3, "w3")


async def test_a_report_of_an_earlier_life_of_the_job_is_refused(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        for end in ("cancel", "delete"):
            if end == "cancel":
                await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
            else:
                await served.client.delete(f"/q/{Q}/j/{job_id}")
            await served.submit(Q)
            assert not (await worker.finish(given, code=9))["accepted"]
    job = await served.job(Q, job_id)
    assert (job.state, job.generation, job.attempt) == (State.QUEUED, 3, 1)


async def test_two_claims_and_a_cancel_at_the_same_moment_leave_one_truth(served: InProcess) -> None:
    for n in range(30):
        definition = hello(n)
        job_id = await served.submit(Q, definition)
        async with served.old_worker(Q, "aa") as one, served.old_worker(Q, "bb") as two, served.watch(Q) as client:
            await asyncio.gather(one.claim(job_id), two.claim(job_id), client.give_up(job_id), one.finish(job_id))
            await asyncio.gather(one.settle(), two.settle(), client.settle())
        assert (await served.job(Q, job_id)).state is State.FINISHED


@pytest.mark.parametrize("kind", ["memory", pytest.param("sqlite", marks=pytest.mark.slow)])
async def test_ten_workers_and_a_thousand_jobs_each_assigned_once(kind: str, tmp_path: Any) -> None:
    """Nothing is lost on the way, so each job is assigned exactly once, accepted exactly once, and all finish."""
    flags = {"backend": kind, "data": str(tmp_path)}
    async with in_process(discover=kind == "sqlite", **flags) as served:
        assigned: Counter[tuple[str, int]] = Counter()
        accepted: Counter[str] = Counter()
        share: Counter[str] = Counter()
        total = 1_000

        async def work(name: str) -> None:
            async with served.worker(Q, name, jobs=2, cpus=2) as worker:
                while True:
                    given = await worker.hear("Assign", within_s=60)
                    assigned[given["jobId"], given["attempt"]] += 1
                    share[name] += 1
                    accepted[given["jobId"]] += (await worker.finish(given))["accepted"]
                    if sum(accepted.values()) == total:
                        done.set()
                    await worker.ready(2)

        done = asyncio.Event()
        workers = [asyncio.create_task(work(f"w{n}")) for n in range(10)]
        for start in range(0, total, 50):
            await asyncio.gather(*(served.submit(Q, hello(n)) for n in range(start, start + 50)))
        async with asyncio.timeout(60):
            await asyncio.wait({asyncio.create_task(done.wait()), *workers}, return_when=asyncio.FIRST_COMPLETED)
        assert done.is_set()
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert set(assigned.values()) == {1}
        assert set(accepted.values()) == {1}
        assert {attempt for _, attempt in assigned} == {1}
        assert len(accepted) == total
        assert min(share.values()) > 0, "every worker had a share"


# --- first in, first out (P11) ---------------------------------------------------------------------------------------


async def test_jobs_that_ask_for_the_same_are_given_in_the_order_they_were_queued(served: InProcess) -> None:
    ids = []
    for n in range(30):
        ids.append(await served.submit(Q, hello(n), control={"namespace": f"n{n % 3}-{n}"}))
        served.clock.advance(0.001)
    await served.submit(Q, hello(0))
    async with served.worker(Q, jobs=30, cpus=30) as worker:
        assert [(await worker.hear("Assign"))["jobId"] for _ in ids] == ids


async def test_a_job_that_was_lost_does_not_go_to_the_end_of_the_line(served: InProcess) -> None:
    ids = []
    for n in range(3):
        ids.append(await served.submit(Q, hello(n)))
        served.clock.advance(1)
    async with served.worker(Q, "w1") as lost:
        assert (await lost.hear("Assign"))["jobId"] == ids[0]
    served.clock.advance(16)
    await sweep(served.services)
    async with served.worker(Q, "w2", jobs=3, cpus=3) as worker:
        assert [(await worker.hear("Assign"))["jobId"] for _ in ids] == ids


# --- loss of a worker and of the server (P6, P10) --------------------------------------------------------------------


async def test_a_closed_connection_requeues_after_the_grace_and_not_before(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        await worker.hear("Assign")
    async with asyncio.timeout(5):
        while ((await served.job(Q, job_id)).lease_until or 0.0) > served.clock() + 16:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    sweeper = Sweeper(services=served.services, asks=False)
    waited = 0
    while (await served.job(Q, job_id)).state is State.RUNNING:
        served.clock.advance(1)
        waited += 1
        await sweeper.sweep()
    assert 15 <= waited <= 20


async def test_a_silent_connection_requeues_within_forty_seconds(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        await worker.hear("Assign")
        sweeper = Sweeper(services=served.services)
        waited = 0
        while (await served.job(Q, job_id)).state is State.RUNNING:
            served.clock.advance(1)
            waited += 1
            await sweeper.sweep()
    assert 30 <= waited <= 40


async def test_a_job_that_kills_its_workers_ends_and_says_why(served: InProcess) -> None:
    job_id = await served.submit(Q)
    for n in range(3):
        async with served.worker(Q, f"w{n}") as worker:
            await worker.hear("Assign")
        served.clock.advance(16)
        await sweep(served.services)
    record = (await served.listing(Q))[job_id]
    assert (record["finishedReason"], record["outcome"]) == ("WorkerLost", "worker_lost")
    assert [(a["attempt"], a["worker"], a["how"]) for a in record["attempts"]] == [
        (1, "w0", "lost"),
        (2, "w1", "lost"),
        (3, "w2", "lost"),
    ]
    assert "3 attempts" in record["message"]
    await served.submit(Q)
    assert (await served.job(Q, job_id)).state is State.QUEUED, "and it can be tried again on purpose"


async def test_no_clock_of_a_client_or_worker_decides_anything(served: InProcess) -> None:
    """Times a year ahead and a year behind, in every message that carries one."""
    for time in (1, 4_000_000_000_000):
        definition = hello(time)
        async with served.watch(Q) as client, served.old_worker(Q) as worker:
            job_id = await client.submit(definition)
            await client.give_up(job_id, time=time)
            await client.settle()
            assert (await served.job(Q, job_id)).state is State.FINISHED
            await client.submit(definition)
            await client.settle()
            value = {"type": "Running", "worker": "w1", "time": time}
            await worker.say("StateChange", {"job": job_id, "tag": "w1", "state": "Running", "value": value})
            value = {**finished_value("w1"), "time": time}
            await worker.say("StateChange", {"job": job_id, "tag": "w1", "state": "Finished", "value": value})
            await worker.settle()
        job = await served.job(Q, job_id)
        assert (job.state, job.finished_at) == (State.FINISHED, served.clock())
        served.clock.advance(61)
        await sweep(served.services)
        assert await served.listing(Q) == {}


# --- expiry (P8) -----------------------------------------------------------------------------------------------------


async def test_a_job_is_readable_until_its_last_second_then_expired_then_unknown_and_its_bytes_are_gone(
    served: InProcess,
) -> None:
    data = b"an output that is a blob"
    key = hashlib.sha256(data).hexdigest()
    await served.client.put(f"/f/{key}", data=data)
    job_id = await served.submit(Q, hello("large", env={"A": "x" * 50_000}))
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "a line", seq=0)
        outputs = {"o": {"type": "url", "value": f"http://localhost/f/{key}"}, "big": {"value": "y" * 50_000}}
        assert (await worker.finish(given, outputs=outputs))["accepted"]
    assert len(served.contents()["blobs"]) == 3
    served.clock.advance(30 * DAY - 1)
    await sweep(served.services)
    for path in (f"/j/{job_id}", f"/q/{Q}/j/{job_id}/result.json", f"/j/{job_id}/run-logs.json"):
        await served.get(path)
    assert (await served.client.get(f"/f/{key}")).status_code == 200
    assert (await served.client.get(f"/j/{job_id}/outputs/o")).status_code == 302
    served.clock.advance(1)
    paths = [f"/j/{job_id}", f"/q/{Q}/j/{job_id}", f"/j/{job_id}/result.json", f"/j/{job_id}/outputs/o", f"/f/{key}"]
    for path in paths:
        assert (await served.get(path, 410))["code"] == "expired", "even before anything was swept"
    served.clock.advance(61)
    await sweep(served.services)
    contents = served.contents()
    assert (contents["blobs"], contents["logs"]) == ({}, {})
    assert contents["documents"].get((Q, job_id), {}) == {}
    for path in paths[:-1]:
        await served.get(path, 410)
    await served.get(f"/f/{key}", 404)
    served.clock.advance(DAY)
    await sweep(served.services)
    assert served.contents()["jobs"] == {}
    await served.get(f"/j/{job_id}", 404)


async def test_a_submit_renews_the_time_and_a_read_does_not(served: InProcess) -> None:
    renewed, read = await served.submit(Q, hello("renewed")), await served.submit(Q, hello("read"))
    for job_id in (renewed, read):
        await served.finish(Q, job_id, extra="z" * 50_000)
    served.clock.advance(20 * DAY)
    await served.submit(Q, hello("renewed"))
    for _ in range(3):
        await served.get(f"/j/{read}")
    served.clock.advance(11 * DAY)
    await sweep(served.services)
    await served.get(f"/j/{read}", 410)
    results = (await served.get(f"/j/{renewed}"))["data"]["results"]
    assert len(results["finished"]["result"]["extra"]) == 50_000, "its documents live as long as it"


async def test_an_expired_job_that_is_submitted_again_starts_anew(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id, code=1)
    served.clock.advance(31 * DAY)
    answer = await (await served.client.post(f"/q/{Q}", json={"definition": ECHO})).get_json()
    assert (answer["cached"], answer["state"]) == (False, "Queued")
    await sweep(served.services)
    await served.finish(Q, job_id, code=2)
    job = await served.job(Q, job_id)
    assert (job.exit_code, job.generation, job.attempt) == (2, 2, 2)


async def test_a_blob_that_an_input_names_lives_as_long_as_the_job(served: InProcess) -> None:
    data = b"input"
    key = hashlib.sha256(data).hexdigest()
    await served.client.put(f"/f/{key}", data=data)
    served.clock.advance(29 * DAY)
    await served.submit(Q, hello("uses", inputs={"x": {"type": "url", "value": f"http://localhost/f/{key}"}}))
    served.clock.advance(20 * DAY)
    await sweep(served.services)
    answer = await served.client.get(f"/f/{key}")
    assert answer.status_code == 302 or await answer.get_data() == data


async def test_a_job_that_is_restarted_leaves_no_bytes_of_its_earlier_lives(served: InProcess) -> None:
    definition = hello("large", env={"A": "x" * 50_000})
    for _ in range(5):
        job_id = await served.submit(Q, definition)
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
    assert len(served.contents()["blobs"]) == 1
    await served.client.delete(f"/q/{Q}/j/{job_id}")
    assert served.contents()["blobs"] == {}


# --- what strangers can learn (S1, S2, S3) ---------------------------------------------------------------------------


async def test_an_unknown_queue_and_an_empty_one_answer_with_the_same_bytes(served: InProcess) -> None:
    """One had a job that was deleted, one a job that expired long ago, one was never heard of."""
    job_id = await served.submit("had-one")
    await served.finish("had-one", job_id)
    await served.client.delete(f"/q/had-one/j/{job_id}")
    other = await served.submit("expired")
    served.clock.advance(32 * DAY)
    for _ in range(2):
        await sweep(served.services)
        served.clock.advance(2 * DAY)
    of_jobs = (f"/j/{job_id}", f"/j/{other}", f"/j/{job_id}/namespaces.json")
    for tail in ("", "/j", "/status", "/metrics", "/scale", *of_jobs):
        answers = []
        for queue in ("had-one", "expired", "nobody"):
            answer = await served.client.get(f"/q/{queue}{tail}")
            body = (await answer.get_data()).decode().replace(queue, "QUEUE")
            if answer.status_code != 200:
                body = str({k: v for k, v in json.loads(body).items() if k != "requestId"})
            answers.append((answer.status_code, body, sorted(answer.headers.keys())))
        assert answers[0] == answers[1] == answers[2], tail


async def test_no_read_creates_any_state(served: InProcess) -> None:
    before, nobody = served.contents(), "f" * 64
    with skipping_time():
        for path in (
            *("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/q/x", "/q/x/j", "/q/x/status", "/q/x/metrics"),
            *(f"/q/x/j/{nobody}", f"/q/x/j/{nobody}/why", f"/q/x/j/{nobody}/stream", f"/j/{nobody}", "/x/status"),
            *("/q/x/scale", "/x/metrics"),
            *(f"/q/x/j/{nobody}/run-logs.json", f"/q/x/j/{nobody}/history.json", f"/f/{nobody}", f"/f/{nobody}/exists"),
        ):
            await (await served.client.get(path)).get_data()
            await served.client.head(path)
    assert served.contents() == before
    assert served.hub.channels == ()
    notifier: Any = served.services.notifier
    assert notifier._subscribers == {}


async def test_no_answer_of_the_server_itself_names_a_queue(served: InProcess) -> None:
    secret = "the-name-is-the-key"
    job_id = await served.submit(secret)
    async with served.watch(secret), served.worker(secret):
        for path in ("/metrics", "/readyz", "/healthz", "/openapi.json", "/", f"/j/{job_id}", "/q/other/status"):
            assert secret not in (await (await served.client.get(path)).get_data()).decode()


async def test_clients_and_workers_of_one_queue_hear_nothing_of_another(served: InProcess) -> None:
    async with served.watch("a") as client, served.old_worker("a", "wa") as old, served.worker("a", "na") as new:
        await client.hear("Workers", lambda payload: len(payload["workers"]) == 2)
        job_id = await served.submit("b")
        async with served.old_worker("b", "wb") as other:
            await other.claim(job_id)
            await other.log(job_id, "a line")
            await other.finish(job_id)
            await other.settle()
        for peer in (client, old, new):
            assert not [f for f in await peer.settle() if "wb" in json.dumps(f) or job_id in json.dumps(f)]


async def test_a_worker_cannot_touch_jobs_of_another_queue(served: InProcess) -> None:
    job_id = await served.submit("b")
    async with served.worker("a", "thief", jobs=0) as thief:
        ack = await thief.finish({"jobId": job_id, "attempt": 1})
        assert not ack["accepted"]
        await thief.say("Renew", {"jobs": {job_id: 1}})
        assert await thief.hear("Renewed") == {"lost": [job_id]}
    assert (await served.job("b", job_id)).state is State.QUEUED


# --- a connection that closes at the wrong moment --------------------------------------------------------------------


async def test_a_job_that_is_being_claimed_when_its_worker_leaves_waits_again_and_everybody_is_told(
    served: InProcess,
) -> None:
    """The store has the claim, its answer is on the way, and the socket closes. The worker never heard of the job."""
    job_id = await served.submit(Q)
    async with served.watch(Q) as client:
        async with AsyncExitStack() as leaving:
            worker = await leaving.enter_async_context(served.worker(Q, jobs=0))
            held = Held(served.services.jobs, "save", answered=True)
            await worker.ready(1)
            await held.reached()
            closing = asyncio.create_task(leaving.aclose())
            await turns()
            held.let_go()
            await closing
        job = await served.job(Q, job_id)
        assert (job.state, job.attempt, job.lost) == (State.QUEUED, 1, 0)
        assert [past.end for past in job.history] == ["released"]
        assert served.witness.states(job_id) == ["Queued", "Running", "Queued"]
        await client.hear_job(job_id, "Running")
        await client.hear_job(job_id, "Queued")


async def test_a_submit_whose_caller_leaves_while_it_is_stored_is_told_as_any_other(served: InProcess) -> None:
    async with served.watch(Q) as client:
        held = Held(served.services.jobs, "save", answered=True)
        caller = asyncio.create_task(served.submit(Q))
        await held.reached()
        caller.cancel()
        await turns()
        held.let_go()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await client.hear_job(known_id(ECHO), "Queued")
    assert served.witness.states(known_id(ECHO)) == ["Queued"]


# --- overload is refused (P12) ---------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_with_a_time_to_come_back_and_serves_what_it_holds() -> None:
    async with in_process(limits={"queued_per_queue": 2}) as served:
        ids = []
        for n in range(2):
            ids.append(await served.submit(Q, hello(n)))
            served.clock.advance(1)
        answer = await served.client.post(f"/q/{Q}", json={"definition": hello("more")})
        assert (answer.status_code, (await answer.get_json())["code"]) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) > 0
        assert len(served.contents()["jobs"]) == 2
        await served.finish(Q, ids[0])
        await served.submit(Q, hello("more"))


async def test_a_socket_that_submits_too_fast_is_told_so_and_stays(public: InProcess) -> None:
    async with public.watch(Q) as client:
        for n in range(125):
            await client.submit(hello(n))
        error = await client.hear("Error")
        assert error["code"] == "rate_limited"
        await client.settle()
    assert len(public.contents()["jobs"]) == 120
