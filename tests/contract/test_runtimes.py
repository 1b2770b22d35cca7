"""One set of cases, by URL alone, against every runtime that the app is served in: what proves that they are one app.

``ASMAN_TEST_URL`` adds a server that runs elsewhere, and then only that one is asked. The last test prints how many
cases ran in each runtime and holds the numbers against each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from asman.identity import known_id
from edge import edge_served, workerd_served
from in_process import ECHO, finished_value, hello
from remote import Answer, Remote, remote
from served import served

NOBODY = "f" * 64

BRIEF = {"ASMAN_LEASE": "2s", "ASMAN_RENEW": "1s", "ASMAN_SWEEP": "0.2s", "ASMAN_LISTED": "1s"}
BRIEF |= {"ASMAN_RECONNECT_GRACE": "1s", "ASMAN_EXPIRE_AFTER": "6s"}
"""A server on which time matters: its times are short enough to be waited for."""


# --- runtimes --------------------------------------------------------------------------------------------------------

Start = Callable[[pytest.FixtureRequest, Path, Mapping[str, str]], AbstractContextManager[str]]


@contextmanager
def _hypercorn(request: pytest.FixtureRequest, cwd: Path, environ: Mapping[str, str]) -> Iterator[str]:
    with served("--backend", "memory", cwd=cwd, **environ) as server:
        yield server.url


@contextmanager
def _node(request: pytest.FixtureRequest, cwd: Path, environ: Mapping[str, str]) -> Iterator[str]:
    with edge_served(request.getfixturevalue("edge_bundle"), cwd=cwd, **environ) as server:
        yield server.url


def _workerd(**stores: str) -> Start:
    @contextmanager
    def start(request: pytest.FixtureRequest, cwd: Path, environ: Mapping[str, str]) -> Iterator[str]:
        with workerd_served(request.getfixturevalue("edge_bundle"), cwd=cwd, **stores, **environ) as server:
            yield server.url

    return start


@contextmanager
def _given(request: pytest.FixtureRequest, cwd: Path, environ: Mapping[str, str]) -> Iterator[str]:
    if environ:
        pytest.skip("the times of a server that runs elsewhere are its own")
    yield os.environ["ASMAN_TEST_URL"].rstrip("/")


RUNTIMES: dict[str, Start] = {
    "hypercorn": _hypercorn,
    "pyodide-node": _node,
    "workerd": _workerd(ASMAN_BACKEND="memory"),
    "workerd-d1": _workerd(ASMAN_BACKEND="d1://JOBS"),
    "workerd-durable": _workerd(ASMAN_BACKEND="durable://JOBS"),
}
if "ASMAN_TEST_URL" in os.environ:
    RUNTIMES = {"given": _given}

_NO_SOCKETS = {
    "test_a_callback_is_accepted": "callbacks go out through sockets, which Python in wasm does not have",
}
_CLOUDFLARE = _NO_SOCKETS | {
    "test_a_host_that_is_no_name_is_refused": "workerd answers 500 before it asks the Worker; Cloudflare's edge 400",
    "test_a_follower_that_leaves_is_noticed": "workerd says so at the next write: up to 15 s later, with the heartbeat",
}
EXCLUDED: dict[str, dict[str, str]] = {"pyodide-node": _NO_SOCKETS}
_OBJECTS = _CLOUDFLARE | {
    "test_a_socket_that_closes_is_noticed": "/metrics counts the sockets of the object that is asked",
}
_OWN_STORAGE = _OBJECTS | {
    "test_metrics_count_jobs_by_state": "/metrics counts the jobs of the object that is asked",
}
EXCLUDED |= {"workerd": _CLOUDFLARE, "workerd-d1": _OBJECTS, "workerd-durable": _OWN_STORAGE}
"""Cases that a runtime cannot pass, and why. At most one in twenty."""

RAN: defaultdict[str, set[str]] = defaultdict(set)


@pytest.fixture(scope="module", params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RUNTIMES[runtime](request, tmp_path_factory.mktemp("runtime"), {}) as address:
        yield address


@pytest.fixture(scope="module")
def brief_url(request: pytest.FixtureRequest, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RUNTIMES[runtime](request, tmp_path_factory.mktemp("brief"), BRIEF) as address:
        yield address


@pytest.fixture
def counted(request: pytest.FixtureRequest, runtime: str) -> Iterator[None]:
    reason = EXCLUDED.get(runtime, {}).get(request.node.originalname)
    if reason is not None:
        pytest.skip(f"{runtime}: {reason}")
    yield
    RAN[runtime].add(request.node.name.replace(runtime, "").replace("[-", "[").replace("[]", ""))


@pytest.fixture
async def server(counted: None, url: str) -> AsyncIterator[Remote]:
    async with remote(url) as asked:
        yield asked


@pytest.fixture
async def brief(counted: None, brief_url: str) -> AsyncIterator[Remote]:
    async with remote(brief_url) as asked:
        yield asked


def fresh(**members: Any) -> dict[str, Any]:
    """A definition that no other test has: lookups by id alone see all queues of a server."""
    return hello(uuid.uuid4().hex, **members)


def key_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- submit and ids --------------------------------------------------------------------------------------------------


async def test_a_submit_answers_with_the_id_that_the_definition_has(server: Remote) -> None:
    definition = fresh()
    answer = await server.call("POST", f"/q/{server.queue}", {"definition": definition})
    expected = {"success": True, "jobId": known_id(definition), "cached": False, "state": "Queued"}
    assert (answer.status, answer.json) == (200, expected)
    again = await server.call("POST", f"/q/{server.queue}/j", {"definition": definition})
    assert (again.status, again.json["jobId"]) == (200, known_id(definition))


async def test_a_stated_id_is_taken_if_it_is_right(server: Remote) -> None:
    definition = fresh()
    assert await server.submit(definition, id=known_id(definition)) == known_id(definition)


async def test_a_stated_id_that_is_wrong_stores_nothing(server: Remote) -> None:
    answer = await server.call("POST", f"/q/{server.queue}", {"definition": fresh(), "id": NOBODY})
    assert (answer.status, answer.json["code"]) == (422, "id_mismatch")
    assert await server.listing() == {}


async def test_unknown_members_of_a_definition_are_kept_with_a_warning(server: Remote) -> None:
    answer = await server.call("POST", f"/q/{server.queue}", {"definition": fresh(colour="blue")})
    assert "colour" in str(answer.json["warnings"])
    found = await server.get(f"/j/{answer.json['jobId']}/definition.json")
    assert found["data"]["colour"] == "blue"


async def test_text_of_every_script_comes_back_as_it_was(server: Remote) -> None:
    definition = fresh(env={"Ä": "ö€𝄞", "N": "1"}, unheardOf={"kept": [1, None, 1.5, True]})
    job_id = await server.submit(definition)
    assert (await server.get(f"/j/{job_id}/definition.json"))["data"] == definition


async def test_a_large_definition_goes_through(server: Remote) -> None:
    definition = fresh(env={f"N{n}": "x" * 50_000 for n in range(20)})
    job_id = await server.submit(definition)
    assert (await server.get(f"/j/{job_id}/definition.json"))["data"] == definition


async def test_a_body_beyond_the_limit_is_refused(server: Remote) -> None:
    answer = await server.call("POST", f"/q/{server.queue}", b" " * (17 << 20))
    assert (answer.status, answer.json["code"]) == (413, "limit_exceeded")


async def test_a_body_that_comes_in_pieces_is_read_whole(server: Remote) -> None:
    definition = fresh()

    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps({"definition": definition}).encode():
            yield bytes([byte])

    answer = await server.call("POST", f"/q/{server.queue}", pieces())
    assert (answer.status, answer.json["jobId"]) == (200, known_id(definition))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"null", 400, "bad_request"),
        (b"\xff\xfe", 400, "bad_json"),
        (b'{"definition": {"image": NaN}}', 400, "bad_json"),
        (b'{"definition": {"image": "a"}, "x": 1}', 400, "bad_request"),
        (b'{"definition": {}}', 422, "bad_definition"),
        (b'{"definition": {"image": "a", "maxDuration": "soon"}}', 422, "bad_definition"),
        (b"[" * 5000, 413, "limit_exceeded"),
    ],
    ids=["empty", "cut", "null", "not-utf8", "nan", "unknown-member", "no-image", "bad-member", "too-deep"],
)
async def test_a_body_that_cannot_be_taken_has_its_answer(server: Remote, body: bytes, status: int, code: str) -> None:
    answer = await server.call("POST", f"/q/{server.queue}", body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["hint"]
    assert answer.json["error"]
    assert await server.listing() == {}


@pytest.mark.parametrize("queue", ["a%20b", "x" * 129, "%00", "a%3Cb"], ids=["space", "long", "nul", "bracket"])
async def test_a_name_that_no_queue_can_have_is_refused(server: Remote, queue: str) -> None:
    url = URL(f"{server.url}/q/{queue}", encoded=True)
    async with server.session.post(url, data=json.dumps({"definition": ECHO})) as response:
        assert (response.status, (await response.json())["code"]) == (400, "bad_name")


async def test_a_dry_run_stores_nothing_and_says_who_would_take_it(server: Remote) -> None:
    path = f"/q/{server.queue}?dry_run=1"
    said = (await server.call("POST", path, {"definition": fresh()})).json
    assert (said["dryRun"], said["cached"], said["wouldRun"], said["workers"]) == (True, False, False, 0)
    async with server.worker(jobs=0, cpus=2):
        assert (await server.call("POST", path, {"definition": fresh()})).json["fitting"] == ["w1"]
        big = fresh(requirements={"cpus": 9})
        assert not (await server.call("POST", path, {"definition": big})).json["wouldRun"]
    assert await server.listing() == {}


async def test_a_caller_may_wait_for_the_result(server: Remote) -> None:
    definition = fresh()
    body, wait = {"definition": definition}, {"Prefer": "wait=30"}
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(server.call("POST", f"/q/{server.queue}", body, headers=wait))
        async with server.worker() as worker:
            await worker.finish(await worker.hear("Assign"), code=4)
            answer = await asked
    assert (answer.json["state"], answer.json["job"]["outcome"]) == ("Finished", "failed")
    assert answer.json["data"]["finished"]["result"]["StatusCode"] == 4
    assert answer.headers["Preference-Applied"] == "wait=30"


async def test_a_wait_that_ends_before_the_job_says_where_it_is(server: Remote) -> None:
    headers = {"Prefer": "wait=1"}
    said = (await server.call("POST", f"/q/{server.queue}", {"definition": fresh()}, headers=headers)).json
    assert (said["state"], "data" in said) == ("Queued", False)


async def test_a_finished_job_answers_the_same_submit_in_its_queue_only(server: Remote) -> None:
    definition = fresh()
    await server.finish(await server.submit(definition))
    again = await server.call("POST", f"/q/{server.queue}", {"definition": definition})
    assert (again.json["cached"], again.json["state"]) == (True, "Finished")
    elsewhere = await server.call("POST", f"/q/{server.queue}-other", {"definition": definition})
    assert (elsewhere.json["cached"], elsewhere.json["state"]) == (False, "Queued")


async def test_a_newer_job_of_a_namespace_replaces_the_older_one(server: Remote) -> None:
    first = await server.submit(fresh(), control={"namespace": "doc"})
    second = await server.submit(fresh(), control={"namespace": "doc"})
    assert (await server.record(first))["job"]["finishedReason"] == "JobReplacedByClient"
    assert (await server.listing())[second]["state"] == "Queued"


async def test_a_callback_is_accepted(server: Remote) -> None:
    callbacks = {"finished": {"url": "https://receiver.example/done", "payload": {"n": 1}}}
    await server.submit(fresh(), control={"callbacks": callbacks})


# --- lookup, listing -------------------------------------------------------------------------------------------------


async def test_a_lookup_gives_the_definition_and_once_finished_the_whole_record(server: Remote) -> None:
    definition = fresh()
    job_id = await server.submit(definition)
    paths = (f"/j/{job_id}", f"/j/{job_id}.json", f"/q/{server.queue}/j/{job_id}")
    for path in paths:
        assert "results" not in (await server.get(path))["data"]
    await server.finish(job_id, code=3)
    for path in paths:
        data = (await server.get(path))["data"]
        assert data["definition"] == definition
        results = data["results"]
        assert (results["state"], results["finishedReason"], results["outcome"]) == ("Finished", "Success", "failed")
        assert results["finished"] == finished_value(f"passing-{job_id[:4]}", 3)
    for path in (f"/j/{job_id}/result.json", f"/q/{server.queue}/j/{job_id}/results.json"):
        assert (await server.get(path))["data"] == results


async def test_unknown_and_unfinished_are_two_answers(server: Remote) -> None:
    job_id = await server.submit(fresh())
    assert (await server.get(f"/j/{NOBODY}", 404))["code"] == "job_not_found"
    assert (await server.get(f"/q/{server.queue}/j/{NOBODY}", 404))["error"] == "Job not found"
    assert (await server.get(f"/j/{job_id}/result.json"))["data"] is None
    assert (await server.get(f"/j/{NOBODY}/definition.json"))["data"] is None
    assert (await server.get(f"/j/{job_id}/outputs/x", 404))["code"] == "not_finished"


async def test_a_lookup_through_another_queue_does_not_find_the_job(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.get(f"/q/{server.queue}-other/j/{job_id}", 404)


async def test_a_lookup_by_id_alone_never_says_the_queue(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.finish(job_id, outputs={"o": {"type": "utf8", "value": "x"}})
    for path in ("", ".json", "/definition.json", "/result.json", "/outputs/o", "/run-logs.json"):
        answer = await server.call("GET", f"/j/{job_id}{path}")
        assert answer.status == 200
        assert server.queue not in answer.body.decode() + str(answer.headers)


async def test_the_listing_shows_each_job_with_its_state(server: Remote) -> None:
    assert await server.listing() == {}
    first, second = await server.submit(fresh()), await server.submit(fresh())
    async with server.worker() as worker:
        assert (await worker.hear("Assign"))["jobId"] == first
        listed = await server.listing()
    assert {job_id: record["state"] for job_id, record in listed.items()} == {first: "Running", second: "Queued"}
    assert (await server.get(f"/q/{server.queue}/j"))["data"].keys() == listed.keys()


async def test_the_status_asks_the_workers(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.old_worker("asked") as worker:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(server.get(f"/q/{server.queue}/status"))
            await worker.hear("StatusRequest")
            answer = {"time": 7, "id": "asked", "cpus": 2, "gpus": 0, "queue": {}}
            await worker.say("WorkerStatusResponse", answer)
    said = asked.result()
    assert list(said["jobs"]) == [job_id]
    assert said["localWorkers"]["asked"]["time"] == 7
    assert said["queueInfo"]["localWorkerCount"] == 1


async def test_the_last_hour_of_a_queue_counts_what_happened(server: Remote) -> None:
    await server.finish(await server.submit(fresh()))
    await server.submit(fresh())
    said = await server.get(f"/q/{server.queue}/history")
    assert (said["queued"], said["hour"]["submitted"], said["hour"]["started"]) == (1, 2, 1)


async def test_why_tells_the_place_and_holds_each_worker_against_each_rule(server: Remote) -> None:
    await server.submit(fresh(requirements={"cpus": 8}))
    job_id = await server.submit(fresh(requirements={"gpus": 1}))
    async with server.worker("small", jobs=1):
        said = (await server.get(f"/q/{server.queue}/j/{job_id}/why"))["data"]
    assert (said["state"], said["position"]) == ("Queued", 1)
    assert [(w["id"], w["fits"]) for w in said["workers"]] == [("small", False)]
    assert said["reason"]
    await server.get(f"/q/{server.queue}/j/{NOBODY}/why", 404)


async def test_the_attempts_of_a_job_are_told(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.finish(job_id)
    (attempt,) = (await server.get(f"/q/{server.queue}/j/{job_id}/history.json"))["data"]
    assert (attempt["attempt"], attempt["worker"]) == (1, f"passing-{job_id[:4]}")


# --- cancel, delete, copy --------------------------------------------------------------------------------------------


async def test_cancelling_is_by_namespace_and_says_what_is_so(server: Remote) -> None:
    definition = fresh()
    job_id = await server.submit(definition, control={"namespace": "n1"})
    await server.submit(definition, control={"namespace": "n2"})
    path = f"/q/{server.queue}/j/{job_id}"
    assert (await server.call("POST", f"{path}/cancel")).json["namespaces"] == ["n1", "n2"]
    left = (await server.call("POST", f"{path}/cancel?namespace=n1")).json
    expected = {"success": True, "jobId": job_id, "namespace": "n1", "state": "Queued", "namespaces": ["n2"]}
    assert left == expected
    assert (await server.get(f"{path}/namespaces.json"))["data"] == ["n2"]
    assert (await server.call("POST", f"{path}/n2/cancel")).json["state"] == "Finished"
    assert (await server.call("POST", f"{path}/cancel")).json["message"] == "Job already Finished"
    unknown = await server.call("POST", f"/q/{server.queue}/j/{NOBODY}/cancel")
    assert (unknown.status, unknown.json) == (200, {"message": "Job not found"})


async def test_a_cancelled_job_is_revoked_and_its_late_result_refused(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        await server.call("POST", f"/q/{server.queue}/j/{job_id}/cancel")
        assert await worker.hear("Revoke") == {"jobId": job_id, "attempt": 1, "reason": "Cancelled"}
        assert (await worker.finish(given))["accepted"] is False
    assert (await server.get(f"/q/{server.queue}/j/{job_id}/result.json"))["data"] is None


async def test_a_deleted_job_is_gone(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.finish(job_id, extra="x" * 50_000)
    path = f"/q/{server.queue}/j/{job_id}"
    answer = await server.call("DELETE", path)
    assert answer.json == {"success": True, "jobId": job_id, "state": "Finished", "namespaces": []}
    assert await server.listing() == {}
    await server.get(f"/j/{job_id}", 404)
    assert (await server.call("DELETE", path)).status == 404


async def test_deleting_for_a_namespace_that_does_not_hold_it_is_refused(server: Remote) -> None:
    job_id = await server.submit(fresh())
    answer = await server.call("DELETE", f"/q/{server.queue}/j/{job_id}?namespace=other")
    assert (answer.status, answer.json["code"]) == (409, "transition_refused")


async def test_a_copy_takes_the_result_along(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.finish(job_id, outputs={"o": {"type": "utf8", "value": "x" * 60_000}})
    target = f"{server.queue}-target"
    answer = await server.call("POST", f"/j/{job_id}/copy", {"queue": target})
    assert answer.json == {"success": True, "jobId": job_id, "cached": True}
    await server.call("DELETE", f"/q/{server.queue}/j/{job_id}")
    assert (await server.call("GET", f"/q/{target}/j/{job_id}/outputs/o")).body == b"x" * 60_000


async def test_a_copy_of_what_is_not_there_or_to_nowhere_is_refused(server: Remote) -> None:
    assert (await server.call("POST", f"/j/{NOBODY}/copy", {"queue": "somewhere"})).status == 404
    job_id = await server.submit(fresh())
    assert (await server.call("POST", f"/j/{job_id}/copy", {})).status == 400


# --- blobs -----------------------------------------------------------------------------------------------------------


async def _stored(server: Remote, data: bytes) -> str:
    key = key_of(data)
    answer = await server.call("PUT", f"/f/{key}", data)
    assert (answer.status, answer.json["key"], answer.json["size"]) == (200, key, len(data))
    return key


async def test_a_blob_goes_in_and_comes_back(server: Remote) -> None:
    data = os.urandom(10_000)
    assert (await server.get(f"/f/{key_of(data)}/exists", 404)) == {"exists": False}
    key = await _stored(server, data)
    assert (await server.get(f"/f/{key}/exists")) == {"exists": True}
    answer = await server.call("GET", f"/f/{key}")
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["ETag"] == f'"{key}"'
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Content-Length"] == "10000"


@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("bytes=10-19", 10, 20), ("bytes=990-", 990, 1000), ("bytes=-5", 995, 1000)]
)
async def test_a_part_of_a_blob_can_be_had(server: Remote, asked: str, start: int, stop: int) -> None:
    data = os.urandom(1000)
    answer = await server.call("GET", f"/f/{await _stored(server, data)}", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, data[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1000"


async def test_a_part_that_is_not_there_is_refused(server: Remote) -> None:
    answer = await server.call("GET", f"/f/{await _stored(server, b'short')}", headers={"Range": "bytes=99-"})
    assert (answer.status, answer.json["code"]) == (416, "range_refused")


async def test_head_brings_the_length_and_no_bytes(server: Remote) -> None:
    answer = await server.call("HEAD", f"/f/{await _stored(server, os.urandom(70_000))}")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "70000")


async def test_a_known_etag_brings_no_bytes_and_the_connection_goes_on(server: Remote) -> None:
    key = await _stored(server, b"known")
    for _ in range(3):
        answer = await server.call("GET", f"/f/{key}", headers={"If-None-Match": f'"{key}"'})
        assert (answer.status, answer.body) == (304, b"")


async def test_bytes_that_are_not_those_of_the_key_are_refused(server: Remote) -> None:
    key = key_of(b"what was meant")
    answer = await server.call("PUT", f"/f/{key}", b"what came")
    assert (answer.status, answer.json["code"]) == (422, "hash_mismatch")
    await server.get(f"/f/{key}", 404)


async def test_a_key_that_is_free_keeps_its_first_bytes(server: Remote) -> None:
    key = f"notes-{uuid.uuid4().hex}.txt"
    assert (await server.call("PUT", f"/f/{key}", b"one")).status == 200
    assert (await server.call("PUT", f"/f/{key}", b"two")).json["code"] == "conflict"
    assert (await server.call("GET", f"/f/{key}")).body == b"one"


async def test_an_empty_blob_is_a_blob(server: Remote) -> None:
    answer = await server.call("GET", f"/f/{await _stored(server, b'')}")
    assert (answer.status, answer.body) == (200, b"")


async def test_eight_mebibytes_are_streamed_in_and_out(server: Remote) -> None:
    data = os.urandom(8 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    answer = await server.call("PUT", f"/f/{key_of(data)}", pieces())
    assert (answer.status, answer.json["size"]) == (200, 8 << 20)
    assert key_of((await server.call("GET", f"/f/{key_of(data)}")).body) == key_of(data)


async def test_a_reader_that_is_slow_gets_everything(server: Remote) -> None:
    data = os.urandom(4 << 20)
    got = hashlib.sha256()
    async with server.session.get(f"{server.url}/f/{await _stored(server, data)}") as response:
        while piece := await response.content.read(1 << 18):
            got.update(piece)
            await asyncio.sleep(0.01)
    assert got.hexdigest() == key_of(data)


async def test_an_upload_that_breaks_off_leaves_nothing(server: Remote) -> None:
    """Under a free key, which has no hash that would tell a part from the whole."""
    key = f"cut-{uuid.uuid4().hex}"
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT /f/{key} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"x" * 100_000)
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.transport.abort()
    for _ in range(10):
        await server.get(f"/f/{key}", 404)
        await asyncio.sleep(0.05)
    assert (await server.call("PUT", f"/f/{key}", b"something else")).status == 200


async def test_a_name_chooses_type_and_disposition_and_nothing_dangerous(server: Remote) -> None:
    key = await _stored(server, b"bytes of somebody")
    assert (await server.call("GET", f"/f/{key}?name=a.png")).headers["Content-Type"] == "image/png"
    asked = await server.call("GET", f"/f/{key}?name=a.html")
    assert asked.headers["Content-Type"] == "application/octet-stream"
    assert asked.headers["Content-Security-Policy"].startswith("sandbox;")


async def test_inputs_and_outputs_are_served_by_name(server: Remote) -> None:
    key = await _stored(server, b"the input's bytes")
    inputs = {"a b/ü.txt": {"type": "utf8", "value": "grüße\n"}, "k": {"type": "key", "value": key}}
    job_id = await server.submit(fresh(inputs=inputs))
    await server.finish(job_id, outputs={"o.bin": {"type": "base64", "value": "AAEC"}})
    assert (await server.call("GET", f"/j/{job_id}/inputs/a%20b/%C3%BC.txt")).body == "grüße\n".encode()
    assert (await server.call("GET", f"/j/{job_id}/outputs/o.bin")).body == b"\x00\x01\x02"
    there = await server.call("GET", f"/j/{job_id}/inputs/k")
    assert (there.status, there.headers["Location"]) == (302, f"{server.url}/f/{key}?name=k")
    assert (await server.get(f"/j/{job_id}/outputs/nope", 404))["code"] == "file_not_found"
    await server.get(f"/j/{job_id}/outputs/", 400)


# --- lines and following ---------------------------------------------------------------------------------------------


def _texts(lines: list[Any]) -> list[str]:
    return [line[0] for line in lines]


async def test_lines_can_be_had_in_slices(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "pull", seq=0, step="docker image pull")
        await worker.log(given, "a", "b", "c", seq=1)
        await worker.settle()
        path = f"/q/{server.queue}/j/{job_id}"
        page = await server.get(f"{path}/run-logs.json?since=1")
        assert (_texts(page["data"]), page["sliceStart"], page["nextCursor"]) == (["b", "c"], 1, 3)
        assert page["isFinal"] is False
        assert _texts((await server.get(f"{path}/build-logs.json"))["data"]) == ["pull"]
        await server.get(f"{path}/run-logs.json?since=soon", 400)


async def test_lines_that_are_said_again_are_kept_once(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "0", "1", seq=0)
        await worker.log(given, "1", "2", seq=1)
        await worker.settle()
    page = await server.get(f"/q/{server.queue}/j/{job_id}/run-logs.json")
    assert _texts(page["data"]) == ["0", "1", "2"]


async def test_a_life_is_told_as_it_happens(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.follow(job_id) as reader:
        assert (await reader.next()).data["state"] == "Queued"
        async with server.worker() as worker:
            given = await worker.hear("Assign")
            assert (await reader.next()).data["state"] == "Running"
            await worker.log(given, "pulling\n", seq=0, step="docker image pull")
            event = await reader.next()
            assert (event.kind, event.event_id, event.data["cursor"]) == ("build-log", "1-1-0", 1)
            await worker.log(given, "a\n", "b\n", seq=1)
            event = await reader.next()
            assert (event.kind, event.event_id, _texts(event.data["lines"])) == ("run-log", "1-1-2", ["a\n", "b\n"])
            await worker.finish(given, code=3)
        final = await reader.until("final")
    assert (final.data["state"], final.data["outcome"], final.data["exitCode"]) == ("Finished", "failed", 3)


async def test_a_reader_that_lost_its_line_goes_on_where_it_was(server: Remote) -> None:
    job_id = await server.submit(fresh())
    got: list[str] = []
    last = ""
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        for n in range(5):
            await worker.log(given, f"{n}-a", f"{n}-b", seq=2 * n)
            await worker.settle()
            async with server.follow(job_id, last=last) as reader:
                event = await reader.until("run-log")
                got += _texts(event.data["lines"])
                last = event.event_id
    assert got == [f"{n}-{half}" for n in range(5) for half in "ab"]


async def test_a_finished_job_is_told_in_one_go_and_the_stream_ends(server: Remote) -> None:
    job_id = await server.submit(fresh())
    await server.finish(job_id)
    answer = await server.call("GET", f"/q/{server.queue}/j/{job_id}/stream")
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("text/event-stream", "no-cache")
    kinds = [line for line in answer.body.decode().split("\n") if line.startswith("event")]
    assert kinds == ["event: state", "event: final"]


async def test_a_follower_that_leaves_is_noticed(server: Remote) -> None:
    job_id = await server.submit(fresh())
    before = await server.metric("asman_open_queues")
    async with server.follow(job_id) as reader:
        await reader.next()
        assert await server.metric("asman_open_queues") == before + 1

    async def is_noticed() -> bool:
        return await server.metric("asman_open_queues") == before

    await server.until(is_noticed)


# --- workers of protocol 2 -------------------------------------------------------------------------------------------


async def test_a_worker_is_given_a_job_acknowledged_and_done(server: Remote) -> None:
    definition = fresh()
    async with server.worker() as worker:
        assert (worker.welcome["protocol"], worker.welcome["lease_s"], worker.welcome["renew_s"]) == (2, 30.0, 10.0)
        job_id = await server.submit(definition)
        given = await worker.hear("Assign")
        assert (given["jobId"], given["attempt"], given["definition"]) == (job_id, 1, definition)
        assert given["lease_until"] > given["queuedTime"]
        ack = await worker.finish(given, code=3, outputs={"o": {"type": "utf8", "value": "out"}})
        assert ack == {"jobId": job_id, "attempt": 1, "accepted": True}
    assert (await server.call("GET", f"/q/{server.queue}/j/{job_id}/outputs/o")).body == b"out"


async def test_a_worker_that_is_not_ready_is_given_nothing(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker(jobs=0) as worker:
        assert "Assign" not in [frame["type"] for frame in await worker.settle()]
        await worker.ready(1)
        assert (await worker.hear("Assign"))["jobId"] == job_id


async def test_jobs_that_fit_are_given_in_the_order_they_came(server: Remote) -> None:
    ids = [await server.submit(fresh(requirements={"cpus": cpus})) for cpus in (4, 1, 2, 1)]
    async with server.worker(jobs=5, cpus=3) as worker:
        assert [(await worker.hear("Assign"))["jobId"] for _ in range(2)] == ids[1:3]
        await worker.settle()
        listed = await server.listing()
        assert (listed[ids[0]]["state"], listed[ids[3]]["state"]) == ("Queued", "Queued")


async def test_fifty_claims_at_once_are_fifty_jobs(server: Remote) -> None:
    async with AsyncExitStack() as stack:
        entering = (stack.enter_async_context(server.worker(f"w{n}", jobs=0)) for n in range(50))
        workers = [await worker for worker in entering]
        ids = [await server.submit(fresh()) for _ in range(50)]
        await asyncio.gather(*(worker.ready(1) for worker in workers))
        given = await asyncio.gather(*(worker.hear("Assign") for worker in workers))
        assert sorted(one["jobId"] for one in given) == sorted(ids)
        acks = await asyncio.gather(*(w.finish(one) for w, one in zip(workers, given, strict=True)))
    assert all(ack["accepted"] for ack in acks)
    assert {record["state"] for record in (await server.listing()).values()} == {"Finished"}


async def test_a_worker_that_renews_is_told_what_it_lost(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker() as worker:
        await worker.hear("Assign")
        await worker.say("Renew", {"jobs": {job_id: 1, NOBODY: 1}})
        assert await worker.hear("Renewed") == {"lost": [NOBODY]}


async def test_a_report_that_is_repeated_is_acknowledged_and_another_is_refused(server: Remote) -> None:
    await server.submit(fresh())
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        assert (await worker.finish(given))["accepted"]
        assert (await worker.finish(given))["accepted"]
        ack = await worker.finish(given, code=1)
    assert (ack["accepted"], ack["code"]) == (False, "lease_lost")


async def test_after_a_reconnect_what_is_held_is_adopted(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker() as worker:
        given = await worker.hear("Assign")
    async with server.worker(jobs=0, holding={job_id: 1, NOBODY: 1}) as again:
        assert (again.welcome["adopted"], again.welcome["lost"]) == ({job_id: 1}, [NOBODY])
        assert (await again.finish(given))["accepted"]


async def test_a_draining_worker_hands_its_jobs_to_another(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.worker("leaves") as leaving, server.worker("stays", jobs=0) as staying:
        await leaving.hear("Assign")
        await staying.ready(1)
        await leaving.say("Goodbye", {"jobs": {job_id: 1}})
        assert await leaving.hear("Released") == {"jobs": [job_id]}
        assert (await staying.hear("Assign"))["attempt"] == 2


async def test_the_newest_connection_of_a_worker_counts(server: Remote) -> None:
    async with server.worker() as old, server.worker() as new:
        assert await old.closed() == 4409
        await server.submit(fresh())
        assert (await new.finish(await new.hear("Assign")))["accepted"]


async def test_a_registration_that_cannot_be_read_is_refused_and_another_may_follow(server: Remote) -> None:
    async with server.connect(f"/q/{server.queue}/worker?protocol=2") as peer:
        known = {"id": "w1", "protocol": 2, "capacity": {"cpus": 1}, "holding": {}}
        await peer.say("WorkerRegistration", {**known, "protocol": 3})
        assert (await peer.hear("Error"))["code"] == "bad_message"
        await peer.say("WorkerRegistration", known)
        await peer.hear("Registered")


async def test_large_frames_go_both_ways(server: Remote) -> None:
    definition = fresh(env=dict.fromkeys("ABCDEF", "ä" * 60_000))
    job_id = await server.submit(definition)
    async with server.worker() as worker:
        given = await worker.hear("Assign")
        assert given["definition"] == definition
        await worker.finish(given, outputs={"o": {"type": "utf8", "value": "ö" * 300_000}})
    assert (await server.call("GET", f"/j/{job_id}/outputs/o")).body == ("ö" * 300_000).encode()


# --- workers of protocol 1 -------------------------------------------------------------------------------------------


async def test_an_old_worker_is_shown_the_queue_claims_and_finishes(server: Remote) -> None:
    async with server.watch() as client, server.old_worker("old") as worker:
        definition = fresh()
        job_id = await server.submit(definition)
        assert (await worker.hear_job(job_id))["state"] == "Queued"
        await worker.say("RequestJobDefinitions", {"jobIds": [job_id]})
        told = await worker.hear("BroadcastJobDefinitions")
        assert told["definitions"] == {job_id: definition}
        await worker.claim(job_id)
        assert (await client.hear_job(job_id, "Running"))["worker"] == "old"
        await worker.log(job_id, "hi\n")
        assert (await client.hear("JobStatusPayload"))["logs"] == [["hi\n", 1]]
        await worker.finish(job_id, code=5)
        await client.hear_job(job_id, "Finished")
    results = (await server.get(f"/j/{job_id}"))["data"]["results"]
    assert (results["worker"], results["finished"]["result"]["StatusCode"]) == ("old", 5)


async def test_of_two_old_workers_one_gets_the_job(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.old_worker("a") as one, server.old_worker("b") as two:
        await asyncio.gather(one.claim(job_id), two.claim(job_id))
        first = await one.hear_job(job_id, "Running")
        second = await two.hear_job(job_id, "Running")
        assert first["worker"] == second["worker"]
        assert first["worker"] in ("a", "b")


async def test_a_ping_is_answered_with_the_workers_name_once_it_has_one(server: Remote) -> None:
    async with server.old_worker("named") as worker:
        await worker.settle()
        assert worker.heard[-1] == "PONG named"


# --- clients on a socket ---------------------------------------------------------------------------------------------


async def test_a_client_submits_watches_and_gives_up(server: Remote) -> None:
    definition = fresh()
    async with server.watch() as client:
        job_id = await client.submit(definition)
        assert (await client.hear_job(job_id))["state"] == "Queued"
        await client.give_up(job_id)
        assert (await client.hear_job(job_id, "Finished"))["finishedReason"] == "Cancelled"


async def test_a_client_sees_workers_come_and_go(server: Remote) -> None:
    async with server.watch() as client:
        async with server.worker("seen", jobs=0):
            told = await client.hear("Workers", lambda payload: payload["workers"])
            assert [worker["id"] for worker in told["workers"]] == ["seen"]


async def test_a_client_asks_for_one_job(server: Remote) -> None:
    job_id = await server.submit(fresh())
    async with server.watch() as client:
        await client.say("QueryJob", {"jobId": job_id})
        assert (await client.hear_job(job_id))["state"] == "Queued"


@pytest.mark.parametrize(
    "frame", ['{"type": 5}', '{"type": "Nonsense"}', '{"type": ', b"\x00\x01"], ids=["type", "unknown", "cut", "binary"]
)
async def test_a_frame_that_cannot_be_used_is_answered_and_the_socket_goes_on(
    server: Remote, frame: str | bytes
) -> None:
    async with server.watch() as client:
        await client.raw(frame)
        assert (await client.hear("Error"))["code"] in ("bad_message", "bad_json", "bad_request")
        await client.settle()


async def test_many_watchers_see_a_job_each(server: Remote) -> None:
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(server.watch()) for _ in range(20)]
        job_id = await server.submit(fresh())
        seen = await asyncio.gather(*(watcher.hear_job(job_id) for watcher in watchers))
    assert {record["state"] for record in seen} == {"Queued"}


async def _refused_socket(server: Remote, path: str, **headers: str) -> Answer:
    """What a handshake is answered with."""
    shake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    return await server.call("GET", path, headers={**shake, **key, **headers})


@pytest.mark.parametrize("path", ["/q/undefined/client", "/nothing/here/at/all", "/"])
async def test_a_socket_where_there_is_none_is_not_found(server: Remote, path: str) -> None:
    answer = await _refused_socket(server, path)
    assert (answer.status, answer.json["code"]) == (404, "route_not_found")


async def test_a_page_of_elsewhere_gets_no_socket_on_loopback(server: Remote) -> None:
    answer = await _refused_socket(server, f"/q/{server.queue}/client", Origin="https://elsewhere.example")
    assert (answer.status, answer.json["code"]) == (403, "origin_refused")


async def test_a_socket_that_closes_is_noticed(server: Remote) -> None:
    before = await server.metric("asman_clients")
    async with server.watch():
        assert await server.metric("asman_clients") == before + 1

    async def is_noticed() -> bool:
        return await server.metric("asman_clients") == before

    await server.until(is_noticed)


# --- the server itself -----------------------------------------------------------------------------------------------


async def test_health_and_readiness(server: Remote) -> None:
    assert (await server.call("GET", "/healthz")).body == b"OK"
    said = await server.get("/readyz")
    assert (said["ready"], said["checks"]) == (True, {"jobs": "ok", "blobs": "ok"})


async def test_metrics_count_jobs_by_state(server: Remote) -> None:
    queued = await server.metric('asman_jobs{state="queued"}')
    await server.submit(fresh())
    assert await server.metric('asman_jobs{state="queued"}') == queued + 1
    answer = await server.call("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert server.queue not in answer.body.decode()


async def test_a_queue_says_how_many_workers_it_wants(server: Remote) -> None:
    for _ in range(3):
        await server.submit(fresh())
    assert (await server.get(f"/q/{server.queue}/scale"))["desiredWorkers"] == 3
    assert "queue_length 3" in (await server.call("GET", f"/q/{server.queue}/metrics")).body.decode()


async def test_the_routes_are_described(server: Remote) -> None:
    described = await server.get("/openapi.json")
    assert described["openapi"].startswith("3.")
    assert {"/q/{queue}", "/f/{key}", "/q/{queue}/j/{jobId}/stream"} <= described["paths"].keys()
    assert described["servers"] == [{"url": server.url}]


async def test_the_front_says_in_words_what_this_is(server: Remote) -> None:
    answer = await server.call("GET", "/")
    assert (answer.status, answer.headers["Vary"]) == (200, "Accept")
    assert f"curl {server.url}/q/QUEUE" in answer.body.decode()


async def test_the_metaframe_is_described(server: Remote) -> None:
    answer = await server.call("GET", "/metaframe.json")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert answer.json["version"]


@pytest.mark.parametrize("path", ["/nope", "/q", "/j/", "/q/a/b/c/d", "/favicon.ico"])
async def test_what_is_not_there_is_not_found(server: Remote, path: str) -> None:
    assert (await server.get(path, 404))["code"] == "route_not_found"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/q/some-queue"), ("PATCH", "/healthz"), ("POST", "/f/k")])
async def test_another_method_is_refused(server: Remote, method: str, path: str) -> None:
    answer = await server.call(method, path)
    assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")


async def test_a_preflight_is_answered_on_every_path(server: Remote) -> None:
    for path in ("/q/some-queue", "/nothing/here"):
        answer = await server.call("OPTIONS", path, headers={"Access-Control-Request-Headers": "x-a, x-b"})
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["Access-Control-Allow-Headers"] == "x-a,x-b"
        assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]


async def test_every_answer_is_open_to_programs_and_its_own_pages(server: Remote) -> None:
    for path in ("/healthz", f"/j/{NOBODY}", f"/q/{server.queue}"):
        answer = await server.call("GET", path)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    own = await server.call("GET", "/healthz", headers={"Origin": server.url})
    assert own.headers["Access-Control-Allow-Origin"] == server.url


async def test_a_page_of_elsewhere_may_not_drive_a_server_on_loopback(server: Remote) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    answer = await server.call("POST", f"/q/{server.queue}", {"definition": fresh()}, headers=headers)
    assert (answer.status, answer.json["code"]) == (403, "origin_refused")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert await server.listing() == {}


async def test_a_server_on_loopback_answers_to_its_own_names_only(server: Remote) -> None:
    answer = await server.call("GET", "/healthz", headers={"Host": "rebound.example"})
    assert (answer.status, answer.json["code"]) == (403, "origin_refused")


async def test_a_host_that_is_no_name_is_refused(server: Remote) -> None:
    answer = await server.call("GET", "/healthz", headers={"Host": "a b<c>"})
    assert answer.status == 400


async def test_thirty_requests_at_once_are_all_answered(server: Remote) -> None:
    ids = await asyncio.gather(*(server.submit(fresh()) for _ in range(30)))
    assert (await server.listing()).keys() == {*ids}


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_silent_worker_loses_its_job_to_another(brief: Remote) -> None:
    job_id = await brief.submit(fresh())
    async with brief.worker("slow") as slow:
        stale = await slow.hear("Assign")
        revoked = await slow.hear("Revoke", within_s=15.0)
        assert (revoked["jobId"], revoked["attempt"]) == (job_id, 1)
        async with brief.worker("quick") as quick:
            new = await quick.hear("Assign")
            assert (new["jobId"], new["attempt"]) == (job_id, 2)
            ack = await slow.finish(stale, code=9)
            assert (ack["accepted"], ack["code"]) == (False, "lease_lost")
            assert (await quick.finish(new))["accepted"]


async def test_a_worker_that_went_away_gives_its_job_back_after_a_grace(brief: Remote) -> None:
    job_id = await brief.submit(fresh())
    async with brief.worker("gone") as gone:
        await gone.hear("Assign")
    async with brief.worker("next", jobs=1) as other:
        given = await other.hear("Assign", within_s=15.0)
        assert (given["jobId"], given["attempt"]) == (job_id, 2)


async def test_an_old_worker_keeps_its_job_while_its_socket_is_open(brief: Remote) -> None:
    job_id = await brief.submit(fresh())
    async with brief.old_worker("holds") as worker:
        await worker.claim(job_id)
        await worker.hear_job(job_id, "Running")
        await asyncio.sleep(3.0)
        assert (await brief.listing())[job_id]["state"] == "Running"


async def test_a_finished_job_leaves_the_listing_and_its_result_stays(brief: Remote) -> None:
    job_id = await brief.submit(fresh())
    await brief.finish(job_id)

    async def is_gone() -> bool:
        return await brief.listing() == {}

    await brief.until(is_gone)
    assert (await brief.get(f"/j/{job_id}"))["data"]["results"]["state"] == "Finished"


async def test_what_has_expired_is_said_to_have_expired(brief: Remote) -> None:
    job_id = await brief.submit(fresh())
    key = await _stored(brief, os.urandom(100))

    async def has_expired() -> bool:
        return (await brief.call("GET", f"/q/{brief.queue}/j/{job_id}")).status == 410

    await brief.until(has_expired)
    assert (await brief.get(f"/j/{job_id}/definition.json", 410))["code"] == "expired"

    async def blob_is_gone() -> bool:
        return (await brief.call("GET", f"/f/{key}")).status in (404, 410)

    await brief.until(blob_is_gone)


# --- the count -------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # which puts it behind all that it counts
def test_the_same_cases_ran_in_every_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    if len(RAN) < 2:
        pytest.skip("fewer than two runtimes were asked")
    everything = set().union(*RAN.values())
    counts = ", ".join(f"{name} {len(cases)}" for name, cases in RAN.items())
    excluded = {name: len(cases) for name, cases in EXCLUDED.items()}
    with capsys.disabled():
        print(f"\ncases run: {counts} (excluded: {excluded})")
    for name, cases in RAN.items():
        missing = {case.split("[")[0] for case in everything - cases}
        assert missing <= EXCLUDED.get(name, {}).keys(), f"{name} did not run {missing}"
    assert all(count <= len(everything) / 20 for count in excluded.values())
    names = {case.split("[")[0] for case in everything}
    assert all(case in names for cases in EXCLUDED.values() for case in cases), "an exclusion names no case"
