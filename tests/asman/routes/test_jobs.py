from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any
from urllib.parse import quote

import pytest

from asman.identity import known_id
from asman.maintenance import sweep
from in_process import ECHO, InProcess, finished_value, hello, in_process

Q = "jobs"
DAY = 86_400.0
NOBODY = "f" * 64


async def _done(served: InProcess, definition: Any = ECHO, queue: str = Q, **members: Any) -> str:
    job_id = await served.submit(queue, definition)
    await served.finish(queue, job_id, **members)
    return job_id


# --- lookup ----------------------------------------------------------------------------------------------------------


async def test_a_lookup_gives_the_definition_and_once_finished_the_whole_record(served: InProcess) -> None:
    definition = {**ECHO, "env": {"Ä": "ö", "N": "1"}, "unheardOf": {"kept": [1, None, 1.5]}}
    job_id = await served.submit(Q, definition)
    for path in (f"/j/{job_id}", f"/j/{job_id}.json", f"/q/{Q}/j/{job_id}"):
        data = (await served.get(path))["data"]
        assert data["definition"] == definition
        assert "results" not in data
    await served.finish(Q, job_id, code=3)
    for path in (f"/j/{job_id}", f"/j/{job_id}.json", f"/q/{Q}/j/{job_id}"):
        data = (await served.get(path))["data"]
        assert data["definition"] == definition
        results = data["results"]
        assert (results["state"], results["finishedReason"], results["outcome"]) == ("Finished", "Success", "failed")
        assert results["finished"] == finished_value(f"passing-{job_id[:4]}", 3)
        assert (results["attempt"], results["worker"]) == (1, f"passing-{job_id[:4]}")
    for path in ("result.json", "results.json"):
        for prefix in ("", f"/q/{Q}"):
            assert (await served.get(f"{prefix}/j/{job_id}/{path}"))["data"] == results


async def test_the_queues_own_lookup_shows_the_state_of_an_active_job(served: InProcess) -> None:
    job_id = await served.submit(Q)
    assert (await served.get(f"/q/{Q}/j/{job_id}"))["data"]["job"]["state"] == "Queued"
    assert "job" not in (await served.get(f"/j/{job_id}"))["data"]


async def test_unknown_unfinished_and_expired_are_three_answers(served: InProcess) -> None:
    job_id = await served.submit(Q)
    assert (await served.get(f"/j/{NOBODY}", 404))["code"] == "job_not_found"
    assert (await served.get(f"/q/{Q}/j/{NOBODY}", 404))["error"] == "Job not found"
    assert (await served.get(f"/j/{job_id}/result.json"))["data"] is None
    assert (await served.get(f"/j/{job_id}/definition.json"))["data"] == ECHO
    assert (await served.get(f"/j/{NOBODY}/definition.json"))["data"] is None
    assert (await served.get(f"/j/{NOBODY}/result.json"))["data"] is None
    served.clock.advance(30 * DAY)
    for path in (f"/j/{job_id}", f"/q/{Q}/j/{job_id}", f"/j/{job_id}/result.json", f"/j/{job_id}/definition.json"):
        assert (await served.get(path, 410))["code"] == "expired"


@pytest.mark.parametrize(
    "name", ["two\nlines.txt", "ends in one\n", "\t \x7f", "a/\u2028/b", ".\\..\\c", "%2f..%0a", "d?e=1#f"]
)
async def test_a_file_of_any_name_is_had(served: InProcess, name: str) -> None:
    job_id = await _done(served, outputs={name: {"type": "utf8", "value": "its text"}})
    for path in (f"/j/{job_id}", f"/q/{Q}/j/{job_id}"):
        answer = await served.client.get(f"{path}/outputs/{quote(name)}")
        assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "its text")
        assert not set(answer.headers["content-disposition"]) & set("\r\n\t")


async def test_a_lookup_through_another_queue_does_not_find_the_job(served: InProcess) -> None:
    job_id = await _done(served)
    await served.get(f"/q/other/j/{job_id}", 404)
    assert (await served.get(f"/q/other/j/{job_id}/result.json"))["data"] is None
    assert (await served.client.get(f"/q/other/j/{job_id}/outputs/x")).status_code == 404


