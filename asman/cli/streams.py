"""Where the bytes of an export go to and come from: files, pipes, and the file that is not whole yet.

A pipe is waited for by the loop, so that a signal ends the wait and the stores go on meanwhile. A file simply answers.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from asman.errors import ConfigError, Unavailable

__all__ = [
    "Read",
    "Write",
    "blocking_reader",
    "partial_file",
    "partial_name",
    "put_in_place",
    "reading",
    "source",
    "target",
    "writing",
]

_BUFFER_BYTES = 1 << 20

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def source(file: str) -> Iterator[BinaryIO]:
    """What is read: a file, a named pipe, or stdin for ``-``. Errors: OSError."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as opened:
        yield opened


@contextmanager
def target(output: str) -> Iterator[BinaryIO | None]:
    """What is written to as it comes: stdout for ``-``, a named pipe, a device. None where a file is to be made.

    Errors: click.UsageError if stdout is a terminal.
    """
    if output == "-":
        if sys.stdout.isatty():
            raise click.UsageError("stdout is a terminal; name a file, or a program behind a pipe.")
        yield sys.stdout.buffer
        return
    if not Path(output).exists() or Path(output).is_file():
        yield None
        return
    with Path(output).open("wb") as opened:
        yield opened


def partial_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


@contextmanager
def partial_file(path: Path, *, resume: bool) -> Iterator[BinaryIO]:
    """The file that becomes ``path``; its owner's eyes only, for definitions may hold secrets. Errors: ConfigError."""
    part = partial_name(path)
    try:
        number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL), 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{part} is there: an export was interrupted, or runs", hint="Go on with it by --resume, or remove it."
        ) from None
    with os.fdopen(number, "r+b", buffering=_BUFFER_BYTES) as file:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another export is writing {part}", hint="Wait for it, or choose another name."
            ) from None
        yield file


def put_in_place(file: BinaryIO, path: Path) -> None:
    """The partial file is whole: flush it to the disk, then let it have its name."""
    file.flush()
    os.fsync(file.fileno())
    os.rename(partial_name(path), path)
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- bytes -----------------------------------------------------------------------------------------------------------


def _is_pipe(file: BinaryIO) -> bool:
    mode = os.fstat(file.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def blocking_reader(file: BinaryIO) -> Read:
    async def read(size: int) -> bytes:
        return file.read(size)

    return read


def _blocking_writer(file: BinaryIO) -> Write:
    async def write(data: bytes) -> None:
        file.write(data)

    return write


@asynccontextmanager
async def reading(file: BinaryIO) -> AsyncIterator[Read]:
    """A pipe is waited for by the loop, so that a signal ends the wait; a file simply answers."""
    if not _is_pipe(file):
        yield blocking_reader(file)
        return
    reader = asyncio.StreamReader(limit=_BUFFER_BYTES)
    with os.fdopen(os.dup(file.fileno()), "rb", buffering=0) as pipe:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            yield reader.read
        finally:
            transport.close()


@asynccontextmanager
async def writing(file: BinaryIO) -> AsyncIterator[Write]:
    if not _is_pipe(file):
        yield _blocking_writer(file)
        file.flush()
        return
    loop = asyncio.get_running_loop()
    with os.fdopen(os.dup(file.fileno()), "wb", buffering=0) as pipe:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
        transport.set_write_buffer_limits(high=0)  # so that drain waits until all is with the reader
        writer = asyncio.StreamWriter(transport, protocol, None, loop)

        async def write(data: bytes) -> None:
            try:
                writer.write(data)
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError) as error:
                raise Unavailable("the reader of the export has gone before its end") from error

        try:
            yield write
        finally:
            transport.close()
