"""Protocol 2, and what holds for every socket. Old peers are tested in ``tests/contract/test_old_peers.py``."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asman.errors import StorageFull, Unavailable
from asman.job import Job, State
from asman.maintenance import sweep
from asman.routes.sockets import parse_socket_path
from in_process import (
    ECHO,
    GatedSocket,
    Held,
    InProcess,
    Peer,
    finished_value,
    hello,
    in_process,
    skipping_time,
    turns,
)

Q = "sockets"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/q/a/client", ("a", "client")),
        ("/q/a/browser", ("a", "client")),
        ("/a/client", ("a", "client")),
        ("a/browser", ("a", "client")),
        ("/q/a/worker", ("a", "worker")),
        ("/a/worker/", ("a", "worker")),
        ("//q///a//client/x", ("a", "client")),
        ("/q/undefined/worker", ("undefined", "worker")),
        ("/q/undefined/client", None),
        ("/null/client", None),
        ("/q/client", None),
        ("/q/a", None),
        ("/q/a/Client", None),
        ("/q/a/b/client", None),
        ("", None),
    ],
)
def test_a_path_names_a_queue_and_a_role(path: str, found: tuple[str, str] | None) -> None:
    assert parse_socket_path(path) == found


# --- a life ----------------------------------------------------------------------------------------------------------


async def test_a_worker_is_given_a_job_acknowledged_and_done(served: InProcess) -> None:
    async with served.worker(Q, "w1") as worker:
        assert worker.welcome["protocol"] == 2
        assert (worker.welcome["lease_s"], worker.welcome["renew_s"]) == (30.0, 10.0)
        assert (worker.welcome["adopted"], worker.welcome["lost"]) == ({}, [])
        job_id = await served.submit(Q)
        given = await worker.hear("Assign")
        job = await served.job(Q, job_id)
        assert given == {
            "jobId": job_id,
            "attempt": 1,
            "definition": ECHO,
            "lease_until": round((served.clock() + 30) * 1000),
            "queuedTime": round(job.queued_at * 1000),
        }
        ack = await worker.finish(given, code=3)
        assert ack == {"jobId": job_id, "attempt": 1, "accepted": True}
    job = await served.job(Q, job_id)
    assert (job.state, job.reason, job.outcome, job.exit_code) == (State.FINISHED, "Success", "failed", 3)


async def test_a_worker_of_protocol_2_is_shown_no_list_and_no_changes_of_others(served: InProcess) -> None:
    with skipping_time():
        async with served.worker(Q, "w1", jobs=0) as worker:
            for n in range(3):
                await served.submit(Q, hello(n))
            await asyncio.sleep(35)
            kinds = {json.loads(text)["type"] for text in worker.heard if text.startswith("{")}
            kinds |= {frame["type"] for frame in await worker.settle()}
    assert kinds <= {"Registered", "Workers"}


async def test_a_worker_that_is_not_ready_is_given_nothing(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1", jobs=0) as worker:
        assert "Assign" not in [f["type"] for f in await worker.settle()]
        assert (await served.job(Q, job_id)).state is State.QUEUED
        await worker.ready(1)
        assert (await worker.hear("Assign"))["jobId"] == job_id


async def test_the_longest_waiting_job_that_fits_is_given_first(served: InProcess) -> None:
    wanted = [("big", 4), ("gpu", 1), ("a", 1), ("b", 2), ("c", 1)]
    ids = {}
    for name, cpus in wanted:
        need: dict[str, Any] = {"cpus": cpus, "gpus": 1 if name == "gpu" else 0}
        ids[name] = await served.submit(Q, hello(name, requirements=need))
        served.clock.advance(1)
    async with served.worker(Q, "w1", jobs=5, cpus=3) as worker:
        given = [(await worker.hear("Assign"))["jobId"] for _ in range(2)]
        assert given == [ids["a"], ids["b"]], "big and gpu do not fit; c does not fit beside the two"
        await worker.settle()
        assert (await served.job(Q, ids["c"])).state is State.QUEUED
        assert (await worker.finish({"jobId": ids["a"], "attempt": 1}))["accepted"]
        await worker.ready(5)
        assert (await worker.hear("Assign"))["jobId"] == ids["c"]


@pytest.mark.parametrize(
    ("need", "capacity"),
    [
        ({"requirements": {"cpus": 3}}, {"cpus": 2}),
        ({"requirements": {"memory": "2g"}}, {"memory_bytes": 1 << 30}),
        ({"requirements": {"gpus": 1}}, {}),
        ({"requirements": {"gpus": 2}}, {"gpus": [{"uuid": "x"}]}),
        ({"tags": ["a", "b"]}, {"tags": ["a"]}),
        ({"maxDuration": "2h"}, {"max_duration_s": 3600}),
    ],
)
async def test_a_job_that_does_not_fit_is_not_given(
    served: InProcess, need: dict[str, Any], capacity: dict[str, Any]
) -> None:
    job_id = await served.submit(Q, hello("big", **need))
    async with served.worker(Q, "small", jobs=3, **capacity) as worker:
        await worker.settle()
        assert (await served.job(Q, job_id)).state is State.QUEUED
        why = (await served.get(f"/q/{Q}/j/{job_id}/why"))["data"]
        assert why["workers"][0]["fits"] is False
        fits = await served.submit(Q, hello("small"))
        assert (await worker.hear("Assign"))["jobId"] == fits, "and it does not stand in the way of others"


async def test_what_was_given_but_not_yet_seen_by_the_worker_is_counted_as_used(served: InProcess) -> None:
    """The worker says "ready" again before it has read its first assignment."""
    first, second = await served.submit(Q, hello(1)), await served.submit(Q, hello(2))
    async with served.worker(Q, "w1", jobs=1, cpus=1) as worker:
        await worker.ready(1, cpus=1)
        assert (await worker.hear("Assign"))["jobId"] == first
        await worker.ready(1, cpus=1)
        assert [f for f in await worker.settle() if f["type"] == "Assign"] == []
        assert (await served.job(Q, second)).state is State.QUEUED


async def test_many_large_assignments_at_once_all_arrive(served: InProcess) -> None:
    """Frames that nothing else can replace are never dropped from a backlog, however large it is."""
    ids = [await served.submit(Q, hello(n, env={"A": "x" * 100_000, "B": "y" * 100_000})) for n in range(60)]
    async with served.worker(Q, "w1", jobs=60, cpus=60) as worker:
        given = [(await worker.hear("Assign"))["jobId"] for _ in range(60)]
    assert sorted(given) == sorted(ids)


# --- renewing, losing, coming back -----------------------------------------------------------------------------------


async def test_a_worker_that_renews_keeps_its_job_and_one_that_is_silent_loses_it(served: InProcess) -> None:
    kept, lost = await served.submit(Q, hello("kept")), await served.submit(Q, hello("lost"))
    async with served.worker(Q, "w1", jobs=1) as one, served.worker(Q, "w2", jobs=1) as two:
        given = await one.hear("Assign")
        assert given["jobId"] == kept
        assert (await two.hear("Assign"))["jobId"] == lost
        for _ in range(4):
            served.clock.advance(10)
            await one.say("Renew", {"jobs": {kept: 1}})
            assert await one.hear("Renewed") == {"lost": []}
            await sweep(served.services)
        revoked = await two.hear("Revoke")
        assert (revoked["jobId"], revoked["attempt"]) == (lost, 1)
        assert (await served.job(Q, lost)).state is State.QUEUED
        await two.say("Renew", {"jobs": {lost: 1}})
        renewed = await two.hear("Renewed")
    assert (await served.job(Q, kept)).state is State.RUNNING
    assert renewed == {"lost": []}, "nobody was given it since: it is taken up again"
    assert (await served.job(Q, lost)).worker == "w2"


async def test_a_job_that_another_worker_was_given_meanwhile_is_lost_and_its_report_refused(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "slow") as slow:
        stale = await slow.hear("Assign")
        served.clock.advance(31)
        await sweep(served.services)
        async with served.worker(Q, "quick") as quick:
            fresh = await quick.hear("Assign")
            assert fresh["attempt"] == 2
            await slow.say("Renew", {"jobs": {job_id: 1}})
            assert await slow.hear("Renewed") == {"lost": [job_id]}
            ack = await slow.finish(stale, code=9)
            assert (ack["accepted"], ack["code"]) == (False, "lease_lost")
            assert ack["error"]
            assert (await quick.finish(fresh))["accepted"]
            ack = await slow.finish(stale, code=9)
            assert ack["accepted"] is False
    job = await served.job(Q, job_id)
    assert (job.result_worker, job.exit_code, job.attempt) == ("quick", 0, 2)


async def test_a_report_that_is_repeated_is_acknowledged_and_changes_nothing(served: InProcess) -> None:
    await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        assert (await worker.finish(given))["accepted"]
        before = served.contents()
        assert (await worker.finish(given))["accepted"]
        ack = await worker.finish(given, code=1)
        assert (ack["accepted"], ack["code"]) == (False, "lease_lost"), "another result is not the same report"
        assert served.contents() == before


async def test_after_a_reconnect_what_is_held_is_adopted_and_the_rest_is_said_to_be_lost(served: InProcess) -> None:
    ids = [await served.submit(Q, hello(n)) for n in range(2)]
    async with served.worker(Q, "w1", jobs=2) as worker:
        given = [await worker.hear("Assign") for _ in ids]
    served.clock.advance(10)
    async with served.worker(Q, "w1", jobs=0, holding={ids[0]: 1, ids[1]: 1, "f" * 64: 1}) as again:
        assert again.welcome["adopted"] == {ids[0]: 1, ids[1]: 1}
        assert again.welcome["lost"] == ["f" * 64]
        served.clock.advance(20)
        await sweep(served.services)
        for one in given:
            assert (await again.finish(one))["accepted"]
    assert all(served.witness.states(i) == ["Queued", "Running", "Finished"] for i in ids)


async def test_a_worker_that_comes_back_without_its_job_gives_it_back_at_once(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        await worker.hear("Assign")
    async with served.worker(Q, "w1", jobs=0):
        job = await served.job(Q, job_id)
        assert (job.state, job.lost) == (State.QUEUED, 1)
    async with served.worker(Q, "w1", jobs=0, holding={job_id: 1}) as again:
        assert again.welcome["adopted"] == {job_id: 1}, "it had it all the same, and nobody else was given it"


async def test_a_stale_attempt_is_not_adopted(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        await worker.hear("Assign")
    served.clock.advance(16)
    await sweep(served.services)
    async with served.worker(Q, "w2") as other:
        await other.hear("Assign")
        async with served.worker(Q, "w1", jobs=0, holding={job_id: 1}) as again:
            assert (again.welcome["adopted"], again.welcome["lost"]) == ({}, [job_id])


async def test_the_newest_connection_of_a_worker_is_given_the_jobs(served: InProcess) -> None:
    async with served.worker(Q, "w1") as old, served.worker(Q, "w1") as new:
        assert await old.closed() == 4409
        await served.submit(Q)
        given = await new.hear("Assign")
        assert (await new.finish(given))["accepted"]


async def test_a_draining_worker_hands_its_jobs_back_and_they_go_to_another_at_once(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "leaves") as leaving, served.worker(Q, "stays", jobs=0) as staying:
        await leaving.hear("Assign")
        await staying.ready(1)
        await leaving.say("Goodbye", {"jobs": {job_id: 1, "e" * 64: 1}})
        assert await leaving.hear("Released") == {"jobs": [job_id]}
        assert (await staying.hear("Assign"))["attempt"] == 2
        assert (await served.job(Q, job_id)).lost == 0, "that is not held against the job"


async def test_a_worker_that_said_goodbye_is_given_nothing_more(served: InProcess) -> None:
    async with served.worker(Q, "w1", jobs=2) as worker:
        await worker.say("Goodbye", {"jobs": {}})
        await worker.hear("Released")
        job_id = await served.submit(Q)
        await worker.settle()
        assert (await served.job(Q, job_id)).state is State.QUEUED


async def test_a_cancelled_job_is_revoked_and_its_late_result_refused(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        assert await worker.hear("Revoke") == {"jobId": job_id, "attempt": 1, "reason": "Cancelled"}
        assert (await worker.finish(given))["accepted"] is False
    assert (await served.job(Q, job_id)).reason == "Cancelled"
    assert (await served.get(f"/q/{Q}/j/{job_id}/result.json"))["data"] is None


async def test_deleting_and_replacing_revoke_too(served: InProcess) -> None:
    deleted = await served.submit(Q, hello("deleted"))
    replaced = await served.submit(Q, hello("replaced"), control={"namespace": "doc"})
    async with served.worker(Q, jobs=2) as worker:
        for _ in range(2):
            await worker.hear("Assign")
        await served.client.delete(f"/q/{Q}/j/{deleted}")
        assert (await worker.hear("Revoke"))["reason"] == "Deleted"
        await worker.hear("ClearJobCache", lambda payload: payload["jobId"] == deleted)
        await served.submit(Q, hello("newer"), control={"namespace": "doc"})
        revoked = await worker.hear("Revoke")
        assert (revoked["jobId"], revoked["reason"]) == (replaced, "JobReplacedByClient")


# --- lines -----------------------------------------------------------------------------------------------------------


async def test_lines_are_kept_once_in_order_whatever_is_said_again(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client, served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "0", "1", seq=0)
        await worker.log(given, "1", "2", "3", seq=1)
        await worker.log(given, "2", "3", seq=2)
        await worker.settle()
        told = [f["payload"]["logs"] for f in await client.settle() if f["type"] == "JobStatusPayload"]
    assert told == [[["0", 1], ["1", 1]], [["2", 1], ["3", 1]]]
    async with served.worker(Q, "w1", jobs=0, holding={job_id: 1}) as again:
        await again.log(given, "3", "4", seq=3)
        await again.settle()
    page = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json")
    assert [line[0] for line in page["data"]] == ["0", "1", "2", "3", "4"]
    assert (page["nextCursor"], page["attempt"], page["isFinal"]) == (5, 1, False)


async def test_a_step_that_begins_is_told_as_it_was_said_and_is_no_line(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client, served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        said = {"jobId": job_id, "attempt": 1, "step": "starting", "seq": 0, "began": 1_700_000_000_000, "logs": []}
        await worker.say("JobStatusLogs", said)
        assert await client.hear("JobStatusPayload") == said
        await worker.say("JobStatusLogs", {**said, "attempt": 2})
        await worker.log(given, "0", seq=0)
        assert (await client.hear("JobStatusPayload"))["logs"] == [["0", 1]], "of another attempt it is not told"
    assert (await served.get(f"/q/{Q}/j/{job_id}/build-logs.json"))["data"] == []
    page = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json")
    assert [line[0] for line in page["data"]] == ["0"]


async def test_lines_of_both_halves_share_one_count_and_are_kept_apart(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "pull", seq=0, step="docker image pull")
        await worker.log(given, "run", seq=1)
        await worker.log(given, "build", seq=2, step="docker build")
        await worker.settle()
    build = await served.get(f"/q/{Q}/j/{job_id}/build-logs.json")
    run = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json")
    assert [line[0] for line in build["data"]] == ["pull", "build"]
    assert [line[0] for line in run["data"]] == ["run"]


async def test_lines_of_a_stale_attempt_are_not_kept(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "slow") as slow:
        stale = await slow.hear("Assign")
        await slow.log(stale, "old", seq=0)
        await slow.settle()
        served.clock.advance(31)
        await sweep(served.services)
        async with served.watch(Q) as client, served.worker(Q, "quick") as quick:
            fresh = await quick.hear("Assign")
            await slow.log(stale, "stale", seq=1)
            await slow.settle()
            await quick.log(fresh, "new", seq=0)
            assert (await client.hear("JobStatusPayload"))["logs"] == [["new", 1]]
    page = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json")
    assert (page["data"], page["attempt"]) == ([["new", 1]], 2)


# --- bad input -------------------------------------------------------------------------------------------------------

REGISTRATIONS: list[dict[str, Any]] = [
    {"id": ""},
    {"id": "n" * 129},
    {"id": 5},
    {"id": None},
    {"protocol": 3},
    {"protocol": "2"},
    {"holding": [1]},
    {"holding": {"x": "1"}},
    {"capacity": {"cpus": "many"}},
    {"capacity": {"cpus": -1}},
    {"capacity": {"cpus": 1e300}},
    {"capacity": {"cpus": True}},
    {"capacity": {"memory_bytes": "8g"}},
    {"capacity": {"gpus": "one"}},
    {"capacity": {"tags": 5}},
    {"capacity": {"tags": [{"a": 1}]}},
    {"capacity": {"max_duration_s": "soon"}},
    {"capacity": {"max_duration_s": [1]}},
    {"maxJobDuration": "soon", "capacity": None},
]


@pytest.mark.parametrize("wrong", REGISTRATIONS, ids=json.dumps)
async def test_a_registration_that_cannot_be_read_is_refused_by_name_and_another_may_follow(
    served: InProcess, wrong: dict[str, Any]
) -> None:
    async with served.connect(f"/q/{Q}/worker?protocol=2") as peer:
        known = {"id": "w1", "protocol": 2, "capacity": {"cpus": 1}, "holding": {}}
        await peer.say("WorkerRegistration", {**known, **wrong})
        error = await peer.hear("Error")
        assert error["code"] in ("bad_message", "bad_request")
        assert served.channel(Q).workers == {}
        await peer.say("WorkerRegistration", known)
        await peer.hear("Registered")


FRAMES: list[tuple[str, Any]] = [
    ("Ready", {"jobs": "many"}),
    ("Ready", {"jobs": -1}),
    ("Ready", {"jobs": True}),
    ("Ready", {"jobs": 1, "cpus": "two"}),
    ("Ready", {"jobs": 1, "memory_bytes": []}),
    ("Ready", {"jobs": 1, "gpus": {}}),
    ("Renew", {}),
    ("Renew", {"jobs": []}),
    ("Renew", {"jobs": {"x": "1"}}),
    ("Goodbye", {"jobs": [1]}),
    ("JobStatusLogs", {}),
    ("JobStatusLogs", {"jobId": "x", "step": 5, "logs": []}),
    ("JobStatusLogs", {"jobId": "x", "step": "Running", "logs": "text"}),
    ("RequestJobDefinitions", {"jobIds": 5}),
    ("StateChange", {"job": "x", "state": "Finished"}),
    ("StateChange", {"job": 5, "state": "Finished", "value": {"worker": "w1", "reason": "Success"}}),
    ("StateChange", {"job": "", "state": "Running", "value": {"worker": "w1"}}),
    ("StateChange", {"job": "x", "state": "Queued", "value": {"worker": "w1"}}),
    ("StateChange", {"job": "x", "state": "Finished", "attempt": "1", "value": {"worker": "w1"}}),
    ("QueryJob", {"jobId": "x"}),
]


@pytest.mark.parametrize(("kind", "payload"), FRAMES, ids=lambda value: json.dumps(value))
async def test_a_message_with_unusable_members_is_refused_and_changes_nothing(
    served: InProcess, kind: str, payload: Any
) -> None:
    await served.submit(Q, hello("waits", requirements={"cpus": 64}))
    async with served.worker(Q, "w1", jobs=0) as worker:
        before = served.contents()
        await worker.say(kind, payload)
        assert (await worker.hear("Error"))["code"] == "bad_message"
        await worker.settle()
        assert served.contents() == before


@pytest.mark.parametrize("kind", ["Ready", "Renew", "Goodbye"])
async def test_what_only_a_registered_worker_may_say_is_refused_before(served: InProcess, kind: str) -> None:
    async with served.connect(f"/q/{Q}/worker?protocol=2") as peer:
        await peer.say(kind, {"jobs": {} if kind != "Ready" else 1})
        assert "register first" in (await peer.hear("Error"))["error"]


WORDS: list[Any] = ["NaN", "Infinity", "1e999", "9" * 400, "-" + "9" * 5000]


@pytest.mark.parametrize("number", WORDS, ids=lambda text: text[:10])
async def test_a_result_with_a_number_that_json_does_not_have_does_not_end_the_connection(
    served: InProcess, number: str
) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        change = {"job": job_id, "state": "Finished", "attempt": 1, "value": finished_value("w1", extra="@")}
        await worker.raw(json.dumps({"type": "StateChange", "payload": change}).replace('"@"', number))
        assert (await worker.hear("Error"))["code"] in ("bad_json", "bad_message")
        assert (await served.job(Q, job_id)).state is State.RUNNING
        assert (await worker.finish(given))["accepted"]


OUTPUTS: list[Any] = [
    {"o": {"type": "url", "value": "http://[broken"}},
    {"o": {"type": "url", "value": 5}},
    {"o": {"type": "key", "value": "../../x"}},
    {"o": {"type": "key", "value": ["a"]}},
    {"o": {"type": ["url"], "value": "x"}},
    {"o": "text"},
    {"o": None},
    {"\ud800": {"type": "utf8", "value": "\ud800"}},
    [1, 2],
    "text",
    None,
]


@pytest.mark.parametrize("outputs", OUTPUTS, ids=json.dumps)
async def test_a_result_with_unusable_outputs_is_kept_and_breaks_nothing(served: InProcess, outputs: Any) -> None:
    """A worker says it once or for ever; a result is the job's truth, whatever its outputs look like."""
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        assert (await worker.finish(await worker.hear("Assign"), outputs=outputs))["accepted"]
    found = await served.client.get(f"/q/{Q}/j/{job_id}/result.json")
    assert found.status_code == 200
    assert (await served.client.get(f"/q/{Q}/j/{job_id}/outputs/o")).status_code < 500