async def test_a_lookup_by_id_alone_never_says_the_queue(served: InProcess) -> None:
    secret = "a-queue-name-nobody-can-guess"
    job_id = await _done(served, queue=secret, outputs={"o": {"type": "utf8", "value": "x"}})
    for path in ("", ".json", "/definition.json", "/result.json", "/outputs/o", "/run-logs.json", "/build-logs.json"):
        answer = await served.client.get(f"/j/{job_id}{path}")
        assert answer.status_code == 200
        assert secret not in (await answer.get_data()).decode() + str(answer.headers)


async def test_a_lookup_by_id_alone_gives_the_oldest_live_result(served: InProcess) -> None:
    for queue, code in (("first", 1), ("second", 2)):
        served.clock.advance(10)
        job_id = await served.submit(queue)
        await served.finish(queue, job_id, code=code)
    await served.submit("third")

    async def code() -> int:
        results = (await served.get(f"/j/{job_id}"))["data"]["results"]
        return int(results["finished"]["result"]["StatusCode"])

    assert await code() == 1
    await served.client.delete(f"/q/first/j/{job_id}")
    assert await code() == 2


async def test_the_answer_of_a_lookup_may_vary_by_what_the_caller_accepts(served: InProcess) -> None:
    job_id = await served.submit(Q)
    answer = await served.client.get(f"/j/{job_id}")
    assert "Accept" in answer.headers["Vary"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


# --- files -----------------------------------------------------------------------------------------------------------

BLOB = b"the bytes of a blob"
KEY = hashlib.sha256(BLOB).hexdigest()
FILES: dict[str, Any] = {
    "plain.txt": {"type": "utf8", "value": "grüße\n"},
    "untyped": {"value": "text"},
    "a b/ü.txt": {"type": "utf8", "value": "nested"},
    "b.bin": {"type": "base64", "value": "AAEC"},
    "nopad.bin": {"type": "base64", "value": "AAECAw"},
    "v.json": {"type": "json", "value": {"x": [1, None]}},
    "page.html": {"type": "base64", "value": base64.b64encode(b"<script>").decode()},
    "k": {"type": "key", "value": KEY},
    "u": {"type": "url", "value": f"http://localhost/f/{KEY}"},
    "elsewhere": {"type": "url", "value": f"https://other.example/f/{KEY}"},
    "foreign": {"type": "url", "value": "https://other.example/a/b/c.txt?x=1#y"},
    "constructor": {"type": "utf8", "value": "not a prototype"},
    "100%": {"type": "utf8", "value": "percent"},
}


@pytest.fixture(params=["inputs", "outputs"])
async def files(served: InProcess, request: pytest.FixtureRequest) -> str:
    """The path below which ``FILES`` are found."""
    await served.client.put(f"/f/{KEY}", data=BLOB)
    if request.param == "inputs":
        job_id = await served.submit(Q, hello("files", inputs=FILES))
    else:
        job_id = await _done(served, outputs=FILES)
    return f"/j/{job_id}/{request.param}"


@pytest.mark.parametrize(
    ("name", "data", "content_type"),
    [
        ("plain.txt", "grüße\n".encode(), "text/plain; charset=UTF-8"),
        ("untyped", b"text", "text/plain; charset=UTF-8"),
        ("a%20b/%C3%BC.txt", b"nested", "text/plain; charset=UTF-8"),
        ("b.bin", b"\x00\x01\x02", "application/octet-stream"),
        ("nopad.bin", b"\x00\x01\x02\x03", "application/octet-stream"),
        ("v.json", b'{"x":[1,null]}', "application/json; charset=UTF-8"),
        ("page.html", b"<script>", "application/octet-stream"),
        ("constructor", b"not a prototype", "text/plain; charset=UTF-8"),
        ("100%25", b"percent", "text/plain; charset=UTF-8"),
    ],
)
async def test_a_file_is_served_by_its_type_and_can_run_nowhere(
    served: InProcess, files: str, name: str, data: bytes, content_type: str
) -> None:
    for prefix in ("", f"/q/{Q}"):
        answer = await served.client.get(f"{prefix}{files}/{name}")
        assert answer.status_code == 200
        assert await answer.get_data() == data
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("k", f"http://localhost/f/{KEY}?name=k"),
        ("u", f"http://localhost/f/{KEY}?name=u"),
        ("elsewhere", f"http://localhost/f/{KEY}?name=elsewhere"),
        ("foreign", "https://other.example/a/b/c.txt?x=1#y"),
    ],
)
async def test_a_referred_file_is_a_redirect_to_an_absolute_address(
    served: InProcess, files: str, name: str, location: str
) -> None:
    for prefix in ("", f"/q/{Q}"):
        answer = await served.client.get(f"{prefix}{files}/{name}")
        assert (answer.status_code, answer.headers["Location"]) == (302, location)
    if location.startswith("http://localhost"):
        assert await (await served.client.get(location.removeprefix("http://localhost"))).get_data() == BLOB


