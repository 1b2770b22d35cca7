"""Log lines as chunks of rows: the first and the last 4 MiB of each half, the middle dropped.

A chunk is a run of lines, newline-separated, with the index of its first line. The head of a half is filled first
and then closed for good; from there on the tail grows at its end and loses its oldest chunk when it is too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from asman.abc import LogHalf, LogSlice
from asman_sqlite.requests import Transaction

__all__ = ["append", "drop", "read"]

_HALF_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10

_Chunk = tuple[int, int, bytes]


@dataclass(slots=True)
class _Half:
    """One row of ``logs``. Shape: lines 0 to ``head_lines`` are the head; chunks from there on are the tail."""

    attempt: int
    total: int = 0
    head_lines: int = 0
    head_bytes: int = 0
    tail_bytes: int = 0
    is_head_full: int = 0


def append(tx: Transaction, *, queue: str, job_id: str, attempt: int, half: LogHalf, lines: list[bytes]) -> int:
    number = _job_number(tx, queue, job_id)
    if number is None:
        return 0
    halves = _halves(tx, number)
    newest = max((h.attempt for h in halves.values()), default=attempt)
    if attempt > newest:
        if not lines:
            return 0
        _drop(tx, number)
        halves = {}
    kept = halves.get(half) or _Half(max(attempt, newest))
    if attempt < newest or not lines:
        return kept.total
    for run in _runs(lines):
        _append_run(tx, number, half, kept, run)
    _write_half(tx, number, half, kept)
    return kept.total


def read(tx: Transaction, *, queue: str, job_id: str, half: LogHalf, since: int, max_bytes: int) -> LogSlice:
    number = _job_number(tx, queue, job_id)
    halves = {} if number is None else _halves(tx, number)
    if number is None or half not in halves:
        return LogSlice(attempt=max((h.attempt for h in halves.values()), default=0), start=0, lines=(), total=0)
    kept = halves[half]
    since = min(max(since, 0), kept.total)
    start, lines = _gather(_chunks_from(tx, number, half, since), since, kept.total, max_bytes)
    return LogSlice(attempt=kept.attempt, start=start, lines=tuple(lines), total=kept.total)


def drop(tx: Transaction, *, queue: str, job_id: str) -> None:
    number = _job_number(tx, queue, job_id)
    if number is not None:
        _drop(tx, number)


def _job_number(tx: Transaction, queue: str, job_id: str) -> int | None:
    row = tx.execute("log_job", queue, job_id).fetchone()
    return row[0] if row else None


def _halves(tx: Transaction, number: int) -> dict[LogHalf, _Half]:
    return {half: _Half(*values) for half, *values in tx.execute("log_halves", number)}


def _write_half(tx: Transaction, number: int, half: LogHalf, kept: _Half) -> None:
    tx.execute(
        "write_half",
        number,
        half,
        kept.attempt,
        kept.total,
        kept.head_lines,
        kept.head_bytes,
        kept.tail_bytes,
        kept.is_head_full,
    )


def _drop(tx: Transaction, number: int) -> None:
    tx.execute("drop_halves", number)
    tx.execute("drop_chunks", number)


def _runs(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Cut lines into runs of about a chunk's size; the middle is dropped by chunks."""
    run: list[bytes] = []
    size_bytes = 0
    for line in lines:
        if run and size_bytes + len(line) > _CHUNK_BYTES:
            yield run
            run, size_bytes = [], 0
        run.append(line.replace(b"\n", b" ") if b"\n" in line else line)  # white space between JSON tokens at most
        size_bytes += len(line)
    yield run


def _append_run(tx: Transaction, number: int, half: LogHalf, kept: _Half, run: list[bytes]) -> None:
    size_bytes = sum(map(len, run))
    if size_bytes > tx.blob_bytes:  # one line that no row can hold: it goes the way of the middle
        kept.is_head_full = 1
        kept.total += len(run)
        return
    if not kept.is_head_full and kept.head_bytes + size_bytes <= _HALF_BYTES:
        kept.head_bytes += size_bytes
        kept.head_lines += len(run)
    else:
        kept.is_head_full = 1
        kept.tail_bytes += size_bytes
    tx.execute("write_chunk", number, half, kept.total, len(run), size_bytes, b"\n".join(run))
    kept.total += len(run)
    while kept.tail_bytes > _HALF_BYTES:
        oldest, gone_bytes = tx.execute("oldest_chunk", number, half, kept.head_lines).fetchone()
        tx.execute("drop_chunk", oldest)
        kept.tail_bytes -= gone_bytes


def _chunks_from(tx: Transaction, number: int, half: LogHalf, since: int) -> Iterator[_Chunk]:
    """The chunk that holds line ``since``, if it was kept, and those behind it."""
    before = tx.execute("chunk_before", number, half, since).fetchone()
    holding = [before] if before is not None and since < before[0] + before[1] else []
    return chain(holding, tx.execute("chunks_after", number, half, since))


def _gather(chunks: Iterator[_Chunk], since: int, total: int, max_bytes: int) -> tuple[int, list[bytes]]:
    """Lines without a gap between them, up to ``max_bytes`` but at least one."""
    taken: list[bytes] = []
    start = -1
    for first, _, data in chunks:
        skipped = max(since - first, 0)
        if start < 0:
            start = first + skipped
        elif first != start + len(taken):
            break
        for line in data.split(b"\n")[skipped:]:
            max_bytes -= len(line)
            if max_bytes < 0 and taken:
                return start, taken
            taken.append(line)
    return (start if taken else total), taken
