"""Requests and sockets of a JavaScript host, told to an ASGI app.

The host makes one *line* for each request or socket: a small object whose methods are called from here. What crosses
is text, JSON text and bytes; no Python object is left in the host's hands. A line serves any host: what stands behind
it may be Node's streams, a ``Response`` or a ``WebSocketPair``. No method is called ``next`` or ``send``: what
has those is taken for a generator on its way into Python.

A body goes through piece by piece. ``read`` is asked for a piece when the app wants one, and ``write`` answers with a
promise where the caller reads slowly, which is waited for before the app's next send: so each side goes as fast as
the other. An answer that is complete when it begins crosses in one call instead of three.

Source: ASGI 3.0, "HTTP & WebSocket ASGI Message Format" 2.4, and its extension "Websocket Denial Response".
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol
from urllib.parse import unquote

__all__ = ["App", "Line", "SocketLine", "from_host", "serve_request", "serve_socket", "to_scope"]

_log = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
"""Of ASGI: scope, receive, send."""

_FAILED = b'{"error": "the server failed to answer", "code": "internal_error", "hint": "Try again."}'
_FAILED_HEADERS = json.dumps([["content-type", "application/json"]])
_NORMAL, _NO_CODE, _FAILED_CODE = 1000, 1005, 1011
_REFUSED = 403
"""The status of a handshake that the app closes without an answer of its own."""


class Line(Protocol):
    """One request. Shape: ``headers`` is JSON text, a list of pairs of text; bytes are as ``to_host`` made them."""

    def read(self) -> Awaitable[Any]:
        """The next piece of the body; None at its end, False if the caller has gone before that."""

    def gone(self) -> Awaitable[Any]:
        """Waits until the caller has gone, or has had the whole answer."""

    def answer(self, status: int, headers: str, body: Any) -> None:
        """The whole answer at once."""

    def start(self, status: int, headers: str) -> None:
        """The head of an answer that comes in pieces."""

    def write(self, piece: Any) -> Awaitable[Any] | None:
        """A piece of it; None if there is room for the next one. Nothing happens once the caller has gone."""

    def end(self) -> None:
        """The answer is complete."""

    def cut(self) -> None:
        """The answer cannot be completed: the caller must see that it broke off."""


class SocketLine(Protocol):
    """One websocket."""

    def read(self) -> Awaitable[Any]:
        """The next message, text or bytes; None once it is closed."""

    def closing(self) -> str:
        """JSON text: code and reason of the peer's close."""

    def accept(self, subprotocol: str, headers: str) -> Awaitable[Any] | None:
        """Complete the handshake. Shape: an empty ``subprotocol`` is none."""

    def refuse(self, status: int, headers: str, body: Any) -> None:
        """Answer the handshake over HTTP."""

    def write(self, data: Any) -> Awaitable[Any] | None:
        """One message; None if there is room for the next one."""

    def close(self, code: int, reason: str) -> None: ...


def to_scope(kind: str, told: str) -> dict[str, Any]:
    """The scope of a request or socket. Shape: ``told`` is JSON with method, scheme, path, query, headers, client.

    ``path`` is as it came, percent-encoded. The scheme of a socket is ``ws`` or ``wss`` whatever the host calls it:
    routes are found by it.
    """
    seen = json.loads(told)
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in seen["headers"]]
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": seen.get("http_version", "1.1"),
        "scheme": seen["scheme"],
        "path": unquote(seen["path"]),
        "raw_path": seen["path"].encode("latin-1", "replace"),
        "query_string": seen["query"].encode("latin-1", "replace"),
        "root_path": "",
        "headers": headers,
        "client": tuple(seen["client"]) if seen.get("client") else None,
        "server": None,
        "extensions": {},
    }
    if kind == "http":
        return scope | {"method": seen["method"].upper()}
    is_encrypted = seen["scheme"] in ("https", "wss")
    listed = b",".join(value for name, value in headers if name == b"sec-websocket-protocol").decode("latin-1")
    return scope | {
        "scheme": "wss" if is_encrypted else "ws",
        "subprotocols": [word.strip() for word in listed.split(",") if word.strip()],
        "extensions": {"websocket.http.response": {}},
    }


def _json(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers])


def from_host(piece: Any) -> bytes:
    """Bytes of the host's, copied: what the host does with its own afterwards changes nothing here."""
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    copied: bytes = piece.to_bytes()
    return copied


# --- HTTP ------------------------------------------------------------------------------------------------------------


async def serve_request(app: App, told: str, line: Line, to_host: Callable[[bytes], Any] = bytes) -> None:
    """One request, from its head to the end of its answer. ``to_host`` makes the host's own form of bytes."""
    exchange = _Exchange(line, to_host)
    try:
        await app(to_scope("http", told), exchange.receive, exchange.send)
    except Exception:
        _log.exception("the app failed to answer")
    exchange.finish()


