"""Log lines as chunks: how they are cut before they are stored, and put together when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["HALF_BYTES", "chunks", "gather"]

HALF_BYTES = 4 << 20
"""What is kept of the beginning, and as much again of the end; the middle is dropped by chunks."""
_CHUNK_BYTES = 64 << 10


def chunks(lines: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Shape: (number of lines, their bytes, the lines with newlines between them)."""
    run: list[bytes] = []
    size_bytes = 0
    for line in lines:
        if run and size_bytes + len(line) > _CHUNK_BYTES:
            yield len(run), size_bytes, b"\n".join(run)
            run, size_bytes = [], 0
        run.append(line.replace(b"\n", b" "))  # white space between JSON tokens at most
        size_bytes += len(line)
    if run:
        yield len(run), size_bytes, b"\n".join(run)


def gather(found: Iterable[tuple[int, bytes]], since: int, total: int, max_bytes: int) -> tuple[int, list[bytes]]:
    """Lines without a gap between them, up to ``max_bytes`` but at least one. Shape: (number of the first, lines)."""
    taken: list[bytes] = []
    start = total
    for first, text in found:
        skipped = max(since - first, 0)
        if not taken:
            start = first + skipped
        elif first != start + len(taken):
            break
        for line in text.split(b"\n")[skipped:]:
            max_bytes -= len(line)
            if max_bytes < 0 and taken:
                return start, taken
            taken.append(line)
    return start if taken else total, taken
