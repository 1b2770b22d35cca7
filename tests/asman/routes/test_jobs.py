from __future__ import annotations

import base64
import hashlib

import pytest

from asman import operations as ops
from core import QUEUE, Core, core, definition, finished

DATA = b"large enough to be a blob " * 20
KEY = hashlib.sha256(DATA).hexdigest()
UNKNOWN = "0" * 64


async def _with_files(c: Core) -> str:
    """A finished job with every kind of file."""
    await c.call("PUT", f"/f/{KEY}", DATA)
    inputs = {
        "a.txt": {"type": "utf8", "value": "hello"},
        "b.bin": {"type": "base64", "value": "AAEC"},
        "c.json": {"type": "json", "value": {"x": 1}},
        "untyped": {"value": "plain"},
        "big.csv": {"type": "url", "value": f"https://elsewhere.example/f/{KEY}"},
        "foreign": {"type": "url", "value": "https://example.com/a/b/c.txt"},
        "by-key": {"type": "key", "value": KEY},
        "dir/sub/f ü.txt": {"type": "utf8", "value": "nested"},
    }
    job = await c.submit(definition(inputs=inputs, configFiles={"/etc/x.conf": {"type": "utf8", "value": "conf"}}))
    outputs = {
        "o/outputs/p.txt": {"type": "base64", "value": base64.b64encode(b"out").decode()},
        "big.png": {"type": "url", "value": f"http://server.internal/f/{KEY}"},
    }
    await c.run(job, outputs=outputs)
    return job.job_id


@pytest.mark.parametrize(
    ("name", "body", "content_type"),
    [
        ("a.txt", b"hello", "text/plain; charset=UTF-8"),
        ("b.bin", b"\0\1\2", "application/octet-stream"),
        ("c.json", {"x": 1}, "application/json; charset=UTF-8"),
        ("untyped", b"plain", "text/plain; charset=UTF-8"),
        ("dir/sub/f%20%C3%BC.txt", b"nested", "text/plain; charset=UTF-8"),
        ("etc/x.conf", b"conf", "text/plain; charset=UTF-8"),
    ],
)
@pytest.mark.parametrize("prefix", ["", f"/q/{QUEUE}"])
async def test_input_files_are_served(prefix: str, name: str, body: object, content_type: str) -> None:
    async with core() as c:
        job_id = await _with_files(c)
        status, got, headers = await c.call("GET", f"{prefix}/j/{job_id}/inputs/{name}")
        assert (status, got, headers["Content-Type"]) == (200, body, content_type)
        assert headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize("name", ["inputs/big.csv", "inputs/by-key", "outputs/big.png"])
async def test_files_in_blobs_are_redirected_to_our_own_copy(name: str) -> None:
    async with core() as c:
        job_id = await _with_files(c)
        status, _, headers = await c.call("GET", f"/j/{job_id}/{name}")
        assert (status, headers["Location"].split("?")[0]) == (302, f"http://localhost/f/{KEY}")
        assert (await c.call("GET", headers["Location"].removeprefix("http://localhost")))[1] == DATA


async def test_a_foreign_address_is_redirected_to_itself() -> None:
    async with core() as c:
        job_id = await _with_files(c)
        status, _, headers = await c.call("GET", f"/j/{job_id}/inputs/foreign")
        assert (status, headers["Location"]) == (302, "https://example.com/a/b/c.txt")


async def test_an_output_whose_name_holds_the_words_of_the_route_is_found() -> None:
    async with core() as c:
        job_id = await _with_files(c)
        status, got, headers = await c.call("GET", f"/q/{QUEUE}/j/{job_id}/outputs/o/outputs/p.txt")
        assert (status, got) == (200, b"out")
        assert headers["Content-Disposition"] == 'attachment; filename="p.txt"'


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("inputs/", 400, "bad_request"),
        ("outputs/", 400, "bad_request"),
        ("inputs/nope", 404, "file_not_found"),
        ("inputs/constructor", 404, "file_not_found"),
        ("outputs/nope", 404, "file_not_found"),
        ("inputs/..%2f..%2fetc%2fpasswd", 404, "file_not_found"),
    ],
)
async def test_missing_names_have_their_answers(path: str, status: int, code: str) -> None:
    async with core() as c:
        job_id = await _with_files(c)
        got, body, _ = await c.call("GET", f"/j/{job_id}/{path}")
        assert (got, body["code"]) == (status, code)


async def test_look_ups_with_and_without_queue() -> None:
    async with core() as c:
        job = await c.submit()
        for path in (f"/j/{job.job_id}", f"/j/{job.job_id}.json", f"/q/{QUEUE}/j/{job.job_id}"):
            status, body, _ = await c.call("GET", path)
            assert (status, body["data"]["definition"], "results" in body["data"]) == (200, definition(), False)
        assert body["data"]["job"]["state"] == "Queued"
        await c.run(job)
        _, body, _ = await c.call("GET", f"/j/{job.job_id}")
        assert body["data"]["results"]["finished"]["result"]["StatusCode"] == 0


