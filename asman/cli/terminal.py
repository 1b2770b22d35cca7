"""What a person sees: lines on stderr, tables, JSON and container output on stdout, progress of transfers.

Results go to stdout, everything about the way to them to stderr. Colour and bars only where a terminal is.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from asman.client import Progress
from asman.units import show_bytes, show_duration

__all__ = ["LogWriter", "age", "plain", "print_json", "print_table", "say", "transfer"]

# Sequences that reach past the screen: titles, clipboard, links, device control. Colours and movements may pass.
_REACHING = re.compile(r"\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b[c]|[\x9d\x90\x98\x9e\x9f]", re.DOTALL)
_BAR_FROM_BYTES = 256 << 10


def say(text: str) -> None:
    """One line for the person; never part of a result."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def plain(value: object) -> str:
    """A stranger's text on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns of text, as wide as they must be; the last one is not padded."""
    shown = [list(headers), *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in shown) for i in range(len(headers))]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(milliseconds: object) -> str:
    """How long ago a wire time was."""
    if not isinstance(milliseconds, (int, float)):
        return "-"
    return show_duration(max(round(time.time() - milliseconds / 1000), 0))


class LogWriter:
    """Log lines of a job to where they belong.

    The container's stdout to ours and its stderr to ours, byte for byte unless that is a terminal; lines of fetching
    and building the image to stderr, dim on a terminal. ``all_to_stderr`` keeps stdout for a report.
    """

    def __init__(self, *, all_to_stderr: bool = False, with_build: bool = True) -> None:
        self._out = sys.stderr if all_to_stderr else sys.stdout
        self._with_build = with_build
        self._is_dim = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def write(self, half: str, lines: Sequence[Sequence[Any]]) -> None:
        """Shape: ``half`` is build or run; lines are ``[text, ms]`` or ``[text, ms, true]``."""
        for line in lines:
            text = str(line[0])
            if half == "run":
                _put(sys.stderr if len(line) > 2 and line[2] else self._out, text)
            elif self._with_build:
                _put(sys.stderr, self._build_line(text))
        sys.stdout.flush()
        sys.stderr.flush()

    def _build_line(self, text: str) -> str:
        shown = text if text.endswith("\n") else text + "\n"
        return f"\x1b[2m{_REACHING.sub('', shown)}\x1b[0m" if self._is_dim else shown


def _put(stream: TextIO, text: str) -> None:
    shown = _REACHING.sub("", text) if stream.isatty() else text
    try:
        stream.write(shown)
    except UnicodeEncodeError:
        stream.write(shown.encode(stream.encoding or "ascii", "replace").decode(stream.encoding or "ascii"))


@contextmanager
def transfer(verb: str, name: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Show one transfer: a bar on a terminal, else a line when it is done. Small ones say nothing while they run."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        seen = _Seen()
        yield seen
        say(f"{verb} {plain(name)}" + (f" ({show_bytes(seen.done)})" if seen.done else ""))
        return
    with _bar(verb, plain(name)) as progress:
        yield progress


class _Seen:
    """Remembers how far a transfer got."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int, total: int | None) -> None:
        self.done = done


@contextmanager
def _bar(verb: str, name: str) -> Iterator[Progress | None]:
    """Without rich the transfer is simply not shown."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield None
        return
    columns: Mapping[str, Any] = {"console": Console(stderr=True), "transient": True}
    text = TextColumn("{task.description}")
    with Bars(text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), **columns) as bars:
        task = bars.add_task(f"{verb} {escape(name)}", total=None, visible=False)

        def show(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total, visible=(total or done) >= _BAR_FROM_BYTES)

        yield show
