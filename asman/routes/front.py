"""The thinner path: the two hot routes served below Quart, as plain ASGI.

``POST /q/QUEUE`` because a submit must cost little; ``PUT /f/KEY`` because an upload must be read only as fast as it
is stored, whatever its size. Both call the same functions as the views; everything else goes through to Quart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from asman import operations as ops
from asman.errors import BadRequest, LimitExceeded
from asman.presence import Hub
from asman.rates import source_of
from asman.routes.answers import Answer, check_host_and_origin, cors_headers, error_answer, json_answer
from asman.routes.submit import answer_submit
from asman.services import Services

__all__ = ["Front"]

_JSON_BODY_S = 20.0
_BLOB_PIECE_S = 30.0

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientGone(Exception):
    """The caller went away in the middle of its body."""


class Front:
    """Wraps the app: hot routes are answered here."""

    def __init__(self, app: ASGI, started: Callable[[], Awaitable[tuple[Services, Hub]]]) -> None:
        self._app, self._started = app, started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            pieces = scope["path"].split("/")
            if scope["method"] == "POST" and _is_submit(pieces):
                await self._submit(scope, receive, send)
                return
            if scope["method"] == "PUT" and len(pieces) == 3 and pieces[1] == "f" and pieces[2]:
                await self._upload(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _submit(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, hub = await self._started()
        headers = _headers(scope)
        args = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
        queue, prefer = scope["path"].split("/")[2], headers.get("prefer", "")
        try:
            _check(services, scope, headers)
            body = await _whole_body(receive, headers, services.config.limits.json_body_bytes)
            source = _source(services, scope, headers)
            answer = await answer_submit(services, hub, queue, body, prefer=prefer, args=args, source=source)
        except ClientGone:
            return
        except Exception as error:
            answer = error_answer(error, ref="submit")
        await _send(services, scope, headers, send, answer)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, _ = await self._started()
        headers = _headers(scope)
        key = scope["path"].split("/")[2]
        try:
            _check(services, scope, headers)
            length = headers.get("content-length", "")
            limit = services.config.limits.blob_bytes
            if limit and length.isdigit() and int(length) > limit:
                raise LimitExceeded(f"the blob has {length} bytes; at most {limit} are allowed")
            info = await ops.store_blob(services, key, _pieces(receive))
            answer = json_answer({"success": True, "key": info.key, "size": info.size_bytes, "sha256": info.sha256})
        except ClientGone:
            return
        except Exception as error:
            answer = error_answer(error, ref="upload")
        await _send(services, scope, headers, send, answer)


def _is_submit(pieces: list[str]) -> bool:
    if len(pieces) == 3:
        return pieces[1] == "q" and bool(pieces[2])
    return len(pieces) == 4 and pieces[1] == "q" and bool(pieces[2]) and pieces[3] == "j"


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _source(services: Services, scope: Scope, headers: dict[str, str]) -> str:
    if not services.config.limits.submits_per_minute_per_address:
        return ""
    client = scope.get("client") or ("",)
    return source_of(str(client[0]), headers.get("x-forwarded-for", ""), services.config.proxies)


def _check(services: Services, scope: Scope, headers: dict[str, str]) -> None:
    if "content-length" in headers and "transfer-encoding" in headers:
        raise BadRequest("the request has both Content-Length and Transfer-Encoding", hint="Send one of them.")
    check_host_and_origin(services.config, scope["method"], headers.get("origin", ""), headers.get("host", ""))


async def _whole_body(receive: Receive, headers: dict[str, str], limit: int) -> bytes:
    """All of a small body, within a time and a size."""
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise LimitExceeded(f"the body has {length} bytes; at most {limit} are allowed")
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(_JSON_BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise LimitExceeded(f"the body has more than {limit} bytes, which is the most that is allowed")
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise BadRequest(f"the body took longer than {_JSON_BODY_S:.0f} s to arrive") from error
    return b"".join(parts)


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(_BLOB_PIECE_S):
                message = await receive()
        except TimeoutError as error:
            raise BadRequest(f"nothing of the body came for {_BLOB_PIECE_S:.0f} s") from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _send(services: Services, scope: Scope, headers: dict[str, str], send: Send, answer: Answer) -> None:
    named = answer.all_headers() | cors_headers(services.config, headers.get("origin", ""), headers.get("host", ""))
    named["content-length"] = str(len(answer.body))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})