async def test_unknown_jobs_are_null_where_clients_rely_on_it() -> None:
    async with core() as c:
        assert (await c.call("GET", f"/j/{UNKNOWN}"))[1]["error"] == "Job not found"
        for prefix in ("", f"/q/{QUEUE}"):
            for name in ("definition", "result", "results"):
                assert (await c.call("GET", f"{prefix}/j/{UNKNOWN}/{name}.json"))[:2] == (200, {"data": None})
        assert (await c.call("GET", f"/q/{QUEUE}/j/{UNKNOWN}/namespaces.json"))[:2] == (200, {"data": []})
        assert (await c.call("GET", f"/q/{QUEUE}/j/{UNKNOWN}/history.json"))[0] == 404
        assert (await c.call("GET", f"/q/{QUEUE}/j/{UNKNOWN}/why"))[0] == 404


@pytest.mark.parametrize(("since", "start"), [("", 0), ("1", 1), ("1.9", 1), ("-5", 0)])
async def test_log_slices_read_their_cursor_as_a_number(since: str, start: int) -> None:
    async with core() as c:
        job = await ops.announce(c.services, QUEUE, (await c.submit()).job_id, "w1")
        assert job is not None
        await ops.keep_lines(c.services, job, "Running", [["a", 1], ["b", 2]])
        _, body, _ = await c.call("GET", f"/q/{QUEUE}/j/{job.job_id}/run-logs.json?since={since}")
        assert (body["sliceStart"], body["nextCursor"], body["isFinal"]) == (start, 2, False)


@pytest.mark.parametrize("since", ["x", "Infinity", "nan", "1e400"])
async def test_a_cursor_that_is_no_number_is_refused(since: str) -> None:
    async with core() as c:
        status, body, _ = await c.call("GET", f"/j/{UNKNOWN}/build-logs.json?since={since}")
        assert (status, body["error"]) == (400, "`since` must be a number")


async def test_cancel_answers_200_whatever_is_there() -> None:
    async with core() as c:
        assert (await c.call("POST", f"/q/{QUEUE}/j/{UNKNOWN}/cancel"))[:2] == (200, {"message": "Job not found"})
        for name in ("a", "b", "c"):
            job = await c.submit(control={"namespace": name})
        base = f"/q/{QUEUE}/j/{job.job_id}"
        _, body, _ = await c.call("POST", f"{base}/cancel?namespace=a")
        assert (body["success"], body["state"], body["namespaces"]) == (True, "Queued", ["b", "c"])
        _, body, _ = await c.call("POST", f"{base}/b/cancel")
        assert body["namespaces"] == ["c"]
        _, body, _ = await c.call("POST", f"{base}/cancel")
        assert "does not hold the job; it is held by: c" in body["message"]
        _, body, _ = await c.call("POST", f"{base}/cancel?namespace=*&message=enough")
        assert (body["state"], body["namespaces"]) == ("Finished", [])
        _, body, _ = await c.call("POST", f"{base}/cancel")
        assert body["message"] == "Job already Finished"
        _, body, _ = await c.call("GET", base)
        assert body["data"]["job"]["message"] == "enough"


async def test_delete_removes_and_says_what_is_left() -> None:
    async with core() as c:
        job = await c.run(await c.submit())
        status, body, _ = await c.call("DELETE", f"/q/{QUEUE}/j/{job.job_id}")
        assert (status, body["success"], body["namespaces"]) == (200, True, [])
        assert (await c.call("GET", f"/q/{QUEUE}/j/{job.job_id}"))[0] == 404
        assert (await c.call("DELETE", f"/q/{QUEUE}/j/{job.job_id}"))[0] == 404


async def test_copy_needs_a_queue_and_a_known_job() -> None:
    async with core() as c:
        job = await c.submit()
        assert (await c.call("POST", f"/j/{job.job_id}/copy", {}))[0] == 400
        assert (await c.call("POST", f"/j/{job.job_id}/copy", b"nonsense"))[0] == 400
        assert (await c.call("POST", f"/j/{UNKNOWN}/copy", {"queue": "target"}))[0] == 404
        status, body, _ = await c.call("POST", f"/j/{job.job_id}/copy", {"queue": "target"})
        assert (status, body["success"]) == (200, True)
        assert job.job_id in (await c.call("GET", "/q/target"))[1]["data"]


async def test_history_and_why_tell_the_story() -> None:
    async with core() as c:
        job = await c.submit()
        _, body, _ = await c.call("GET", f"/q/{QUEUE}/j/{job.job_id}/why")
        assert "no worker is connected" in body["data"]["reason"]
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        c.clock.tick(31)
        await c.sweep()
        await ops.announce(c.services, QUEUE, job.job_id, "w2")
        await ops.report(c.services, QUEUE, job.job_id, "w2", 2, finished("w2"))
        _, body, _ = await c.call("GET", f"/q/{QUEUE}/j/{job.job_id}/history.json")
        assert [(a["attempt"], a["worker"], a["how"]) for a in body["data"]] == [
            (1, "w1", "lost"),
            (2, "w2", "reported"),
        ]