@pytest.mark.parametrize("name", ["nope", "plain.txt/", "../plain.txt", "%2e%2e/x", "a%20b", "plain.txt%00", "é" * 300])
async def test_a_file_that_is_not_there_is_not_found(served: InProcess, files: str, name: str) -> None:
    error = await served.get(f"{files}/{name}", 404)
    assert error["code"] in ("file_not_found", "route_not_found")
    assert error["requestId"]


@pytest.mark.parametrize("tail", ["", "/"])
async def test_a_file_without_a_name_is_a_bad_request(served: InProcess, files: str, tail: str) -> None:
    await served.get(files + tail, 400)


async def test_files_of_jobs_that_have_none_are_not_found(served: InProcess) -> None:
    job_id = await served.submit(Q)
    unfinished = await served.get(f"/j/{job_id}/outputs/x", 404)
    assert unfinished["code"] == "not_finished"
    assert unfinished["error"].startswith("Finished job not found")
    await served.get(f"/j/{NOBODY}/outputs/x", 404)
    assert (await served.get(f"/j/{NOBODY}/inputs/x", 404))["code"] == "job_not_found"


async def test_config_files_are_served_with_the_inputs(served: InProcess) -> None:
    refs = {"/etc/app.ini": {"type": "utf8", "value": "x=1"}}
    job_id = await served.submit(Q, hello("config", configFiles=refs))
    answer = await served.client.get(f"/j/{job_id}/inputs/etc/app.ini")
    assert await answer.get_data() == b"x=1"


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        ({"type": "url", "value": "javascript:alert(1)"}, 422),
        ({"type": "url", "value": "http://[broken"}, 422),
        ({"type": "url", "value": "http://h/\r\nSet-Cookie: a=b"}, 422),
        ({"type": "url", "value": "//h/x"}, 422),
        ({"type": "url", "value": "http:///x"}, 422),
        ({"type": "url", "value": "http://h/名前"}, 302),
        ({"type": "base64", "value": "ü"}, 400),
        ({"type": "base64", "value": "!!!"}, 400),
        ({"type": "key", "value": "../x"}, 400),
        ({"type": "what", "value": "x"}, 400),
        ({"type": "utf8", "value": 5}, 400),
        ({"type": {"a": 1}, "value": "x"}, 400),
        ({}, 400),
    ],
    ids=json.dumps,
)
async def test_an_output_that_cannot_be_served_is_a_clear_error(
    served: InProcess, ref: dict[str, Any], status: int
) -> None:
    job_id = await _done(served, outputs={"o": ref})
    answer = await served.client.get(f"/j/{job_id}/outputs/o")
    assert answer.status_code == status
    assert "\n" not in answer.headers.get("Location", "")


# --- cancel and delete -----------------------------------------------------------------------------------------------