@pytest.mark.parametrize("lines", [[5], [None], [[]], [["a"]], [[{"a": 1}, 1]], [["a", 1, True, "more"]], ["text"]])
async def test_lines_of_another_shape_do_not_break_readers(served: InProcess, lines: list[Any]) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await worker.say("JobStatusLogs", {"jobId": job_id, "step": "Running", "logs": lines, "attempt": 1, "seq": 0})
        await worker.settle()
        assert (await worker.finish(given))["accepted"]
    assert (await served.client.get(f"/q/{Q}/j/{job_id}/run-logs.json")).status_code == 200
    assert (await served.client.get(f"/q/{Q}/j/{job_id}/stream")).status_code == 200


async def test_a_frame_above_the_limit_is_refused_and_the_socket_stays() -> None:
    async with in_process(profile="public") as served:
        async with served.watch(Q) as client:
            await client.raw('{"type": "StateChange", "payload": {"x": "' + "x" * (64 << 10) + '"}}')
            assert (await client.hear("Error"))["code"] == "limit_exceeded"
            await client.settle()


async def test_errors_are_told_in_moderation(served: InProcess) -> None:
    async with served.watch(Q) as client:
        for _ in range(100):
            await client.say("Nonsense", {})
        told = [f for f in await client.settle() if f["type"] == "Error"]
        assert len(told) == 5
        served.clock.advance(2)
        await client.say("Nonsense", {})
        await client.hear("Error")


