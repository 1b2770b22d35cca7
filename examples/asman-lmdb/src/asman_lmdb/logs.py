"""Log lines, one key each: the first and the last 4 MiB of each half; what does not fit falls out of the middle.

Beside the lines stands one small document per job: the attempt, and of each half how many lines it ever had, how many
of them are the head, and where the tail begins now.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass

import lmdb

from asman.abc import LogHalf, LogSlice
from asman_lmdb import keys
from asman_lmdb.records import drop_log, entries, value

__all__ = ["append", "read"]

_KEPT_BYTES = 4 << 20


@dataclass(slots=True)
class _Half:
    """Shape: lines 0 to ``head`` and ``tail`` to ``total`` are kept. Units: bytes."""

    total: int = 0
    head: int = 0
    head_bytes: int = 0
    tail: int = 0
    tail_bytes: int = 0


def append(txn: lmdb.Transaction, queue: str, job_id: str, *, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
    at = keys.place(queue, job_id)
    if txn.get(keys.record(at)) is None:
        return 0
    newest, halves = _state(txn, at)
    if attempt > newest and lines:
        drop_log(txn, at)
        newest, halves = attempt, {}
    kept = halves.setdefault(half, _Half())
    if attempt == newest and lines:
        for line in lines:
            _append_line(txn, at, half, kept, line)
        txn.put(keys.log(at), json.dumps([newest, {name: astuple(state) for name, state in halves.items()}]).encode())
    return 0 if attempt > newest else kept.total


def _append_line(txn: lmdb.Transaction, at: bytes, half: LogHalf, kept: _Half, line: bytes) -> None:
    txn.put(keys.half(at, half) + keys.number(kept.total), line)
    is_head_open = kept.head == kept.total
    kept.total += 1
    if is_head_open and kept.head_bytes + len(line) <= _KEPT_BYTES:
        kept.head = kept.tail = kept.total
        kept.head_bytes += len(line)
        return
    kept.tail_bytes += len(line)
    while kept.tail_bytes > _KEPT_BYTES:
        kept.tail_bytes -= len(txn.pop(keys.half(at, half) + keys.number(kept.tail)) or b"")
        kept.tail += 1


def read(txn: lmdb.Transaction, queue: str, job_id: str, *, half: LogHalf, since: int, max_bytes: int) -> LogSlice:
    at = keys.place(queue, job_id)
    attempt, halves = _state(txn, at)
    kept = halves.get(half, _Half())
    start = min(max(since, 0), kept.total)
    if start >= kept.head:
        start = max(start, kept.tail)
    taken: list[bytes] = []
    for key, line in entries(txn, keys.half(at, half), keys.number(start)):
        max_bytes -= len(line)
        is_gap = key != keys.number(start + len(taken))
        if is_gap or (max_bytes < 0 and taken):  # one line at least: a reader must get on
            break
        taken.append(line)
    return LogSlice(attempt=attempt, start=start, lines=tuple(taken), total=kept.total)


def _state(txn: lmdb.Transaction, at: bytes) -> tuple[int, dict[LogHalf, _Half]]:
    stored = value(txn, keys.log(at))
    attempt, halves = json.loads(stored) if stored else (0, {})
    return attempt, {name: _Half(*numbers) for name, numbers in halves.items()}
