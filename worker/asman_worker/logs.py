"""From the engine's byte stream to lines: take frames apart, decode, split, batch, keep a bounded part.

A line is ``[text, ms]``, or ``[text, ms, true]`` for stderr; the text keeps its newline, so that joining the texts
gives the stream back, byte for byte where it is UTF-8. Characters are never cut, neither at a frame nor at a line.
The stream is always drained, whatever its speed: output that nobody reads would stop the job.

Where the stream is cut into lines depends on its bytes only, not on how they arrive, so that a second reading of the
same stream (after a restart) gives the same lines and a count of lines is enough to know where to go on. Two cases
make an exception: a line that waits unfinished for a second is sent as it is, and that place is remembered
(``breaks``) for the second reading; and output denser than a person can read is sent in larger pieces.

Kept are the first and the last 4 MiB; what is left out in between is said by a line of its own.

Source: contract, promise P9 and "Logs"; Docker Engine API v1.41, "Attach to a container", stream format.
"""

from __future__ import annotations

import asyncio
import codecs
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from asman_worker.docker import read_moment
from asman_worker.redact import RedactedStream, Redactor

__all__ = [
    "HEAD_BYTES",
    "STDERR",
    "STDOUT",
    "TAIL_BYTES",
    "Demultiplexer",
    "KeptLog",
    "Line",
    "LineSplitter",
    "LogPump",
    "merge_lines",
    "take_timestamp",
]

Line = list[Any]
"""``[text, ms]`` or ``[text, ms, true]``."""

STDOUT = 1
STDERR = 2
HEAD_BYTES = 4 << 20
TAIL_BYTES = 4 << 20

_HEADER = struct.Struct(">BxxxL")
_PIECE_BYTES = 16 << 10
_DENSE_LINES = 512
_DENSE_LINE_BYTES = 16
_FLUSH_S = 0.1
_FLUSH_BYTES = 64 << 10
_PARTIAL_S = 1.0
_LIVE_BYTES_PER_FLUSH = 32 << 10
_MOST_LINES = 10_000