async def test_sockets_above_the_limit_are_refused_before_they_are_accepted() -> None:
    async with in_process(limits={"sockets_per_queue": 2, "sockets_total": 3}) as served:
        async with served.watch("a"), served.watch("a"):
            assert (await served.refused_socket("/q/a/client"))[0] == 503
            async with served.watch("b"):
                status, error = await served.refused_socket("/q/c/worker")
                assert (status, error["code"]) == (503, "unavailable")
        async with served.watch("a"):
            assert served.hub.sockets == 1


@pytest.mark.parametrize("queue", ["..", "a b", "ü", "q" * 129, "a%00b", "%2e%2e", "a%2Fb"])
async def test_a_socket_on_a_bad_queue_name_is_refused(served: InProcess, queue: str) -> None:
    for role in ("client", "worker"):
        status, error = await served.refused_socket(f"/q/{queue}/{role}")
        assert status in (400, 404), error
        assert error["code"] in ("bad_name", "route_not_found")
    assert served.hub.channels == ()


async def test_a_foreign_page_may_not_open_a_socket_on_a_server_on_loopback(served: InProcess) -> None:
    status, error = await served.refused_socket(f"/q/{Q}/client", headers={"Origin": "https://evil.example"})
    assert (status, error["code"]) == (403, "origin_refused")
    async with in_process(host="0.0.0.0") as open_to_all:
        async with open_to_all.connect(f"/q/{Q}/client", headers={"Origin": "https://any.example"}) as peer:
            await peer.hear("Workers")