class _Exchange:
    def __init__(self, line: Line, to_host: Callable[[bytes], Any]) -> None:
        self._line, self._to_host = line, to_host
        self._body_is_read = False
        self._head: tuple[int, str] | None = None
        self._first: bytes | None = None
        self._flush: asyncio.Handle | None = None
        self._room: Awaitable[Any] | None = None
        self._is_started = self._is_done = False

    async def receive(self) -> dict[str, Any]:
        if not self._body_is_read:
            piece = await self._line.read()
            if piece is False:
                return {"type": "http.disconnect"}
            if piece is not None:
                return {"type": "http.request", "body": from_host(piece), "more_body": True}
            self._body_is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._line.gone()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._head = message["status"], _json(message.get("headers", ()))
        elif message["type"] == "http.response.body" and not self._is_done:
            await self._body(bytes(message.get("body", b"")), is_last=not message.get("more_body", False))

    async def _body(self, piece: bytes, *, is_last: bool) -> None:
        """The first piece is held for one turn: mostly the end follows at once, and then all is one call."""
        if self._head is None:
            raise RuntimeError("the app sent a body before a head")
        if is_last:
            self._is_done = True
        if not self._is_started:
            if is_last:
                self._hold_no_longer()
                self._line.answer(*self._head, self._to_host((self._first or b"") + piece))
                return
            if self._first is None:
                self._first = piece
                self._flush = asyncio.get_running_loop().call_soon(self._begin)
                return
            self._begin()
        await self._make_room()
        if piece:
            self._room = self._line.write(self._to_host(piece))
            await self._make_room()
        if is_last:
            self._line.end()

    def _hold_no_longer(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None

    def _begin(self) -> None:
        self._hold_no_longer()
        assert self._head is not None
        self._is_started = True
        self._line.start(*self._head)
        if self._first:
            self._room = self._line.write(self._to_host(self._first))

    async def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            await room

    def finish(self) -> None:
        """The app has returned or failed: whoever waits for the rest of an answer is not left waiting."""
        self._hold_no_longer()
        if self._is_done:
            return
        self._is_done = True
        if self._is_started:
            self._line.cut()
        else:
            self._line.answer(500, _FAILED_HEADERS, self._to_host(_FAILED))


# --- sockets ---------------------------------------------------------------------------------------------------------


async def serve_socket(app: App, told: str, line: SocketLine, to_host: Callable[[bytes], Any] = bytes) -> None:
    """One socket, from its handshake to its close."""
    socket = _Socket(line, to_host)
    try:
        await app(to_scope("websocket", told), socket.receive, socket.send)
    except Exception:
        _log.exception("the app failed on a socket")
    socket.finish()


class _Socket:
    def __init__(self, line: SocketLine, to_host: Callable[[bytes], Any]) -> None:
        self._line, self._to_host = line, to_host
        self._has_connected = self._is_accepted = self._is_over = False
        self._denial: tuple[int, str, bytes] | None = None

    async def receive(self) -> dict[str, Any]:
        if not self._has_connected:
            self._has_connected = True
            return {"type": "websocket.connect"}
        message = await self._line.read()
        if message is None:
            self._is_over = True
            code, reason = json.loads(self._line.closing())
            return {"type": "websocket.disconnect", "code": code or _NO_CODE, "reason": reason}
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": from_host(message)}

    async def send(self, message: dict[str, Any]) -> None:
        if self._is_over:
            return
        match message["type"]:
            case "websocket.accept":
                self._is_accepted = True
                handshake = self._line.accept(message.get("subprotocol") or "", _json(message.get("headers", ())))
                await _wait(handshake)
            case "websocket.send":
                text = message.get("text")
                await _wait(self._line.write(self._to_host(message["bytes"]) if text is None else text))
            case "websocket.close" if self._is_accepted:
                self._close(message.get("code") or _NORMAL, message.get("reason") or "")
            case "websocket.close":
                self._refuse(_REFUSED, "[]", b"")
            case "websocket.http.response.start":
                self._denial = message["status"], _json(message.get("headers", ())), b""
            case "websocket.http.response.body" if self._denial is not None:
                status, headers, body = self._denial
                self._denial = status, headers, body + message.get("body", b"")
                if not message.get("more_body", False):
                    self._refuse(*self._denial)

    def _close(self, code: int, reason: str) -> None:
        self._is_over = True
        self._line.close(code, reason)

    def _refuse(self, status: int, headers: str, body: bytes) -> None:
        self._is_over = True
        self._line.refuse(status, headers, self._to_host(body))

    def finish(self) -> None:
        """The app has returned or failed: no socket is left open without anybody behind it."""
        if self._is_over:
            return
        if self._is_accepted:
            self._close(_FAILED_CODE, "")
        else:
            self._refuse(500, _FAILED_HEADERS, _FAILED)


async def _wait(promise: Awaitable[Any] | None) -> None:
    if promise is not None:
        await promise