async def test_cancelling_says_what_is_so(served: InProcess) -> None:
    job_id = await served.submit(Q, control={"namespace": "n1"})
    await served.submit(Q, control={"namespace": "n2"})
    path = f"/q/{Q}/j/{job_id}/cancel"

    async def cancel(query: str = "", where: str = path) -> Any:
        answer = await served.client.post(where + query)
        assert answer.status_code == 200
        return await answer.get_json()

    said = await cancel()
    assert "n1, n2" in said["message"]
    assert said["namespaces"] == ["n1", "n2"]
    left = await cancel("?namespace=n1")
    known = {"success": True, "jobId": job_id}
    assert left == {**known, "namespace": "n1", "state": "Queued", "namespaces": ["n2"]}
    said = await cancel(where=f"/q/{Q}/j/{job_id}/n2/cancel", query="?message=enough%20of%20it")
    assert said == {**known, "namespace": "n2", "state": "Finished", "namespaces": []}
    assert (await served.job(Q, job_id)).message == "enough of it"
    assert (await cancel("?namespace=*"))["message"] == "Job already Finished"
    assert (await cancel(where=f"/q/{Q}/j/{NOBODY}/cancel")) == {"message": "Job not found"}
    assert (await cancel(where=f"/q/other/j/{job_id}/cancel")) == {"message": "Job not found"}


async def test_the_query_names_the_namespace_before_the_path_and_is_decoded_once(served: InProcess) -> None:
    job_id = await served.submit(Q, control={"namespace": "100%25 a/b"})
    answer = await served.client.post(f"/q/{Q}/j/{job_id}/other/cancel?namespace=100%2525%20a%2Fb")
    assert (await answer.get_json())["success"]


async def test_a_cancel_is_final_against_everything_that_comes_later(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel?namespace=*")
        assert (await worker.finish(given))["accepted"] is False
        await worker.say("Renew", {"jobs": {job_id: 1}})
        assert await worker.hear("Renewed") == {"lost": [job_id]}
    served.clock.advance(100)
    await sweep(served.services)
    async with served.worker(Q, "w2", holding={job_id: 1}) as late:
        assert late.welcome["lost"] == [job_id]
        await late.settle()
    assert served.witness.states(job_id) == ["Queued", "Running", "Finished", "Removed"]


async def test_a_deleted_job_is_gone_with_result_logs_and_listing(served: InProcess) -> None:
    job_id = await _done(served, extra="x" * 50_000)
    assert len(served.contents()["blobs"]) == 1
    answer = await (await served.client.delete(f"/q/{Q}/j/{job_id}")).get_json()
    assert answer == {"success": True, "jobId": job_id, "state": "Finished", "namespaces": []}
    assert served.contents()["blobs"] == {}
    assert await served.listing(Q) == {}
    await served.get(f"/j/{job_id}", 404)
    await served.get(f"/q/{Q}/j/{job_id}", 404)
    assert (await served.client.delete(f"/q/{Q}/j/{job_id}")).status_code == 404


async def test_deleting_for_a_namespace_that_does_not_hold_it_is_refused(served: InProcess) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    answer = await served.client.delete(f"/q/{Q}/j/{job_id}?namespace=other")
    assert (answer.status_code, (await answer.get_json())["code"]) == (409, "transition_refused")
    assert served.contents() == before


async def test_a_result_in_another_queue_survives_a_delete(served: InProcess) -> None:
    job_id = await _done(served, queue="a")
    await _done(served, queue="b")
    await served.client.delete(f"/q/a/j/{job_id}")
    assert (await served.get(f"/q/b/j/{job_id}/result.json"))["data"]["state"] == "Finished"


# --- copy ------------------------------------------------------------------------------------------------------------


async def test_a_copy_takes_the_result_along(served: InProcess) -> None:
    job_id = await _done(served, outputs={"o": {"type": "utf8", "value": "x" * 60_000}})
    answer = await served.client.post(f"/j/{job_id}/copy", json={"queue": "target"})
    assert await answer.get_json() == {"success": True, "jobId": job_id, "cached": True}
    assert (await served.listing("target"))[job_id]["state"] == "Finished"
    await served.client.delete(f"/q/{Q}/j/{job_id}")
    assert len(await (await served.client.get(f"/q/target/j/{job_id}/outputs/o")).get_data()) == 60_000
    assert served.witness.states(job_id)[-1] == "Finished"
    assert [j.state.value for j in served.witness.of(job_id, "target")] == ["Finished", "Finished"]


async def test_a_copy_of_an_unfinished_job_runs_on_the_target(served: InProcess) -> None:
    job_id = await served.submit(Q)
    answer = await served.client.post(
        f"/j/{job_id}/copy", json={"queue": "target", "control": {"namespace": "n"}, "namespace": "x", "config": 1}
    )
    assert (await answer.get_json())["cached"] is False
    record = (await served.listing("target"))[job_id]
    assert (record["state"], record["namespaces"]) == ("Queued", ["n"])


async def test_a_copy_onto_a_queue_that_is_running_it_changes_nothing_there(served: InProcess) -> None:
    job_id = await _done(served, code=1)
    await served.submit("target")
    async with served.worker("target") as worker:
        given = await worker.hear("Assign")
        answer = await served.client.post(f"/j/{job_id}/copy", json={"queue": "target"})
        assert (await answer.get_json())["cached"] is False
        assert (await worker.finish(given, code=2))["accepted"]
    assert (await served.job("target", job_id)).exit_code == 2


async def test_a_copy_to_the_jobs_own_queue_is_a_submit(served: InProcess) -> None:
    job_id = await _done(served)
    answer = await served.client.post(f"/j/{job_id}/copy", json={"queue": Q})
    assert (await answer.get_json())["cached"] is True
    assert (await served.job(Q, job_id)).generation == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"queue": 5}', 400),
        (b'{"queue": ""}', 400),
        (b'{"queue": "../x"}', 400),
        (b'{"queue": ".."}', 400),
        (b'{"queue": "t", "control": 5}', 400),
        (b'{"queue": "t", "control": {"namespace": "*"}}', 400),
        (b'{"queue": "t", "control": {"what": 1}}', 422),
        (b'{"queue": NaN}', 400),
    ],
)
async def test_a_copy_that_cannot_be_understood_is_refused_and_changes_nothing(
    served: InProcess, body: bytes, status: int
) -> None:
    job_id = await _done(served)
    before = served.contents()
    answer = await served.client.post(f"/j/{job_id}/copy", data=body)
    assert answer.status_code == status
    assert served.contents() == before


