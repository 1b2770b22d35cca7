"""From the engine's events of a build to lines, an image and an error. Bounded, whatever the engine sends.

Two builders tell of their work in two ways. The classic one sends text as it comes; what a step writes to stderr is
wrapped in red. BuildKit sends snapshots of its graph in protocol buffers: vertices (the steps), and what they wrote;
a few fields of that are read here, the rest is skipped.

A build may write more than anybody reads: beyond a bound lines are counted and not passed on, but always drained, and
the last ones are kept for the error.

Source: Docker Engine API v1.41, ``POST /build``; buildkit's control API (StatusResponse, Vertex, VertexLog); protocol
buffers, encoding.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asman_worker.images import PullProgress

__all__ = ["MOST_LAYERS", "BuildLog", "EventReader", "Vertex", "VertexLog", "read_trace"]

MOST_LAYERS = 10_000
"""Ten times what a Dockerfile can make; a log that names so many does not tell the truth."""

_MOST_EVENT_BYTES = 4 << 20
_MOST_LOG_BYTES = 4 << 20
_MOST_LINE = 16 << 10
_LAST_LINES = 20
_MOST_VERTICES = 10_000
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"
_TRACE = "moby.buildkit.trace"


class EventReader:
    """Takes a stream of JSON objects, one a line, apart. Errors: ValueError for what is none, or beyond 4 MiB."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST_EVENT_BYTES:
            raise ValueError("the engine sent an event without end")
        events = [json.loads(line) for line in lines if line.strip()]
        if not all(isinstance(event, dict) for event in events):
            raise ValueError("the engine sent an event that is no object")
        return events


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """One step of BuildKit's graph, as it is now."""

    digest: str
    name: str
    cached: bool
    started: bool
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexLog:
    """What a step wrote. Shape: ``stream`` 1 is stdout, 2 stderr."""

    vertex: str
    stream: int
    data: bytes


def read_trace(data: bytes) -> tuple[list[Vertex], list[VertexLog]]:
    """The vertices and the output in one snapshot. Errors: ValueError for what is no such message."""
    vertices, logs = [], []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            vertices.append(_vertex(value))
        elif number == 3 and isinstance(value, bytes):
            logs.append(_vertex_log(value))
    return vertices, logs


def _vertex(data: bytes) -> Vertex:
    found = dict(_fields(data))
    return Vertex(
        digest=_text(found.get(1)),
        name=_text(found.get(3)),
        cached=found.get(4) == 1,
        started=5 in found,
        error=_text(found.get(7)),
    )


def _vertex_log(data: bytes) -> VertexLog:
    found = dict(_fields(data))
    stream, content = found.get(3), found.get(4)
    return VertexLog(
        vertex=_text(found.get(1)),
        stream=stream if isinstance(stream, int) else 1,
        data=content if isinstance(content, bytes) else b"",
    )


def _text(value: int | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protocol buffers message: numbers as int, everything with a length as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if length > len(data) - at:
            raise ValueError(f"field {number} is cut off")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number is longer than ten bytes")


class BuildLog:
    """What one build says.

    Shape:  ``say`` gets lines with their newline. ``image_id`` and ``error`` are what the engine said last of them;
            ``last`` are the last lines. ``layers`` are shortened ids of the images that steps made, at most so many
            that every one of the engine's has its place; what a step writes can pretend to be one.
    """

    def __init__(self, say: Callable[[str], None], *, most_bytes: int = _MOST_LOG_BYTES) -> None:
        self._say = say
        self._left = most_bytes
        self._partial = ""
        self._cached = False
        self._progress = PullProgress()
        self._numbers: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()
        self._partials: dict[str, str] = {}
        self.image_id = ""
        self.error = ""
        self.dropped_bytes = 0
        self.last: deque[str] = deque(maxlen=_LAST_LINES)
        self.layers: set[str] = set()

    def feed(self, event: Mapping[str, Any]) -> None:
        """Errors: ValueError for a trace that cannot be read."""
        if "stream" in event:
            self._text(str(event["stream"]))
        elif "errorDetail" in event or "error" in event:
            detail = event.get("errorDetail")
            self.error = str((detail or {}).get("message") if isinstance(detail, Mapping) else "") or str(
                event.get("error") or "unknown error"
            )
        elif event.get("id") == _TRACE:
            self._trace(str(event.get("aux") or ""))
        elif isinstance(event.get("aux"), Mapping) and "ID" in event["aux"]:
            self.image_id = str(event["aux"]["ID"])
        elif "status" in event and (line := self._progress.line(event)):
            self._line(line)

    def close(self) -> None:
        """Pass on what waits for its newline, and say how much was left out."""
        for text in (self._partial, *self._partials.values()):
            if text:
                self._line(text + "\n")
        self._partial, self._partials = "", {}
        if self.dropped_bytes:
            self._say(f"[asman] {self.dropped_bytes} more bytes of the build's log are left out\n")

    def _text(self, text: str) -> None:
        if text.startswith(_RED) and text.endswith(_PLAIN):
            text = text.removeprefix(_RED).removesuffix(_PLAIN)
        self._partial = self._lines(self._partial + text, "")

    def _lines(self, text: str, prefix: str) -> str:
        """Pass on the lines that are complete, or too long to wait for; the rest is the answer."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._line(f"{prefix}{line[:_MOST_LINE]}\n")
        while len(rest) >= _MOST_LINE:
            self._line(f"{prefix}{rest[:_MOST_LINE]}\n")
            rest = rest[_MOST_LINE:]
        return rest

    def _line(self, line: str) -> None:
        self._note_layer(line)
        self.last.append(line)
        if len(line) > self._left:
            self._left = 0
            self.dropped_bytes += len(line)
            return
        self._left -= len(line)
        self._say(line)

    def _note_layer(self, line: str) -> None:
        """`` ---> 0123456789ab`` ends a step; after ``Using cache`` it is a layer that was there before."""
        if not line.startswith(" ---> "):
            return
        word = line[6:].strip()
        is_layer = len(word) == 12 and set(word) <= set("0123456789abcdef")
        if is_layer and not self._cached and len(self.layers) < MOST_LAYERS:
            self.layers.add(word)
        self._cached = word == "Using cache"

    def _trace(self, encoded: str) -> None:
        try:
            vertices, logs = read_trace(base64.b64decode(encoded, validate=True))
        except binascii.Error as error:
            raise ValueError(f"the engine sent a trace that is no base64: {error}") from error
        for vertex in vertices:
            self._vertex(vertex)
        for log in logs:
            prefix = f"#{self._number(log.vertex)} "
            text = self._partials.get(log.vertex, "") + log.data.decode(errors="replace")
            rest = self._lines(text, prefix)
            self._partials[log.vertex] = rest
            if not rest:
                del self._partials[log.vertex]

    def _vertex(self, vertex: Vertex) -> None:
        number = self._number(vertex.digest)
        tells = {
            "name": (vertex.started or vertex.cached) and vertex.name,
            "cached": vertex.cached and "CACHED",
            "error": vertex.error and f"ERROR: {vertex.error}",
        }
        for what, text in tells.items():
            if text and (vertex.digest, what) not in self._told and len(self._told) < 3 * _MOST_VERTICES:
                self._told.add((vertex.digest, what))
                self._line(f"#{number} {str(text)[:_MOST_LINE]}\n")

    def _number(self, digest: str) -> int:
        if len(self._numbers) < _MOST_VERTICES:
            self._numbers.setdefault(digest, len(self._numbers) + 1)
        return self._numbers.get(digest, 0)
