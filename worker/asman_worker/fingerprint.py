"""Who this worker is, and that nobody else is it: the id, and the lock on the directory that belongs to it.

Two processes with one id would take each other's jobs for their own, so an id and a directory go together and are
held by a lock for as long as the process lives (the kernel lets go of it, however the process ends). Where a data
directory is taken already, the next *slot* inside it is used, with an id of its own, so that starting ``asman worker``
twice just works. An id that was asked for by name is never altered: if it runs already, that is an error.

Source: published worker identity, and its hazard of two workers with one id.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from asman.errors import ConfigError, clip

__all__ = ["MAX_SLOTS", "Identity", "hold_identity"]

MAX_SLOTS = 64
_ID_FILE = "worker-id"
_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Shape: ``directory`` is this process's own; ``slot`` counts from 1, 0 where the id was given by name."""

    worker_id: str
    directory: Path
    slot: int


@contextmanager
def hold_identity(data: Path, *, worker_id: str = "", generate: bool = False) -> Iterator[Identity]:
    """Take an id and its directory, and keep both until the block ends.

    The id is ``worker_id`` if given; else the one kept in the directory, made at first use, with ``-2``, ``-3``...
    for further workers on the same directory; with ``generate`` a fresh one that is not kept.

    Errors: ConfigError if the directory cannot be used, if a worker with the given id runs already, or if all slots
            are taken.
    """
    try:
        identity, lock = _take_named(data, worker_id) if worker_id else _take_slot(data, generate)
    except OSError as error:
        raise ConfigError(
            f"the data directory {data} cannot be used: {error.strerror or error}",
            hint="Give one you may write to with --data-directory.",
        ) from error
    try:
        yield identity
    finally:
        os.close(lock)


def _take_named(data: Path, worker_id: str) -> tuple[Identity, int]:
    directory = data / f"id-{_file_name(worker_id)}"
    lock = _lock(directory)
    if lock is None:
        raise ConfigError(
            f"a worker with the id {clip(worker_id)} runs already with the data directory {data}",
            hint="Stop it first, or give this one another --id.",
        )
    return Identity(worker_id=worker_id, directory=directory, slot=0), lock


def _take_slot(data: Path, generate: bool) -> tuple[Identity, int]:
    for slot in range(1, MAX_SLOTS + 1):
        directory = data if slot == 1 else data / f"slot-{slot}"
        lock = _lock(directory)
        if lock is not None:
            worker_id = str(uuid.uuid4()) if generate else _kept_id(data, slot)
            return Identity(worker_id=worker_id, directory=directory, slot=slot), lock
    raise ConfigError(
        f"{MAX_SLOTS} workers run with the data directory {data} already",
        hint="Give this one another --data-directory.",
    )


def _lock(directory: Path) -> int | None:
    """The open, locked file; None if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle


def _kept_id(data: Path, slot: int) -> str:
    """The id of the whole directory, made once; a slot adds its number."""
    file = data / _ID_FILE
    try:
        kept = file.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if not kept:
        kept = str(uuid.uuid4())
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(kept + "\n")
        draft.replace(file)
    return kept if slot == 1 else f"{kept}-{slot}"


def _file_name(worker_id: str) -> str:
    """A readable directory name that no two ids share."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", worker_id)[:40]
    return f"{readable}-{sha256(worker_id.encode(errors='surrogatepass')).hexdigest()[:12]}"