async def test_a_copy_of_an_unknown_or_expired_job_says_which(served: InProcess) -> None:
    job_id = await _done(served)
    answer = await served.client.post(f"/j/{NOBODY}/copy", json={"queue": "t"})
    assert (answer.status_code, (await answer.get_json())["error"]) == (404, "Job definition not found")
    served.clock.advance(31 * DAY)
    answer = await served.client.post(f"/j/{job_id}/copy", json={"queue": "t"})
    assert (answer.status_code, (await answer.get_json())["code"]) == (410, "expired")


async def test_a_copy_to_a_full_queue_is_refused_and_changes_nothing() -> None:
    async with in_process(limits={"queued_per_queue": 1}) as served:
        job_id = await _done(served)
        await served.submit("full", hello("waits"))
        before = served.contents()
        answer = await served.client.post(f"/j/{job_id}/copy", json={"queue": "full"})
        assert (answer.status_code, (await answer.get_json())["code"]) == (429, "rate_limited")
        assert served.contents() == before


# --- logs ------------------------------------------------------------------------------------------------------------


async def _logged(served: InProcess, lines: int = 5) -> str:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        await worker.log(given, *[str(n) for n in range(lines)], seq=0)
        await worker.settle()
        assert (await worker.finish(given))["accepted"]
    return job_id


@pytest.mark.parametrize(
    ("since", "start", "texts"),
    [
        ("", 0, ["0", "1", "2", "3", "4"]),
        ("0", 0, ["0", "1", "2", "3", "4"]),
        ("3", 3, ["3", "4"]),
        ("3.9", 3, ["3", "4"]),
        ("-7", 0, ["0", "1", "2", "3", "4"]),
        ("5", 5, []),
        ("1e0", 1, ["1", "2", "3", "4"]),
        ("%203%20", 3, ["3", "4"]),
        ("6", 0, ["0", "1", "2", "3", "4"]),
    ],
)
async def test_lines_are_read_from_a_cursor_on(served: InProcess, since: str, start: int, texts: list[str]) -> None:
    job_id = await _logged(served)
    for prefix in ("", f"/q/{Q}"):
        page = await served.get(f"{prefix}/j/{job_id}/run-logs.json?since={since}")
        assert [line[0] for line in page["data"]] == texts
        assert (page["nextCursor"], page["isFinal"], page["attempt"]) == (5, True, 1)
        if texts:
            assert page["sliceStart"] == start


