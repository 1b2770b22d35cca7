"""The thinner path: the two hot routes served below Quart, as plain ASGI.

``POST /q/QUEUE`` because a submit must cost little; ``PUT /f/KEY`` because an upload must be read only as fast as it
is stored, whatever its size. Both call the same functions as the views; everything else goes through to Quart.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from asman import operations as ops
from asman.errors import BadRequest, LimitExceeded
from asman.presence import Hub
from asman.rates import source_of
from asman.routes.answers import Answer, check_host_and_origin, cors_headers, error_answer, json_answer
from asman.routes.submit import answer_submit
from asman.routes.timing import ROUTE
from asman.services import Services

__all__ = ["Front"]

_JSON_BODY_S = 20.0
_BLOB_PIECE_S = 30.0
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[\w-]{1,63}\.)*[\w-]{0,63})(?::\d{1,5})?", re.ASCII)
_READ_AWAY_S = 10.0
_READ_AWAY_BYTES = 256 << 20
_SUBMITS = {3: "/q/{queue}", 4: "/q/{queue}/j"}
"""The route of a submit by the number of its path's pieces."""

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_ASGI = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class _ClientGone(Exception):
    """The caller went away in the middle of its body."""


class Front:
    """Wraps the app: hot routes are answered here."""

    def __init__(self, app: _ASGI, started: Callable[[], Awaitable[tuple[Services, Hub]]]) -> None:
        self._app, self._started = app, started

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] in ("http", "websocket") and not _HOST.fullmatch(_host(scope)):
            await self._refuse_host(scope, receive, send)
            return
        if scope["type"] == "http":
            pieces = scope["path"].split("/")
            if scope["method"] == "POST" and _is_submit(pieces):
                scope[ROUTE] = _SUBMITS[len(pieces)]
                await self._submit(scope, receive, send)
                return
            if scope["method"] == "PUT" and len(pieces) == 3 and pieces[1] == "f" and pieces[2]:
                scope[ROUTE] = "/f/{key}"
                await self._upload(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refuse_host(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """The framework cannot even begin with such a request, so it is answered here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        services, _ = await self._started()
        error = BadRequest("the Host header is not a host name", hint="Use the server's name or address.")
        answer = error_answer(error, ref="host")
        await _send(services, scope, _headers(scope), send, answer)

    async def _submit(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        services, hub = await self._started()
        headers, body = _headers(scope), _Body(receive)
        args = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
        queue, prefer = scope["path"].split("/")[2], headers.get("prefer", "")
        try:
            _check(services, scope, headers)
            data = await body.whole(headers, services.config.limits.json_body_bytes)
            source = _source(services, scope, headers)
            answer = await answer_submit(services, hub, queue, data, prefer=prefer, args=args, source=source)
        except _ClientGone:
            return
        except Exception as error:
            answer = error_answer(error, ref="submit")
            if not _waits_for_leave(headers):
                await body.read_away()
        await _send(services, scope, headers, send, answer, body)

    async def _upload(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        services, _ = await self._started()
        headers, body = _headers(scope), _Body(receive)
        key = scope["path"].split("/")[2]
        try:
            _check(services, scope, headers)
            length = _stated_length(headers)
            link = await ops.upload_link(services, key, length)
            if link is not None:
                elsewhere = Answer(status=307, headers={"location": link, "cache-control": "no-store"})
                await _send(services, scope, headers, send, elsewhere, body)
                return
            info = await ops.store_blob(services, key, body.pieces())
            answer = json_answer({"success": True, "key": info.key, "size": info.size_bytes, "sha256": info.sha256})
        except _ClientGone:
            return
        except Exception as error:
            answer = error_answer(error, ref="upload")
            if not _waits_for_leave(headers):
                await body.read_away()
        await _send(services, scope, headers, send, answer, body)


class _Body:
    """The body of one request, read as fast as it is used."""

    def __init__(self, receive: _Receive) -> None:
        self._receive = receive
        self._has_more = True

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        self._has_more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def whole(self, headers: dict[str, str], limit: int) -> bytes:
        """All of a small body, within a time and a size."""
        length = _stated_length(headers)
        if length > limit:
            raise LimitExceeded(f"the body has {length} bytes; at most {limit} are allowed")
        parts, size = [], 0
        try:
            async with asyncio.timeout(_JSON_BODY_S):
                while self._has_more:
                    parts.append(await self._next())
                    size += len(parts[-1])
                    if size > limit:
                        raise LimitExceeded(f"the body has more than {limit} bytes, which is the most that is allowed")
        except TimeoutError as error:
            raise BadRequest(f"the body took longer than {_JSON_BODY_S:.0f} s to arrive") from error
        return b"".join(parts)

    async def pieces(self) -> AsyncIterator[bytes]:
        """A body of any size, piece by piece; a caller that goes silent is given up."""
        while self._has_more:
            try:
                async with asyncio.timeout(_BLOB_PIECE_S):
                    piece = await self._next()
            except TimeoutError as error:
                raise BadRequest(f"nothing of the body came for {_BLOB_PIECE_S:.0f} s") from error
            if piece:
                yield piece

    @property
    def has_more(self) -> bool:
        return self._has_more

    async def read_away(self) -> None:
        """After a refusal or redirect: take what the caller still sends, within bounds.

        Most clients read the answer only when they have sent everything; closing on them would hide the reason.
        """
        size = 0
        try:
            async with asyncio.timeout(_READ_AWAY_S):
                while self._has_more and size < _READ_AWAY_BYTES:
                    size += len(await self._next())
        except (TimeoutError, _ClientGone):
            return


def _is_submit(pieces: list[str]) -> bool:
    if len(pieces) == 3:
        return pieces[1] == "q" and bool(pieces[2])
    return len(pieces) == 4 and pieces[1] == "q" and bool(pieces[2]) and pieces[3] == "j"


def _headers(scope: _Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _host(scope: _Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")


def _stated_length(headers: dict[str, str]) -> int:
    """What Content-Length says, 0 if it says nothing usable; what really comes is counted as it comes."""
    digits = headers.get("content-length", "")
    return min(int(digits[:19]), 10**18) if digits.isascii() and digits.isdigit() else 0


def _source(services: Services, scope: _Scope, headers: dict[str, str]) -> str:
    if not services.config.limits.submits_per_minute_per_address:
        return ""
    client = scope.get("client") or ("",)
    return source_of(str(client[0]), headers.get("x-forwarded-for", ""), services.config.proxies)


def _check(services: Services, scope: _Scope, headers: dict[str, str]) -> None:
    if "content-length" in headers and "transfer-encoding" in headers:
        raise BadRequest("the request has both Content-Length and Transfer-Encoding", hint="Send one of them.")
    check_host_and_origin(services.config, scope["method"], headers.get("origin", ""), headers.get("host", ""))


def _waits_for_leave(headers: dict[str, str]) -> bool:
    """Such a caller reads the answer before it sends its body."""
    return headers.get("expect", "").lower() == "100-continue"


async def _send(
    services: Services, scope: _Scope, headers: dict[str, str], send: _Send, answer: Answer, body: _Body | None = None
) -> None:
    """Answer; a ``body`` that was not read to its end is read away behind the answer.

    The answer goes out at once, so that a caller who listens while it sends can stop. One that waits for leave to
    send may have been given it by the HTTP server, which then holds the connection until somebody takes the bytes.
    """
    named = answer.all_headers() | cors_headers(services.config, headers.get("origin", ""), headers.get("host", ""))
    named["content-length"] = str(len(answer.body))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    is_left = body is not None and body.has_more
    await send({"type": "http.response.body", "body": answer.body, "more_body": is_left})
    if body is not None and is_left:
        await body.read_away()
        await send({"type": "http.response.body", "body": b""})