async def test_a_server_that_stops_says_so_to_every_socket(served: InProcess) -> None:
    async with served.watch(Q) as client, served.old_worker(Q) as old, served.worker(Q, "w2", jobs=0) as new:
        served.hub.close_all()
        assert [await peer.closed() for peer in (client, old, new)] == [1012, 1012, 1012]


async def test_a_server_that_stops_does_not_shorten_leases(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        await worker.hear("Assign")
        served.hub.close_all()
        await worker.closed()
    assert (await served.job(Q, job_id)).lease_until == served.clock() + 30


# --- slow readers ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def gated(served: InProcess) -> InProcess:
    served.client.websocket_connection_class = GatedSocket
    return served


def _states(peer: Peer, job_id: str) -> list[str]:
    """The states a peer was shown a job in, repeats left out."""
    seen: list[str] = []
    for text in peer.heard:
        frame = json.loads(text) if text.startswith("{") else {"type": ""}
        record = frame["payload"]["state"]["jobs"].get(job_id) if frame["type"].startswith("JobState") else None
        if record is not None and seen[-1:] != [record["state"]]:
            seen.append(record["state"])
    return seen


async def test_a_stalled_watcher_delays_nobody_and_its_backlog_is_bounded(gated: InProcess) -> None:
    async with gated.watch(Q) as stalled, gated.watch(Q) as lively:
        stalled.connection.gate.clear()
        big = hello("big", tags=["t" * 60] * 30)
        last = ""
        for n in range(2500):
            last = await gated.submit(Q, {**big, "command": f"echo {n}"})
        await lively.hear_job(last)
        frames, size = max(outbox.waiting for outbox in gated.channel(Q).clients)
        assert 0 < frames <= 2_000
        assert size <= 4 << 20
        stalled.connection.gate.set()
        listed = await stalled.hear("JobStates")
        assert len(listed["state"]["jobs"]) == 2500, "one fresh list stands for what was lost"


async def test_no_watcher_sees_a_job_go_backwards_when_a_list_overtakes_changes(gated: InProcess) -> None:
    """Changes that waited behind a stalled reader are older than the list that is made when it reads again."""
    job_id = await gated.submit(Q)
    with skipping_time():
        async with gated.watch(Q) as client:
            client.connection.gate.clear()
            await gated.submit(Q, hello("blocks the writer", requirements={"cpus": 128}))
            await asyncio.sleep(12)
            await gated.finish(Q, job_id)
            client.connection.gate.set()
            await client.hear("JobStates", within_s=30)
            await client.settle()
            assert _states(client, job_id)[-1] == "Finished"
            assert _states(client, job_id).count("Finished") == 1, _states(client, job_id)


# --- moments between two awaits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "delete", "lapse"])
async def test_a_job_that_ends_while_it_is_being_given_is_not_run(served: InProcess, how: str) -> None:
    job_id = await served.submit(Q)
    held = Held(served.services.jobs, "document")
    async with served.worker(Q) as worker:
        await asyncio.wait_for(held.came.wait(), 5)
        if how == "cancel":
            await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        elif how == "delete":
            held.came.clear()
            deleting = asyncio.ensure_future(served.client.delete(f"/q/{Q}/j/{job_id}"))
            await asyncio.wait_for(held.came.wait(), 5)
        else:
            served.clock.advance(31)
            await sweep(served.services)
        held.let_go()
        if how == "delete":
            await deleting
        await worker.settle()
        frames = [json.loads(text) for text in worker.heard if text.startswith("{")]
        told = [(f["type"], f["payload"]["attempt"]) for f in frames if f["type"] in ("Assign", "Revoke")]
        runs = {attempt for kind, attempt in told if kind == "Assign"}
        for attempt in runs - ({2} if how == "lapse" else set()):
            assert told.index(("Assign", attempt)) < told.index(("Revoke", attempt)), told
        if how != "lapse":
            next_id = await served.submit(Q, hello("next"))
            assert (await worker.hear("Assign", lambda payload: payload["jobId"] == next_id))["attempt"] == 1


async def test_a_late_revoke_of_an_older_attempt_does_not_take_the_newer_one(served: InProcess) -> None:
    """The change that put the job back is told after the same worker was given it again."""
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        await worker.hear("Assign")
        served.clock.advance(31)
        held = Held(served.services.logs, "drop_log")
        sweeping = asyncio.create_task(sweep(served.services))
        await asyncio.wait_for(held.came.wait(), 5)
        await worker.ready(1)
        given = await worker.hear("Assign")
        assert given["attempt"] == 2
        held.let_go()
        await sweeping
        assert (await worker.hear("Revoke"))["attempt"] == 1
        await worker.log(given, "a line", seq=0)
        await worker.settle()
        assert served.channel(Q).workers["w1"].held == {job_id: 2}
    assert (await served.get(f"/q/{Q}/j/{job_id}/run-logs.json"))["data"] == [["a line", 1]]


def _ends(job: Job) -> list[str]:
    return [past.end for past in job.history]


async def test_a_job_taken_for_a_worker_that_leaves_goes_to_the_next_one_at_once(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with AsyncExitStack() as leaving:
        first = await leaving.enter_async_context(served.worker(Q, "first", jobs=0))
        async with served.watch(Q) as client, served.worker(Q, "second", jobs=0) as second:
            held = Held(served.services.jobs, "save", answered=True)
            await first.ready(1)
            await held.reached()
            await second.ready(1)  # it finds that the job is being given, and waits
            await second.settle()
            closing = asyncio.create_task(leaving.aclose())
            await turns()
            held.let_go()
            await closing
            assert (await second.hear("Assign"))["attempt"] == 2
            job = await served.job(Q, job_id)
            assert (job.worker, job.lost, _ends(job)) == ("second", 0, ["released"])
            await client.settle()
            assert _states(client, job_id)[-3:] == ["Running", "Queued", "Running"]


async def test_a_worker_that_leaves_before_it_took_the_job_it_was_woken_for_wakes_the_next(served: InProcess) -> None:
    async with AsyncExitStack() as leaving:
        first = await leaving.enter_async_context(served.worker(Q, "first"))
        await first.settle()
        async with served.worker(Q, "second") as second:
            await second.settle()
            await turns()
            assert [seat.worker for seat in served.channel(Q).waiting] == ["first", "second"]
            held = Held(served.services.jobs, "counts")
            job_id = await served.submit(Q)
            await held.reached()
            closing = asyncio.create_task(leaving.aclose())
            await turns()
            held.let_go()
            await closing
            assert (await second.hear("Assign"))["jobId"] == job_id


@pytest.mark.parametrize("is_stalled", [False, True])
async def test_a_job_taken_for_a_connection_that_was_superseded_meanwhile_is_given_to_the_newer_one(
    gated: InProcess, is_stalled: bool
) -> None:
    """``is_stalled``: the older connection is so slow that even its close waits, and nothing cancels its claim."""
    job_id = await gated.submit(Q)
    async with gated.worker(Q, "w1", jobs=0) as old:
        await old.settle()
        if is_stalled:
            old.connection.gate.clear()
        held = Held(gated.services.jobs, "save")
        await old.ready(1)
        await held.reached()
        async with gated.worker(Q, "w1") as new:
            await new.settle()
            await turns()
            held.let_go()
            assert (await new.hear("Assign"))["attempt"] == 2
            assert not [text for text in old.heard if "Assign" in text]
            old.connection.gate.set()
            assert await old.closed() == 4409
            job = await gated.job(Q, job_id)
            assert (job.lost, _ends(job)) == (0, ["released"])


@pytest.mark.parametrize("is_stalled", [False, True])
async def test_a_job_taken_while_the_server_stops_is_handed_back(gated: InProcess, is_stalled: bool) -> None:
    """``is_stalled``: the writer is busy when the server stops, and the claim ends before the socket does."""
    job_id = await gated.submit(Q)
    async with gated.worker(Q, "w1", jobs=0) as worker:
        await worker.settle()
        if is_stalled:
            worker.connection.gate.clear()
            await worker.raw("PING")
        held = Held(gated.services.jobs, "save", answered=True)
        await worker.ready(1)
        await held.reached()
        gated.hub.close_all()
        await turns()
        held.let_go()
        await turns()
        worker.connection.gate.set()
        assert await worker.closed() == 1012
        job = await gated.job(Q, job_id)
        assert (job.state, job.lost, _ends(job)) == (State.QUEUED, 0, ["released"])


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_job_whose_word_never_went_out_waits_again_at_once_when_the_socket_dies(
    gated: InProcess, is_sent: bool
) -> None:
    """``is_sent``: the word was on its way, and nobody knows whether the worker has it; then the lease decides."""
    job_id = await gated.submit(Q)
    async with AsyncExitStack() as leaving:
        first = await leaving.enter_async_context(gated.worker(Q, "first", jobs=0))
        await first.settle()
        first.connection.gate.clear()
        if not is_sent:
            await first.raw("PING")
            await turns()
        await first.ready(1)
        await turns()
        assert (await gated.job(Q, job_id)).worker == "first"
        await leaving.aclose()
    job = await gated.job(Q, job_id)
    assert not [text for text in first.heard if "Assign" in text]
    if is_sent:
        assert (job.state, _ends(job)) == (State.RUNNING, [])
        return
    assert (job.state, job.lost, _ends(job)) == (State.QUEUED, 0, ["released"])
    async with gated.worker(Q, "second") as second:
        assert (await second.hear("Assign"))["attempt"] == 2


async def test_a_job_whose_word_never_went_out_is_told_over_the_workers_newer_connection(gated: InProcess) -> None:
    job_id = await gated.submit(Q)
    async with gated.worker(Q, "w1", jobs=0) as old:
        await old.settle()
        old.connection.gate.clear()
        await old.raw("PING")
        await turns()
        await old.ready(1)
        await turns()
        assert (await gated.job(Q, job_id)).worker == "w1"
        async with gated.worker(Q, "w1") as new:
            assert new.welcome["lost"] == []
            assert (await new.hear("Assign"))["attempt"] == 2
            old.connection.gate.set()
            assert await old.closed() == 4409
            assert not [text for text in old.heard if "Assign" in text]
            job = await gated.job(Q, job_id)
            assert (job.lost, _ends(job)) == (0, ["released"])
            assert gated.channel(Q).workers["w1"].held == {job_id: 2}


async def test_a_job_whose_word_never_went_out_waits_again_when_the_server_stops(gated: InProcess) -> None:
    job_id = await gated.submit(Q)
    async with gated.worker(Q, "w1", jobs=0) as worker:
        await worker.settle()
        worker.connection.gate.clear()
        await worker.raw("PING")
        await turns()
        await worker.ready(1)
        await turns()
        gated.hub.close_all()
        worker.connection.gate.set()
        assert await worker.closed() == 1012
    assert not [text for text in worker.heard if "Assign" in text]
    job = await gated.job(Q, job_id)
    assert (job.state, job.lost, _ends(job)) == (State.QUEUED, 0, ["released"])


async def test_a_definition_that_cannot_be_read_puts_the_job_back_and_it_is_tried_again_each_second(
    served: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, jobs=0) as worker:
        away = _Away(monkeypatch, served, "document")
        with skipping_time(served.clock) as skipped:
            await worker.ready(1)
            await asyncio.wait_for(away.asked_again.wait(), 60)
            assert 1.5 <= skipped() <= 10
            away.is_back()
            assert (await worker.hear("Assign"))["jobId"] == job_id
        job = await served.job(Q, job_id)
        assert (job.lost, {*_ends(job)}) == (0, {"released"})


async def test_a_report_that_could_not_be_stored_is_said_again_by_a_new_worker(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        _fail_once(served, StorageFull("the disk is full"))
        change = {"job": job_id, "state": "Finished", "attempt": 1, "value": finished_value("w1")}
        await worker.say("StateChange", change)
        error = await worker.hear("Error")
        assert (error["code"], error["ref"]) == ("storage_full", job_id)
        assert (await worker.finish(given))["accepted"]


async def test_a_report_of_an_old_worker_that_could_not_be_stored_lets_the_job_run_again(served: InProcess) -> None:
    """An old worker says it once and forgets; its open socket must not hold the job for ever."""
    job_id = await served.submit(Q)
    with skipping_time(served.clock):
        async with served.old_worker(Q, "w1") as worker:
            await worker.claim(job_id)
            await worker.settle()
            _fail_once(served, StorageFull("the disk is full"))
            await worker.finish(job_id)
            assert (await worker.hear("Error"))["code"] == "storage_full"
            for _ in range(20):
                await asyncio.sleep(2)
                await sweep(served.services)
            assert (await served.job(Q, job_id)).state is State.QUEUED


def _fail_once(served: InProcess, error: Exception) -> None:
    jobs: Any = served.services.jobs

    async def fail(*args: Any, **options: Any) -> None:
        del jobs.save
        raise error

    jobs.save = fail


async def test_a_registration_that_is_too_large_to_show_to_everybody_is_refused(served: InProcess) -> None:
    async with served.watch(Q) as client, served.old_worker(Q, register=False) as worker:
        await worker.register(junk="x" * 100_000)
        assert (await worker.hear("Error"))["code"] == "limit_exceeded"
        await worker.register()
        assert len((await client.hear("Workers"))["workers"]) == 1


async def test_a_request_for_a_host_that_is_none_opens_no_socket(served: InProcess) -> None:
    async with served.connect(f"/q/{Q}/client", headers={"Host": "]"}) as peer:
        assert await peer.closed() == 1008
        assert not peer.connection.accepted


async def test_two_jobs_submitted_at_once_wake_two_idle_workers() -> None:
    async with in_process() as served:
        for number in range(5):
            queue = f"queue-of-two-workers-{number}"
            async with served.worker(queue, "one") as one, served.worker(queue, "two") as two:
                for name in ("a", "b"):
                    await served.submit(queue, hello(name))
                for worker in (one, two):
                    await worker.hear("Assign", within_s=3.0)


class _Away:
    """A store that cannot be reached: what is asked of it fails until it ``is_back``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, served: InProcess, *methods: str) -> None:
        self._patch = monkeypatch
        self.asked, self.asked_again = 0, asyncio.Event()

        async def away(*args: object, **more: object) -> None:
            self.asked += 1
            if self.asked == 3:
                self.asked_again.set()
            raise Unavailable("the store is away")

        for method in methods:
            monkeypatch.setattr(served.services.jobs, method, away)

    def is_back(self) -> None:
        self._patch.undo()


async def test_a_worker_waits_for_a_store_that_is_away(served: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served.worker(Q, jobs=0) as worker:
        away = _Away(monkeypatch, served, "counts")
        await worker.ready(1)
        with skipping_time(served.clock):
            await asyncio.wait_for(away.asked_again.wait(), 60)
            away.is_back()
            job_id = await served.submit(Q, ECHO)
            assert (await worker.hear("Assign", within_s=30))["jobId"] == job_id


async def test_a_watcher_waits_for_a_store_that_is_away(served: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served.watch(Q) as client:
        job_id = await served.submit(Q, ECHO)
        await client.hear_job(job_id)
        away = _Away(monkeypatch, served, "list")
        served.channel(Q).catch_up()
        with skipping_time(served.clock):
            await asyncio.wait_for(away.asked_again.wait(), 60)
            away.is_back()
            shown = await client.hear("JobStates", within_s=30)
            assert job_id in shown["state"]["jobs"]