@pytest.mark.parametrize("since", ["x", "1x", "nan", "Infinity", "-inf", "1e999", "9" * 400, "[]", "%00"])
async def test_a_cursor_that_is_no_number_is_refused(served: InProcess, since: str) -> None:
    job_id = await _logged(served)
    assert "`since` must be a number" in (await served.get(f"/j/{job_id}/run-logs.json?since={since}", 400))["error"]


async def test_lines_of_an_unknown_job_are_none_and_not_final(served: InProcess) -> None:
    for path in (f"/j/{NOBODY}/run-logs.json", f"/q/{Q}/j/{NOBODY}/build-logs.json"):
        page = await served.get(path)
        assert (page["data"], page["sliceStart"], page["nextCursor"], page["isFinal"]) == ([], 0, 0, False)


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_lines_of_a_job_that_ended_otherwise_are_final_too(served: InProcess, how: str) -> None:
    job_id = await served.submit(Q)
    if how == "cancel":
        await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
        assert (await served.get(f"/q/{Q}/j/{job_id}/run-logs.json"))["isFinal"] is True
    else:
        served.clock.advance(31 * DAY)
        await served.get(f"/q/{Q}/j/{job_id}/run-logs.json", 410)


async def test_a_new_attempt_starts_the_lines_anew(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "a", "b", "c", seq=0)
        await worker.settle()
    served.clock.advance(31)
    await sweep(served.services)
    assert (await served.get(f"/q/{Q}/j/{job_id}/run-logs.json?since=3"))["data"] == []
    async with served.worker(Q, "w2") as worker:
        await worker.log(await worker.hear("Assign"), "new", seq=0)
        await worker.settle()
        page = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json?since=3")
    assert (page["data"][0][0], page["sliceStart"], page["nextCursor"], page["attempt"]) == ("new", 0, 1, 2)


# --- the rest --------------------------------------------------------------------------------------------------------


async def test_namespaces_and_history_of_a_job(served: InProcess) -> None:
    job_id = await served.submit(Q, control={"namespace": "b"})
    await served.submit(Q, control={"namespace": "a"})
    await served.submit(Q)
    assert (await served.get(f"/q/{Q}/j/{job_id}/namespaces.json"))["data"] == ["_", "a", "b"]
    assert (await served.get(f"/q/{Q}/j/{NOBODY}/namespaces.json"))["data"] == []
    assert (await served.get(f"/q/{Q}/j/{job_id}/history.json"))["data"] == []
    await served.finish(Q, job_id)
    (attempt,) = (await served.get(f"/q/{Q}/j/{job_id}/history.json"))["data"]
    assert (attempt["attempt"], attempt["how"]) == (1, "reported")


async def test_why_a_job_waits_is_told_for_each_worker_and_rule(served: InProcess) -> None:
    ahead = await served.submit(Q, hello("ahead", requirements={"cpus": 2}))
    served.clock.advance(5)
    job_id = await served.submit(Q, hello("big", requirements={"cpus": 4, "memory": "1g"}, tags=["x"]))
    served.clock.advance(7)
    why = (await served.get(f"/q/{Q}/j/{job_id}/why"))["data"]
    assert (why["position"], why["waitedSeconds"], why["workers"]) == (1, 7.0, [])
    assert "no worker is connected" in why["reason"]
    async with served.worker(Q, "small") as small, served.old_worker(Q, "old"):
        assert (await small.hear("Assign"))["jobId"] == ahead
        why = (await served.get(f"/q/{Q}/j/{job_id}/why"))["data"]
        assert why["position"] == 0
        assert {w["id"]: w["fits"] for w in why["workers"]} == {"small": False, "old": False}
        rules = {r["rule"]: r["passed"] for r in why["workers"][0]["rules"]}
        assert rules == {"cpus": False, "memory": True, "gpus": True, "duration": True, "tags": False}
        assert why["reason"] == "no connected worker fits: cpus, tags"
        again = (await served.get(f"/q/{Q}/j/{ahead}/why"))["data"]
        assert (again["state"], again["position"]) == ("Running", None)
        assert "small" in again["reason"]
    await served.get(f"/q/{Q}/j/{NOBODY}/why", 404)


