"""LMDB beneath an event loop: one environment per process, a thread that writes, a few that read.

LMDB refuses to open a folder twice in one process (closing one of the two would take the other's file locks), so
stores on the same folder share its environment; other processes may open it as well, and LMDB takes care of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from asman.errors import AsmanError, ConfigError, StorageFull, Unavailable, clip
from asman_lmdb import keys

__all__ = ["Environment"]

_FORM = b"1"
_READERS = 4
_BATCH = 500

T = TypeVar("T")
_Work = Callable[[lmdb.Transaction], Any]

_opened: dict[str, tuple[lmdb.Environment, int]] = {}
_opening = threading.Lock()


class Environment:
    """One store's access to a folder.

    Errors: what ``work`` raises; StorageFull when the store has reached its size; Unavailable when LMDB fails.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._key = os.path.realpath(path)
        self._env = _acquire(self._key, size_bytes)
        self._writer = ThreadPoolExecutor(1, "asman-lmdb-writer")
        self._readers = ThreadPoolExecutor(_READERS, "asman-lmdb-reader")
        self._waiting: deque[tuple[_Work, Future[Any]]] = deque()

    async def read(self, work: Callable[[lmdb.Transaction], T]) -> T:
        """Do this in a snapshot; a page that is not in memory makes a thread wait, not the loop."""
        return await asyncio.wrap_future(self._submit(self._readers, self._look, work))

    async def write(self, work: Callable[[lmdb.Transaction], T]) -> T:
        """Do this in a transaction; on return it is on stable storage."""
        answer: Future[T] = Future()
        self._waiting.append((work, answer))
        self._submit(self._writer, self._commit_waiting)
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Finish what was asked for, then let go."""
        self._writer.shutdown()
        self._readers.shutdown()
        _release(self._key)

    @staticmethod
    def _submit(threads: ThreadPoolExecutor, function: Callable[..., T], *values: Any) -> Future[T]:
        try:
            return threads.submit(function, *values)
        except RuntimeError as error:
            raise Unavailable("the job store is closed") from error

    def _look(self, work: Callable[[lmdb.Transaction], T]) -> T:
        try:
            with self._env.begin() as txn:
                return work(txn)
        except lmdb.Error as error:
            raise _told(error) from error

    # --- in the writer's thread --------------------------------------------------------------------------------------

    def _commit_waiting(self) -> None:
        """All that wait share one transaction, and so one sync of the disk. Each is whole or not at all."""
        batch: list[tuple[_Work, Future[Any]]] = []
        while self._waiting and len(batch) < _BATCH:
            work, answer = self._waiting.popleft()
            if answer.set_running_or_notify_cancel():  # else its caller has gone
                batch.append((work, answer))
        outcomes: list[Any] = []
        try:
            with self._env.begin(write=True) as txn:
                outcomes = [self._attempt(txn, work) for work, _ in batch]
        except lmdb.Error as error:  # the commit failed: nothing of the batch is stored
            outcomes = [_told(error)] * len(batch)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _attempt(self, txn: lmdb.Transaction, work: _Work) -> Any:
        """What it answers or raises. The inner transaction ends with it, so that the others are not hurt."""
        try:
            with self._env.begin(parent=txn, write=True) as inner:
                return work(inner)
        except lmdb.Error as error:
            return _told(error)
        except Exception as error:
            return error


def _acquire(key: str, size_bytes: int) -> lmdb.Environment:
    with _opening:
        env, users = _opened.get(key, (None, 0))
        if env is None:
            env = _open(key, size_bytes)
        _opened[key] = env, users + 1
        return env


def _release(key: str) -> None:
    with _opening:
        env, users = _opened.pop(key)
        if users > 1:
            _opened[key] = env, users - 1
        else:
            env.close()


def _open(path: str, size_bytes: int) -> lmdb.Environment:
    """Errors: ConfigError for a folder that cannot be made, or whose file is not ours or of a newer release."""
    try:
        os.makedirs(path, exist_ok=True)
        env = lmdb.open(path, map_size=size_bytes, max_spare_txns=_READERS)
    except (OSError, lmdb.Error) as error:
        raise ConfigError(f"cannot open {clip(path)}: {error}", hint="Choose another folder.") from error
    try:
        with env.begin(write=True) as txn:
            _check_form(txn, path)
    except BaseException:
        env.close()
        raise
    return env


def _check_form(txn: lmdb.Transaction, path: str) -> None:
    form = txn.get(keys.VERSION)
    if form is None and txn.stat()["entries"] == 0:
        txn.put(keys.VERSION, _FORM)
    elif form != _FORM:
        found = "another program's data" if form is None else f"form {bytes(form).decode()} of a newer asman-lmdb"
        raise ConfigError(f"{clip(path)} has {found}; this release knows form 1", hint="Choose another folder.")


def _told(error: lmdb.Error) -> AsmanError:
    """The driver's error in the words of ``asman.errors``: they become the right status for whoever asked."""
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)):
        return StorageFull(f"the job store cannot grow: {error}", hint="Raise ?size= in its URL, or free disk space.")
    return Unavailable(f"the job store does not answer: {error}; repeat the request")
