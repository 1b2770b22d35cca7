"""The log lines of one attempt on their way to the server: numbered, batched, bounded, and sent again if in doubt.

A step that begins is told too, by a message without lines; it waits its turn among the lines.

Each message says how many lines went before it (``seq``), so the server drops what it has already and the reader sees
every line once. What was sent stays here until a ``PONG`` confirms it; after a reconnect it is sent again under its
old numbers. While the server is out of reach lines wait in memory up to a bound; beyond it the oldest waiting lines
give way to one line that says how many bytes are missing, and the log of the result still has them.

``progress`` is what a later process needs in order to go on where this one stopped: how many lines were numbered, and
how many lines of the container they stand for.

Source: promises P9; published log messages and their batching advice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asman.messages import ms

__all__ = ["BATCH_BYTES", "LogBatch", "LogStream", "Progress"]

BATCH_BYTES = 128 << 10
_WAITING_BYTES = 4 << 20
_UNCONFIRMED_BYTES = 1 << 20
_LINE_COST = 32
_CONTAINER_STEP = "Running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a log got. Shape: ``seq`` counts numbered lines, ``container_lines`` the container's among them."""

    seq: int = 0
    container_lines: int = 0


@dataclass(slots=True, kw_only=True)
class LogBatch:
    """Lines of one step that go in one message, or none where it only says that the step has begun.

    Shape:  ``began`` is when it did, in milliseconds since the epoch, where that is told here; ``number`` is the send
            that carried it, None while there is none.
    """

    seq: int
    step: str
    lines: list[Any]
    size_bytes: int
    after: Progress
    began: int | None = None
    number: int | None = None


class LogStream:
    """Lines of one attempt, from ``start`` on."""

    def __init__(self, *, start: Progress | None = None, waiting_bytes: int = _WAITING_BYTES) -> None:
        begun = start or Progress()
        self._seq, self._container_lines = begun.seq, begun.container_lines
        self._limit_bytes = waiting_bytes
        self._waiting: deque[tuple[str, list[Any] | int, int]] = deque()
        """Step, a line or the time at which the step began, and what it counts for."""
        self._waiting_bytes = 0
        self._again: deque[LogBatch] = deque()
        self._unconfirmed: deque[LogBatch] = deque()
        self._unconfirmed_bytes = 0
        self._dropped_bytes = 0
        self.progress = begun
        """What the server is known to have."""

    @property
    def is_empty(self) -> bool:
        """Nothing is left to be sent, for the first time or again."""
        return not self._waiting and not self._again

    @property
    def is_held_up(self) -> bool:
        """So much is under way unconfirmed that a PONG should come before more is sent."""
        return self._unconfirmed_bytes >= _UNCONFIRMED_BYTES

    def add(self, step: str, lines: Sequence[list[Any]]) -> None:
        """Take lines in, or word that a step begins; what is over the bound drops the oldest that were never sent."""
        if not lines:
            self._waiting.append((step, ms(time.time()), _LINE_COST))
            self._waiting_bytes += _LINE_COST
        for line in lines:
            size = len(line[0]) + _LINE_COST
            self._waiting.append((step, line, size))
            self._waiting_bytes += size
        while self._waiting_bytes > self._limit_bytes and len(self._waiting) > 1:
            dropped_step, dropped, size = self._waiting.popleft()
            self._waiting_bytes -= size
            if not isinstance(dropped, int):
                self._container_lines += dropped_step == _CONTAINER_STEP
                self._dropped_bytes += len(dropped[0].encode(errors="replace"))

    def take(self) -> LogBatch | None:
        """The next message's lines: first what must be sent again, then what waits. None: nothing, or held up."""
        if self._again:
            batch = self._again.popleft()
        elif self.is_held_up or self.is_empty:
            return None
        else:
            batch = self._next()
        self._unconfirmed.append(batch)
        self._unconfirmed_bytes += batch.size_bytes
        return batch

    def _next(self) -> LogBatch:
        step = self._waiting[0][0]
        lines: list[Any] = self._note_dropped()
        size, began = 0, None
        while self._waiting and self._waiting[0][0] == step and size < BATCH_BYTES:
            _, taken, cost = self._waiting.popleft()
            size += cost
            if isinstance(taken, int):
                began = taken
            else:
                lines.append(taken)
                self._container_lines += step == _CONTAINER_STEP
        self._waiting_bytes -= size
        seq, self._seq = self._seq, self._seq + len(lines)
        after = Progress(seq=self._seq, container_lines=self._container_lines)
        return LogBatch(seq=seq, step=step, lines=lines, size_bytes=size, after=after, began=began)

    def _note_dropped(self) -> list[Any]:
        if not self._dropped_bytes:
            return []
        note = f"[asman] {self._dropped_bytes} bytes of log are left out here: the server was out of reach\n"
        self._dropped_bytes = 0
        return [[note, ms(time.time()), True]]

    def confirm(self, number: int) -> bool:
        """Sends up to ``number`` have arrived; answers whether that is news."""
        before = self.progress
        while self._unconfirmed and (sent := self._unconfirmed[0].number) is not None and sent <= number:
            batch = self._unconfirmed.popleft()
            self._unconfirmed_bytes -= batch.size_bytes
            self.progress = batch.after
        return self.progress is not before

    def rewind(self, *, repeat: bool = True) -> None:
        """The connection is gone: what was not confirmed is sent again, unless the server could not tell repeats."""
        for batch in reversed(self._unconfirmed if repeat else ()):
            batch.number = None
            self._again.appendleft(batch)
        if not repeat:
            self._again.clear()
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