async def test_the_older_helpers_give_addresses_of_this_server(served: InProcess) -> None:
    up = await served.get(f"/upload/{KEY}")
    assert up == {"url": f"http://localhost/f/{KEY}", "ref": {"value": KEY, "type": "key"}}
    down = await served.get(f"/download/{KEY}")
    assert down["ref"] == {"value": down["url"], "type": "url"}
    answer = await served.client.get(f"/api/v1/download/{KEY}")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"http://localhost/f/{KEY}?name={KEY}")
    await served.get("/api/v1/download/x", 404)
    await served.get("/upload/.hidden", 400)


BAD_IDS = ["x", "F" * 64, "f" * 63, "f" * 65, "..", "%2e%2e", "a%00b", "f" * 10_000, "%F0%9F%A6%80", "' OR 1=1 --"]


@pytest.mark.parametrize("job_id", BAD_IDS, ids=lambda text: text[:12])
async def test_a_job_id_that_is_none_finds_nothing_and_changes_nothing(served: InProcess, job_id: str) -> None:
    await served.submit(Q)
    before = served.contents()
    calls = [
        served.client.get(f"/j/{job_id}"),
        served.client.get(f"/q/{Q}/j/{job_id}"),
        served.client.get(f"/q/{Q}/j/{job_id}/why"),
        served.client.get(f"/q/{Q}/j/{job_id}/history.json"),
        served.client.get(f"/j/{job_id}/outputs/x"),
        served.client.post(f"/q/{Q}/j/{job_id}/cancel"),
        served.client.post(f"/j/{job_id}/copy", json={"queue": "t"}),
        served.client.delete(f"/q/{Q}/j/{job_id}"),
    ]
    for answer in await asyncio.gather(*calls):
        assert answer.status_code in (400, 404)
        error = await answer.get_json()
        assert {"error", "code", "hint", "requestId"} <= set(error)
        assert len(json.dumps(error)) < 1000, "no more of the input than is needed"
    assert served.contents() == before


@pytest.mark.parametrize("queue", ["..", "%2e%2e", "a b", "%C3%BC", "q" * 129, "a%00b", "a%5Cb", "*"])
async def test_a_bad_queue_name_is_refused_by_every_route_and_changes_nothing(served: InProcess, queue: str) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    calls = [
        served.client.get(f"/q/{queue}"),
        served.client.get(f"/q/{queue}/j"),
        served.client.get(f"/q/{queue}/status"),
        served.client.get(f"/q/{queue}/metrics"),
        served.client.get(f"/q/{queue}/j/{job_id}"),
        served.client.get(f"/q/{queue}/j/{job_id}/why"),
        served.client.get(f"/q/{queue}/j/{job_id}/stream"),
        served.client.post(f"/q/{queue}", json={"definition": ECHO}),
        served.client.post(f"/q/{queue}/j", json={"definition": ECHO}),
        served.client.post(f"/q/{queue}/j/{job_id}/cancel"),
        served.client.delete(f"/q/{queue}/j/{job_id}"),
        served.client.post(f"/j/{job_id}/copy", json={"queue": queue}),
    ]
    for answer in await asyncio.gather(*calls):
        assert answer.status_code in (400, 404)
        assert {"error", "code", "hint", "requestId"} <= set(await answer.get_json())
    assert served.contents() == before
    assert served.hub.channels == ()


async def test_the_id_of_a_definition_is_the_same_everywhere(served: InProcess) -> None:
    assert await served.submit("a") == await served.submit("b") == known_id(ECHO)