class Demultiplexer:
    """Takes the engine's frames apart: ``feed`` answers (stream, bytes) for each frame that is complete.

    Shape:  a frame is one byte stream number, three of padding, four of length (big endian), then its bytes.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        buffer = self._rest + data if self._rest else data
        frames, at, end = [], 0, len(buffer)
        while end - at >= _HEADER.size:
            stream, length = _HEADER.unpack_from(buffer, at)
            start = at + _HEADER.size
            if end - start < length:
                break
            frames.append((stream, buffer[start : start + length]))
            at = start + length
        self._rest = buffer[at:]
        return frames


def take_timestamp(frame: bytes) -> tuple[bytes, int | None]:
    """Split the time off that the engine puts before a stored frame; None if there is none. Units: milliseconds."""
    head, space, rest = frame.partition(b" ")
    try:
        moment = read_moment(head.decode("ascii"))
    except ValueError:
        return frame, None
    return (rest, round(moment * 1000)) if space and moment else (frame, None)


class LineSplitter:
    """One stream's bytes into texts.

    A text ends after a newline, after a carriage return that no newline follows (progress bars), after 16 KiB, or at
    a remembered break. ``offset`` counts the bytes that have been given out.
    """

    def __init__(self, breaks: Iterable[int] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = b""
        self._breaks = deque(sorted(breaks))
        self.offset = 0
        self.coarse = False
        """Give out large pieces from now on, whole lines together."""

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        buffer = self._pending + data if self._pending else data
        texts, at = [], 0
        dense = not self._breaks and (self.coarse or _is_dense(buffer))
        while (end := self._end(buffer, at, dense)) > at:
            texts.append(self._give(buffer[at:end]))
            at = end
        self._pending = buffer[at:]
        return [text for text in texts if text]

    def break_here(self) -> tuple[list[str], int]:
        """Give out what waits unfinished. Shape: the texts, and the offset to remember."""
        texts = [self._give(self._pending)]
        self._pending = b""
        return [text for text in texts if text], self.offset

    def close(self) -> list[str]:
        """The rest, and what an unfinished character leaves."""
        texts = [self._give(self._pending), self._decode(b"", True)]
        self._pending = b""
        return ["".join(texts)] if any(texts) else []

    def _give(self, piece: bytes) -> str:
        self.offset += len(piece)
        return self._decode(piece)

    def _end(self, buffer: bytes, at: int, dense: bool) -> int:
        """Where the next text ends; ``at`` itself if it is not known yet."""
        while self._breaks and self._breaks[0] <= self.offset:
            self._breaks.popleft()
        limit = min(at + _PIECE_BYTES, len(buffer))
        if dense:
            return buffer.rfind(b"\n", at, limit) + 1 or (limit if limit - at == _PIECE_BYTES else at)
        end = _line_end(buffer, at, limit)
        if end == at and limit - at == _PIECE_BYTES:
            end = limit
        if self._breaks:
            planned = at + self._breaks[0] - self.offset
            if planned <= (end if end > at else limit):
                return planned
        return end


def _is_dense(buffer: bytes) -> bool:
    """Many lines at once, and short ones."""
    lines = buffer.count(b"\n")
    return lines > _DENSE_LINES and len(buffer) < lines * _DENSE_LINE_BYTES


def _line_end(buffer: bytes, at: int, limit: int) -> int:
    """After the first line end within the limit; ``at`` if there is none. A last CR waits for what follows it."""
    newline = buffer.find(b"\n", at, limit) + 1
    bare = buffer.find(b"\r", at, newline - 1 if newline else limit) + 1
    while bare and buffer[bare : bare + 1] == b"\r":
        bare += 1
    if bare and bare < limit and buffer[bare : bare + 1] != b"\n":
        return bare
    return newline or at


class KeptLog:
    """The first 4 MiB and the last 4 MiB of a log; ``lines`` says with a line of its own what is missing."""

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._head: list[Line] = []
        self._tail: deque[tuple[Line, int]] = deque()
        self._head_left = head_bytes
        self._tail_left = tail_bytes
        self.dropped_bytes = 0

    @property
    def is_full(self) -> bool:
        """Is the head full, so that what comes now may be dropped?"""
        return self._head_left <= 0

    def add(self, line: Line) -> None:
        size = len(line[0].encode("utf-8", "replace"))
        if self._head_left > 0 and size <= self._head_left:
            self._head.append(line)
            self._head_left -= size
            return
        self._head_left = 0
        self._tail.append((line, size))
        self._tail_left -= size
        while self._tail_left < 0:
            _, gone = self._tail.popleft()
            self._tail_left += gone
            self.dropped_bytes += gone

    def lines(self) -> list[Line]:
        tail = [line for line, _ in self._tail]
        if not self.dropped_bytes:
            return [*self._head, *tail]
        moment = tail[0][1] if tail else 0
        return [*self._head, [_dropped_text(self.dropped_bytes), moment, True], *tail]


def _dropped_text(count: int) -> str:
    return f"[asman] {count} bytes of output were dropped here: the log keeps the first and the last 4 MiB\n"


def _crowd_text(count: int) -> str:
    return f"[asman] {count} bytes of output are not shown here: the job writes faster than logs are sent\n"


def merge_lines(lines: Sequence[Line], most: int = _MOST_LINES) -> list[Line]:
    """Join neighbours of one stream into pieces of up to 16 KiB, if there are more than ``most`` lines.

    A line of two bytes costs ten times as much on the wire; four million of them must still fit in a report.
    """
    if len(lines) <= most:
        return list(lines)
    merged: list[Line] = []
    parts: list[str] = []
    size = 0
    for line in lines:
        if merged and merged[-1][2:] == line[2:] and size + len(line[0]) <= _PIECE_BYTES:
            parts.append(line[0])
            size += len(line[0])
            continue
        if merged:
            merged[-1][0] = "".join(parts)
        merged.append(list(line))
        parts, size = [line[0]], len(line[0])
    if merged:
        merged[-1][0] = "".join(parts)
    return merged


class LogPump:
    """From raw chunks to batches of lines for the sink, about every 100 ms or 64 KiB, and to the kept log.

    Once the kept log's first part is full the sink gets at most 32 KiB per batch, the rest of that batch being
    replaced by a line that says so: a live view of a flood is no use to anybody, and must not become one itself.

    Secrets are taken out (``redact``) after the cut into lines, so that places in the stream stay what they are. A
    piece that may hold the beginning of a secret waits for the next; which pieces come out, and how many, still
    depends on the stream's bytes only.

    Shape:  ``breaks`` are the remembered places per stream, ``on_break`` is told a new one (stream, offset);
            ``skip_lines`` lines are kept but not sent, because they have been sent before;
            ``skip_bytes`` per stream are left out altogether, because this pump has seen them already.
    """

    def __init__(
        self,
        send: Callable[[list[Line]], None],
        *,
        skip_lines: int = 0,
        breaks: Mapping[int, Iterable[int]] | None = None,
        on_break: Callable[[int, int], None] | None = None,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._send = send
        self._skip_lines = skip_lines
        self._on_break = on_break
        self._now_ms = now_ms
        self._frames = Demultiplexer()
        self._splitters = {stream: LineSplitter((breaks or {}).get(stream, ())) for stream in (STDOUT, STDERR)}
        self._received = {STDOUT: 0, STDERR: 0}
        self._skip_bytes = {STDOUT: 0, STDERR: 0}
        self._batch: list[Line] = []
        self._batch_bytes = 0
        self._unsent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._partial_since: float | None = None
        self._redactor = Redactor(())
        self._redacted: dict[int, RedactedStream] = {}
        self.kept = KeptLog()

    def redact(self, redactor: Redactor) -> None:
        """Take these secrets out of everything that comes from now on; call it before the first byte."""
        self._redactor = redactor
        self._redacted = {stream: redactor.stream() for stream in (STDOUT, STDERR)}

    def feed(self, chunk: bytes, *, stored: bool = False) -> None:
        """Take one raw piece of the stream. ``stored`` frames carry their time in front."""
        now = self._now_ms()
        for stream, data in self._frames.feed(chunk):
            moment: int | None = now
            if stored:
                data, moment = take_timestamp(data)
            number = STDERR if stream == STDERR else STDOUT
            if fresh := self._unseen(number, data):
                self._received[number] += len(fresh)
                self._splitters[number].coarse = self.kept.is_full
                texts = self._splitters[number].feed(fresh)
                self._take(number, texts, moment or now)
                if texts:
                    self._partial_since = None
        self._schedule()

    def restart(self) -> None:
        """The stream will be read again from its start: what has been seen is skipped."""
        self._frames = Demultiplexer()
        self._skip_bytes = dict(self._received)

    def add(self, text: str) -> None:
        """A line of the worker's own, flagged as stderr."""
        whole = self._redactor.text(text if text.endswith("\n") else f"{text}\n")
        self._emit(STDERR, whole, self._now_ms())
        self._schedule()

    def finish(self) -> None:
        """The stream has ended: give out what waits, and send it."""
        for stream, splitter in self._splitters.items():
            self._take(stream, splitter.close(), self._now_ms())
        for stream, redacted in self._redacted.items():
            for text, moment in redacted.close():
                self._emit(stream, text, moment)
        self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        self._cancel_timer()
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if self._unsent_bytes:
            batch.append([_crowd_text(self._unsent_bytes), self._now_ms(), True])
            self._unsent_bytes = 0
        if batch:
            self._send(batch)

    def close(self) -> None:
        """Drop the timer; for a pump that is given up."""
        self._cancel_timer()

    def _unseen(self, stream: int, data: bytes) -> bytes:
        skip = min(self._skip_bytes[stream], len(data))
        self._skip_bytes[stream] -= skip
        return data[skip:] if skip else data

    def _take(self, stream: int, texts: Iterable[str], moment: int) -> None:
        redacted = self._redacted.get(stream)
        for text in texts:
            for shown, at in redacted.feed(text, moment) if redacted is not None else ((text, moment),):
                self._emit(stream, shown, at)
        if self._batch_bytes >= _FLUSH_BYTES and not self.kept.is_full:
            self.flush()

    def _emit(self, stream: int, text: str, moment: int) -> None:
        """Keep a line, and have it sent unless it has been, or there is too much."""
        line: Line = [text, moment, True] if stream == STDERR else [text, moment]
        crowded = self.kept.is_full
        self.kept.add(line)
        if self._skip_lines > 0:
            self._skip_lines -= 1
        elif crowded and self._batch_bytes >= _LIVE_BYTES_PER_FLUSH:
            self._unsent_bytes += len(text.encode("utf-8", "replace"))
        else:
            self._batch.append(line)
            self._batch_bytes += len(text)

    def _schedule(self) -> None:
        waits = any(splitter.has_pending for splitter in self._splitters.values())
        loop = asyncio.get_running_loop()
        self._partial_since = (self._partial_since or loop.time()) if waits else None
        if self._timer is None and (self._batch or waits):
            self._timer = loop.call_later(_FLUSH_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        since = self._partial_since
        if since is not None and asyncio.get_running_loop().time() - since >= _PARTIAL_S:
            self._break_partials()
        self.flush()
        self._schedule()

    def _break_partials(self) -> None:
        self._partial_since = None
        for stream, splitter in self._splitters.items():
            if splitter.has_pending:
                texts, offset = splitter.break_here()
                self._take(stream, texts, self._now_ms())
                if self._on_break is not None:
                    self._on_break(stream, offset)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
