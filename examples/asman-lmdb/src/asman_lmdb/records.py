"""What each method of a job store does within one transaction: plain functions that know nothing of threads.

A function that writes looks first and changes after; one that raises leaves no trace, because its transaction ends.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice

import lmdb

from asman.errors import Conflict, clip
from asman.job import Job, State, decode_job, encode_job
from asman_lmdb import keys

__all__ = [
    "counts",
    "delete",
    "document",
    "drop_log",
    "due",
    "entries",
    "find",
    "in_namespace",
    "list_jobs",
    "load",
    "save",
    "scan",
    "value",
]


def entries(txn: lmdb.Transaction, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """What follows the prefix in each key that begins with it, and the value; in order, those before start left out."""
    cursor = txn.cursor()
    there = cursor.set_range(prefix + start)
    while there and bytes(cursor.key()).startswith(prefix):
        yield bytes(cursor.key())[len(prefix) :], bytes(cursor.value())
        there = cursor.next()


def value(txn: lmdb.Transaction, key: bytes) -> bytes | None:
    data = txn.get(key)
    return None if data is None else bytes(data)


def _drop(txn: lmdb.Transaction, prefix: bytes) -> None:
    """Remove every key that begins so."""
    cursor = txn.cursor()
    there = cursor.set_range(prefix)
    while there and bytes(cursor.key()).startswith(prefix):
        cursor.delete()  # moves on to the next key
        there = bool(cursor.key())


# --- reading ---------------------------------------------------------------------------------------------------------


def load(txn: lmdb.Transaction, queue: str, job_id: str) -> Job | None:
    data = value(txn, keys.record(keys.place(queue, job_id)))
    return None if data is None else decode_job(data)


def document(txn: lmdb.Transaction, queue: str, job_id: str, name: str) -> bytes | None:
    return value(txn, keys.document(keys.place(queue, job_id), name))


def list_jobs(
    txn: lmdb.Transaction,
    queue: str,
    *,
    states: Collection[State],
    shape: str | None,
    limit: int,
    after: tuple[float, str] | None,
) -> list[Job]:
    start = keys.age(*after) + b"\0" if after else b""  # the first key that is greater
    runs = (entries(txn, keys.listed(queue, state, shape), start) for state in set(states))
    return _jobs(txn, merge(*runs), limit)  # each run is in order; so is what merging them gives


def in_namespace(txn: lmdb.Transaction, queue: str, namespace: str, limit: int) -> list[Job]:
    return _jobs(txn, entries(txn, keys.held(queue, namespace)), limit)


def find(txn: lmdb.Transaction, job_id: str, limit: int) -> list[Job]:
    return _jobs(txn, entries(txn, keys.found(job_id)), limit)


def due(txn: lmdb.Transaction, before: float, limit: int) -> list[Job]:
    last = keys.moment(before)
    overdue: list[tuple[bytes, bytes]] = []
    for rest, at in islice(entries(txn, keys.due), limit):
        if rest[:8] > last:
            break
        overdue.append((rest, at))
    return _jobs(txn, overdue, limit)


def counts(txn: lmdb.Transaction, queue: str | None) -> dict[tuple[State, str], int]:
    counted = (json.loads(data) for _, data in entries(txn, keys.counters(queue)))
    return {(State(state), shape): number for state, shape, number in counted}


def scan(txn: lmdb.Transaction, cursor: str, limit: int) -> tuple[list[Job], str]:
    """Records in the order of their own keys, which no change of theirs moves."""
    start = bytes.fromhex(cursor) + b"\0" if cursor else b""
    found = list(islice(entries(txn, keys.record(b""), start), limit))
    jobs = [decode_job(data) for _, data in found]
    return jobs, found[-1][0].hex() if len(found) == limit else ""


def _jobs(txn: lmdb.Transaction, found: Iterable[tuple[bytes, bytes]], limit: int) -> list[Job]:
    return [decode_job(value(txn, keys.record(at)) or b"") for _, at in islice(found, limit)]


# --- writing ---------------------------------------------------------------------------------------------------------


def save(
    txn: lmdb.Transaction, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None
) -> None:
    at = keys.place(job.queue, job.job_id)
    before = _checked(txn, job.queue, job.job_id, expected)
    _change_index(txn, at, before, job)
    txn.put(keys.record(at), encode_job(job))
    for name, data in (documents or {}).items():
        if data is None:
            txn.delete(keys.document(at, name))
        else:
            txn.put(keys.document(at, name), data)


def delete(txn: lmdb.Transaction, queue: str, job_id: str, *, expected: int) -> None:
    if load(txn, queue, job_id) is None:
        return
    at = keys.place(queue, job_id)
    before = _checked(txn, queue, job_id, expected)
    _change_index(txn, at, before, None)
    txn.delete(keys.record(at))
    _drop(txn, keys.documents(at))
    drop_log(txn, at)


def drop_log(txn: lmdb.Transaction, at: bytes) -> None:
    txn.delete(keys.log(at))
    _drop(txn, keys.lines(at))


def _checked(txn: lmdb.Transaction, queue: str, job_id: str, expected: int) -> Job | None:
    """The stored record. Errors: Conflict if its version is another one."""
    before = load(txn, queue, job_id)
    stored = before.version if before else 0
    if stored != expected:
        raise Conflict(f"job {clip(job_id)} has version {stored}, not {expected}: somebody else changed it first")
    return before


def _change_index(txn: lmdb.Transaction, at: bytes, before: Job | None, after: Job | None) -> None:
    old, new = keys.index(before), keys.index(after)
    for key in old - new:
        txn.delete(key)
    for key in new - old:
        txn.put(key, at)
    _count(txn, before, -1)
    _count(txn, after, +1)


def _count(txn: lmdb.Transaction, job: Job | None, by: int) -> None:
    if job is None or job.state is State.REMOVED:
        return
    shape = job.requirements.shape
    for queue in (None, job.queue):
        key = keys.counter(queue, job.state, shape)
        stored = value(txn, key)
        number = by + (json.loads(stored)[2] if stored else 0)
        if number:
            txn.put(key, json.dumps([job.state, shape, number]).encode())
        else:
            txn.delete(key)
