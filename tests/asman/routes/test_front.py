from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from core import QUEUE, Core, core, definition


async def _raw(c: Core, method: str, path: str, pieces: list[bytes], headers: dict[str, str]) -> tuple[int, Any, int]:
    """One request as plain ASGI messages: (status, body, pieces that were read before the answer began)."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("203.0.113.1", 5),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    sent: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read == len(pieces):
            return {"type": "http.disconnect"}
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append({**message, "read": read})

    await c.app.asgi_app(scope, receive, send)  # type: ignore[arg-type]
    if not sent:
        return 0, None, read
    return sent[0]["status"], json.loads(sent[1]["body"]), sent[0]["read"]


async def test_a_submit_in_pieces_is_put_together() -> None:
    body = json.dumps({"definition": definition()}).encode()
    async with core() as c:
        status, answer, _ = await _raw(c, "POST", f"/q/{QUEUE}", [body[:10], body[10:20], body[20:]], {})
        assert (status, answer["success"]) == (200, True)


async def test_a_caller_that_goes_away_leaves_nothing() -> None:
    async with core() as c:
        status, _, _ = await _raw(c, "PUT", "/f/notes.txt", [], {})
        assert status == 0
        assert (await c.call("GET", "/f/notes.txt"))[0] == 404


async def test_a_body_that_says_it_is_too_long_is_refused_and_read_away() -> None:
    async with core(profile="public", host="0.0.0.0") as c:
        pieces = [b"x" * 65_536] * 20
        status, answer, read = await _raw(c, "POST", f"/q/{QUEUE}", pieces, {"Content-Length": "1310720"})
        assert (status, answer["code"], read) == (413, "limit_exceeded", 20)


async def test_a_body_that_turns_out_too_long_is_refused() -> None:
    async with core(profile="public", host="0.0.0.0") as c:
        status, answer, _ = await _raw(c, "POST", f"/q/{QUEUE}", [b"x" * 65_536] * 20, {})
        assert (status, answer["code"]) == (413, "limit_exceeded")


async def test_a_caller_that_waits_for_100_is_answered_before_it_sends() -> None:
    async with core(profile="public", host="0.0.0.0") as c:
        headers = {"Content-Length": "9999999", "Expect": "100-continue"}
        status, _, read = await _raw(c, "POST", f"/q/{QUEUE}", [b"x"], headers)
        assert (status, read) == (413, 0)


async def test_a_source_that_is_too_quick_is_told_to_wait() -> None:
    async with core(profile="public", host="0.0.0.0") as c:
        statuses = []
        for number in range(125):
            body = json.dumps({"definition": definition(str(number))}).encode()
            statuses.append((await _raw(c, "POST", f"/q/{QUEUE}", [body], {}))[0])
        assert statuses == [200] * 120 + [429] * 5


async def test_an_upload_is_read_only_as_fast_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with core() as c:
        taken = asyncio.Event()

        async def put(self: object, key: str, chunks: Any, **kwargs: object) -> object:
            async for _ in chunks:
                taken.set()
                raise OSError("the disk went away")
            raise AssertionError("no piece came")

        monkeypatch.setattr(type(c.services.blobs), "put", put)
        status, answer, _ = await _raw(c, "PUT", "/f/notes.txt", [b"a", b"b", b"c"], {})
        assert taken.is_set()
        assert (status, answer["code"]) == (500, "internal_error")
