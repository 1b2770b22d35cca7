"""Bytes as text that D1 can carry, and log lines as the runs that become rows.

What is UTF-8 without NUL stands as it is, and that is nearly everything: documents and lines are JSON. Anything else is
written in base64 behind an equals sign, with which no JSON text begins.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asman_cloudflare.d1_schema import HALF_BYTES, MERGED_BYTES

__all__ = ["PART_CHARACTERS", "Run", "from_text", "gather", "runs_of", "to_text"]

PART_CHARACTERS = 256 << 10
"""A longer line is cut: 4 bytes each make 1 MiB, and a row may have 2 MB."""

_MARK = "="


def to_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _encoded(data)
    return _encoded(data) if text.startswith(_MARK) or "\0" in text else text


def _encoded(data: bytes) -> str:
    return _MARK + b64encode(data).decode()


def from_text(text: str) -> bytes:
    return b64decode(text[1:]) if text.startswith(_MARK) else text.encode()


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be appended to a log's half in one step: ``count`` lines, or a part of one line.

    Shape:  ``part`` counts the parts of a long line from 0. Units: ``size_bytes`` of the lines, of all parts together.
    """

    part: int
    count: int
    size_bytes: int
    text: str


def runs_of(lines: Iterable[bytes]) -> Iterator[Run]:
    """The lines in order, as runs of about a row's size. Of a line that no half could hold only its place is kept."""
    texts: list[str] = []
    size_bytes = 0
    for line in lines:
        if texts and size_bytes + len(line) > MERGED_BYTES:
            yield Run(0, len(texts), size_bytes, "\n".join(texts))
            texts, size_bytes = [], 0
        if len(line) > MERGED_BYTES:
            yield from _parts(line)
        else:
            texts.append(_line_text(line))
            size_bytes += len(line)
    if texts:
        yield Run(0, len(texts), size_bytes, "\n".join(texts))


def _line_text(line: bytes) -> str:
    return _encoded(line) if b"\n" in line else to_text(line)


def _parts(line: bytes) -> Iterator[Run]:
    if len(line) > HALF_BYTES:
        yield Run(0, 1, len(line), "")
        return
    text = _line_text(line)
    for part, at in enumerate(range(0, len(text), PART_CHARACTERS)):
        yield Run(part, 1, len(line), text[at : at + PART_CHARACTERS])


def gather(rows: Iterable[tuple[int, int, str | None]], since: int, max_bytes: int) -> tuple[int, list[bytes]]:
    """Lines from ``since`` on without a gap between them, up to ``max_bytes`` but at least one.

    Shape:  rows are (number of the first line, part, text); the answer is (number of the first line, lines).
    """
    start, taken = -1, list[bytes]()
    for first, text in _whole(rows):
        lines = text.split("\n")[max(since - first, 0) :]
        if start < 0:
            start = max(first, since)
        elif first != start + len(taken):
            break
        for line in lines:
            data = from_text(line)
            max_bytes -= len(data)
            if max_bytes < 0 and taken:
                return start, taken
            taken.append(data)
    return start, taken


def _whole(rows: Iterable[tuple[int, int, str | None]]) -> Iterator[tuple[int, str]]:
    """Long lines in one piece again; what was not kept is left out."""
    begun, parts = -1, list[str]()
    for first, part, text in rows:
        if part == 0:
            if parts:
                yield begun, "".join(parts)
            begun, parts = first, []
        if text is not None:
            parts.append(text)
    if parts:
        yield begun, "".join(parts)
