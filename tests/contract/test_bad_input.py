"""What strangers send: names that climb, numbers out of this world, bodies that lie. Each gets its own 4xx with a code,
a hint and a request id, says no more of the input than it must, and changes nothing at all."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from in_process import ECHO, InProcess, hello, in_process

Q = "bad-input"
BLOB = b"0123456789"
KEY = hashlib.sha256(BLOB).hexdigest()
LONG = "x" * 5_000

CLIMBING = [
    "..",
    "../x",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fx",
    "%252e%252e%252f",
    "..%5c..%5cx",
    "a%00b",
    "%00",
    "a%0d%0aSet-Cookie:%20x=y",
    "%20",
    "*",
    "a%2Fb",
    "-%20-",
    "%F0%9F%A6%80",
    "%ff",
    LONG,
]


async def _refused(answer: Any, *statuses: int) -> dict[str, Any]:
    """The error of an answer, after a look at what every error must be."""
    body = await answer.get_data()
    assert answer.status_code in (statuses or (400, 404, 405, 413, 422)), (answer.status_code, body[:200])
    error: dict[str, Any] = json.loads(body)
    assert error["error"]
    assert error["code"]
    assert isinstance(error["hint"], str)
    assert len(error["requestId"]) == 16
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(error["error"]) <= 600
    assert LONG not in body.decode()
    for inner in ("Traceback", "/asman/", "site-packages", "sqlite"):
        assert inner not in body.decode()
    return error


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIMBING, ids=lambda name: name[:20])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/q/{}"),
        ("POST", "/q/{}/j"),
        ("GET", "/q/{}"),
        ("GET", "/q/{}/j/{id}"),
        ("POST", "/q/{}/j/{id}/cancel"),
        ("DELETE", "/q/{}/j/{id}"),
        ("GET", "/j/{}"),
        ("GET", "/q/bad-input/j/{}"),
        ("DELETE", "/q/bad-input/j/{}"),
        ("POST", "/j/{}/copy"),
        ("PUT", "/f/{}"),
        ("GET", "/f/{}"),
        ("GET", "/f/{}/exists"),
        ("GET", "/upload/{}"),
        ("GET", "/download/{}"),
        ("GET", "/j/{id}/inputs/{}"),
        ("GET", "/j/{id}/outputs/{}"),
        ("GET", "/q/bad-input/j/{id}/outputs/{}"),
    ],
)
async def test_a_name_that_climbs_or_does_not_belong_reaches_nothing(
    served: InProcess, method: str, path: str, name: str
) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    body = json.dumps({"definition": ECHO, "queue": "t"}).encode() if method in ("POST", "PUT") else None
    answer = await served.client.open(path.replace("{}", name).replace("{id}", job_id), method=method, data=body)
    await _refused(answer)
    assert served.contents() == before
    assert served.hub.channels == ()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/abs", "a//b", "", ".", "a\\b", "a\0b", "n" * 513, "a/" * 33 + "b"]
)
async def test_a_file_name_that_leaves_its_folder_is_refused_with_the_definition(served: InProcess, name: str) -> None:
    definition = hello("x", inputs={name: {"type": "utf8", "value": "x"}})
    error = await _refused(await served.client.post(f"/q/{Q}", json={"definition": definition}), 422)
    assert error["code"] == "bad_definition"
    assert error["details"]
    assert served.contents()["jobs"] == {}


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"definition": {"image": "a"}} x',
        b'{"definition": {"image": "a"}}{"definition": {"image": "a"}}',
        b"definition=x",
        b"--boundary\r\nContent-Disposition: form-data\r\n\r\nx\r\n--boundary--",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{}",
        b'"text"',
        b"12",
        b"null",
        b"[]",
        b"true",
        b'{"image": "a", "command": "b"}',
        b'{"definition": null}',
        b'{"definition": "a"}',
        b'{"definition": 5}',
        b'{"definition": {"image": "a"}, "id": 5}',
        b'{"definition": {"image": "a"}, "id": {}x}',
        b'{"definition": {"image": "a"}, "id": "../x"}',
        b'{"definition": {"image": "a"}, "control": "x"}',
        b'{"definition": {"image": "a"}, "control": {"namespace": "*"}}',
        b'{"definition": {"image": "a"}, "control": {"namespace": 5}}',
        b'{"definition": {"image": "a"}, "control": {"namespace": "a\\u0000b"}}',
        b'{"definition": {"image": "a"}, "control": {"namespace": "\\ud800"}}',
        b'{"definition": {"image": "a"}, "control": {"namespace": "' + b"n" * 257 + b'"}}',
        b'{"definition": {"image": "a"}, "control": {"callbacks": [1]}}',
        b'{"definition": {"image": "a"}, "control": {"secret": 1}}',
        b'{"definition": {"image": "a"}, "queue": "other"}',
        b'{"definition": {"image": "a", "command": 5}}',
        b'{"definition": {"image": "a", "env": {"A=B": "x"}}}',
        b'{"definition": {"image": "a", "inputs": {"x": null}}}',
        b'{"definition": {"image": "a", "inputs": {"x": {"type": "url"}}}}',
        b'{"definition": {"image": "a", "inputs": {"x": {"type": "url", "value": "file:///etc/passwd"}}}}',
        b'{"definition": {"image": "a", "inputs": {"x": {"type": "base64", "value": "!"}}}}',
        b'{"definition": {"image": "a", "inputs": []}}',
        b'{"definition": {"image": "a b"}}',
    ],
)
async def test_a_submit_that_cannot_be_used_is_refused_and_changes_nothing(served: InProcess, body: bytes) -> None:
    await _refused(await served.client.post(f"/q/{Q}", data=body), 400, 422)
    assert served.contents() == {"jobs": {}, "documents": {}, "logs": {}, "blobs": {}}


ARABIC_ONE = "\u0661"
NUMBERS: list[Any] = [-1, 0, 1e308, -1e308, 2**63, 10**30, 1e-320, True, "", "ten", [], {}, "1e999", "-5", "0"]
NUMBERS += [ARABIC_ONE, "9" * 400, "9" * 5000 + "g", "1p", "2000p"]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: repr(number)[:12])
@pytest.mark.parametrize("member", ["cpus", "gpus", "memory", "maxDuration"])
async def test_an_absurd_requirement_is_refused_or_harmless(served: InProcess, member: str, number: Any) -> None:
    definition = hello("x", requirements={member: number})
    answer = await served.client.post(f"/q/{Q}", json={"definition": definition})
    if answer.status_code != 200:
        await _refused(answer, 400, 413, 422)
        assert served.contents()["jobs"] == {}
        return
    job_id = (await answer.get_json())["jobId"]
    need = (await served.job(Q, job_id)).requirements
    assert 0 < need.cores <= 1024
    assert 0 <= need.gpus <= 64
    assert 0 <= need.memory_bytes < 2**63, "every store must be able to keep it"
    assert need.max_duration_s is None or 1 <= need.max_duration_s <= 30 * 86_400
    async with served.worker(Q, jobs=1) as worker:
        await worker.settle()


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5_000, "1" + "0" * 309]
)
async def test_a_number_that_no_double_holds_is_refused_anywhere(served: InProcess, text: str) -> None:
    body = '{"definition": {"image": "a", "deep": [[[{"n": @}]]]}}'.replace("@", text)
    await _refused(await served.client.post(f"/q/{Q}", data=body), 400)
    assert served.contents()["jobs"] == {}


@pytest.mark.parametrize(
    "duration", ["soon", "-5m", "0", "0.1", "999999999y", "1e400s", "5 lightyears", "m", "1h-", 1e300, -1, True, [], {}]
)
async def test_a_duration_that_is_none_or_too_long_is_refused(served: InProcess, duration: Any) -> None:
    definition = hello("x", maxDuration=duration)
    error = await _refused(await served.client.post(f"/q/{Q}", json={"definition": definition}), 422)
    assert "maxDuration" in error["error"]
    assert served.contents()["jobs"] == {}


async def test_unpaired_surrogates_travel_as_they_came(served: InProcess) -> None:
    body = b'{"definition": {"image": "a", "command": "x\\ud800y", "env": {"A": "\\udfff"}}}'
    answer = await served.client.post(f"/q/{Q}", data=body)
    job_id = (await answer.get_json())["jobId"]
    assert (await served.get(f"/j/{job_id}/definition.json"))["data"]["command"] == "x\ud800y"
    async with served.watch(Q), served.worker(Q) as worker:
        assert (await worker.finish(await worker.hear("Assign"), text="\ud800"))["accepted"]
    assert (await served.client.get(f"/j/{job_id}")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"definition": {"image": "a", "x": "' + b"x" * (1 << 20) + b'"}}', 413),
        (b'{"definition": {"image": "a", "x": "' + b"x" * (600 << 10) + b'"}}', 413),
        (b'{"definition": {"image": "a", "x": ["' + b'x", "' * (80 << 10) + b'"]}}', 413),
        (b'{"definition": {"image": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}}", 413),
        (b'{"definition": {"image": "a", "x": {' + b",".join(b'"%d":1' % n for n in range(10_001)) + b"}}}", 413),
        (b'{"definition": {"image": "a", "command": "' + b"x" * (33 << 10) + b'"}}', 422),
        (b'{"definition": {"image": "a", "env": {"A": "' + b"x" * (9 << 10) + b'"}}}', 422),
        (b'{"definition": {"image": "a", "env": {' + b",".join(b'"A%d":"1"' % n for n in range(65)) + b"}}}", 422),
        (b'{"definition": {"image": "a", "tags": [' + b",".join(b'"t%d"' % n for n in range(33)) + b"]}}", 422),
        (b'{"definition": {"image": "a", "maxDuration": "25h"}}', 422),
        (
            b'{"definition": {"image": "a", "inputs": {"x": {"value": "' + b"x" * (129 << 10) + b'"}}}}',
            422,
        ),
    ],
    ids=["body", "string", "definition", "depth", "keys", "command", "env value", "env", "tags", "duration", "inline"],
)
async def test_more_than_strangers_may_send_is_refused(public: InProcess, body: bytes, status: int) -> None:
    error = await _refused(await public.client.post(f"/q/{Q}", data=body), status)
    assert any(c.isdigit() for c in error["error"]), "the limit is said"
    assert public.contents() == {"jobs": {}, "documents": {}, "logs": {}, "blobs": {}}


@pytest.mark.parametrize("path", [f"/q/{Q}", f"/q/{Q}/j", f"/j/{KEY}/copy", f"/f/{KEY}", f"/q/{Q}/j/{KEY}/cancel"])
async def test_a_request_with_two_lengths_is_refused(served: InProcess, path: str) -> None:
    headers = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
    method = "PUT" if path.startswith("/f/") else "POST"
    answer = await served.client.open(path, method=method, headers=headers, data=b"{}")
    assert "both" in (await _refused(answer, 400))["error"]
    assert served.contents() == {"jobs": {}, "documents": {}, "logs": {}, "blobs": {}}


@pytest.mark.parametrize("length", ["\xb2", "-1", "1e3", "9" * 5000, "x"])
async def test_a_length_that_is_no_number_is_no_fault_of_ours(public: InProcess, length: str) -> None:
    for method, path, body in (
        ("POST", f"/q/{Q}", json.dumps({"definition": ECHO}).encode()),
        ("PUT", f"/f/{KEY}", BLOB),
    ):
        answer = await public.client.open(path, method=method, headers={"Content-Length": length}, data=body)
        assert answer.status_code in (200, 400, 413), await answer.get_data()


# --- blobs -----------------------------------------------------------------------------------------------------------


async def test_bytes_that_are_not_what_the_key_says_are_refused(served: InProcess) -> None:
    for data in (b"", BLOB + b"x", b"y" * 3_000_000):
        error = await _refused(await served.client.put(f"/f/{KEY}", data=data), 422)
        assert error["code"] == "hash_mismatch"
    assert served.contents()["blobs"] == {}
    assert (await served.client.put(f"/f/{KEY}", data=BLOB)).status_code == 200
    before = served.contents()
    await _refused(await served.client.put(f"/f/{KEY}", data=b"other"), 409, 422)
    assert served.contents() == before
    assert await (await served.client.get(f"/f/{KEY}")).get_data() == BLOB


async def test_a_blob_above_the_limit_is_refused_whether_it_says_so_or_not() -> None:
    async with in_process(limits={"blob_bytes": 1000}) as served:
        data = b"x" * 1001
        key = hashlib.sha256(data).hexdigest()
        assert (await _refused(await served.client.put(f"/f/{key}", data=data), 413))["code"] == "limit_exceeded"
        async with served.client.request(f"/f/{key}", method="PUT") as request:
            for _ in range(11):
                await request.send(b"x" * 91)
            await request.send_complete()
        await _refused(await request.as_response(), 413)
        assert served.contents()["blobs"] == {}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("bytes=0-1", 206),
        ("bytes=9-", 206),
        ("bytes=-1", 206),
        ("bytes=0-99999999999999999999", 206),
        ("bytes=10-", 416),
        ("bytes=-0", 416),
        ("bytes=" + "9" * 5000 + "-", 416),
        ("bytes=0-" + "9" * 5000, 206),
        ("bytes=-" + "9" * 5000, 206),
        ("bytes=", 200),
        ("bytes=a-b", 200),
        ("bytes=0-1,3-4", 200),
        ("BYTES=0-1", 200),
        ("bytes=\xb2-\xb3", 200),
        ("x" * 4000, 200),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_a_range_of_any_shape_is_answered(served: InProcess, header: str, status: int) -> None:
    await served.client.put(f"/f/{KEY}", data=BLOB)
    answer = await served.client.get(f"/f/{KEY}", headers={"Range": header})
    assert answer.status_code == status
    if status == 416:
        await _refused(answer, 416)
    else:
        assert len(await answer.get_data()) == int(answer.headers["Content-Length"])


@pytest.mark.parametrize(
    "name", ["x.html", "x.svg", "../../x.html", "a\r\nb.js", '"; x=".html', "ü.xhtml", "x" * 3000 + ".htm"]
)
async def test_the_name_to_save_as_cannot_make_bytes_run(served: InProcess, name: str) -> None:
    await served.client.put(f"/f/{KEY}", data=BLOB)
    answer = await served.client.get(f"/f/{KEY}", query_string={"name": name})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
    assert not {"\r", "\n"} & set(answer.headers["Content-Disposition"])


# --- queries and headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", ["\xb2", "-1", "x", "9" * 400, "9" * 5000, "1e3", "", "٣"])
async def test_a_stream_cursor_of_any_shape_is_answered(served: InProcess, cursor: str) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    for query in ({"build_since": cursor, "run_since": cursor}, {}):
        headers = {"Last-Event-ID": f"1-{cursor}-{cursor}".encode("utf-8", "ignore").decode("latin-1")}
        answer = await served.client.get(f"/q/{Q}/j/{job_id}/stream", query_string=query, headers=headers)
        assert answer.status_code == 200
        assert b"event: final" in await answer.get_data()


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=99999999999", "respond-async", "wait=²", ",;"]
)
async def test_a_preference_that_cannot_be_met_is_passed_over(served: InProcess, prefer: str) -> None:
    headers = {"Prefer": prefer.encode().decode("latin-1")}
    answer = await served.client.post(f"/q/{Q}", json={"definition": ECHO}, headers=headers)
    assert answer.status_code == 200
    assert "job" not in await answer.get_json()


@pytest.mark.parametrize("namespace", ["x" * 300, "a\0b", "\x7f", "%ff"])
async def test_a_namespace_that_nobody_can_hold_cancels_nothing(served: InProcess, namespace: str) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    answer = await served.client.post(f"/q/{Q}/j/{job_id}/cancel", query_string={"namespace": namespace})
    assert answer.status_code in (200, 400)
    assert "success" not in await answer.get_json()
    assert served.contents() == before


async def test_a_very_long_message_is_cut_and_not_kept(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.client.post(f"/q/{Q}/j/{job_id}/cancel?message={'m' * 100_000}")
    assert len((await served.job(Q, job_id)).message) <= 500


@pytest.mark.parametrize(
    "header", ["Origin", "Host", "X-Forwarded-For", "X-Forwarded-Proto", "Accept", "If-None-Match"]
)
@pytest.mark.parametrize("value", ["", "\xff", "http://[", "]", "a" * 3000, "null", "://", "a b", "[::1", "x:99999999"])
async def test_a_header_of_any_shape_is_answered_without_a_fault(served: InProcess, header: str, value: str) -> None:
    await served.client.put(f"/f/{KEY}", data=BLOB)
    for method, path in (("GET", f"/f/{KEY}"), ("POST", f"/q/{Q}"), ("OPTIONS", "/x"), ("GET", f"/upload/{KEY}")):
        body = json.dumps({"definition": ECHO}).encode() if method == "POST" else None
        answer = await served.client.open(path, method=method, headers={header: value}, data=body)
        assert answer.status_code < 500, (method, path, await answer.get_data())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", f"/q/{Q}/", 404),
        ("GET", "/q/", 404),
        ("GET", "/q//j", 404),
        ("GET", "/j//definition.json", 404),
        ("GET", "/Q/x", 404),
        ("GET", "/f/", 404),
        ("GET", "/api/v1/job/x", 404),
        ("POST", f"/j/{KEY}", 405),
        ("PUT", f"/q/{Q}", 405),
        ("PATCH", f"/q/{Q}", 405),
        ("DELETE", f"/f/{KEY}", 405),
        ("POST", f"/f/{KEY}", 405),
        ("POST", "/healthz", 405),
    ],
)
async def test_what_is_not_there_is_json_too(served: InProcess, method: str, path: str, status: int) -> None:
    await _refused(await served.client.open(path, method=method), status)
