"""What stands where in the one ordered map that LMDB is. The first byte of a key says what it is for.

    j  place                          the record, as ``encode_job`` writes it
    d  place, name                    a document
    s  queue and state, age           -> place, for ``list``
    s  queue, state and shape, age    -> place, for ``list`` with a shape
    n  queue and namespace, age       -> place, for ``in_namespace``; queued and running jobs only
    f  job id, queued_at, queue       -> place, for ``find``
    t  due_at, place                  -> place, for ``due``
    c  queue (or all), state, shape   how many
    l  place                          the state of the log
    m  place, half, number            one line of the log

*Place* is a queue and a job id; *age* is ``queued_at`` and the job id. An index is a set of keys that follows from the
record alone: a save removes those of the old record that the new one lacks and adds those it has more.
LMDB takes keys of at most 511 bytes, so names that callers choose (queue, namespace, shape) are hashed.
"""

from __future__ import annotations

import json
import struct
from hashlib import sha256

from asman.job import Job, State

__all__ = [
    "VERSION",
    "age",
    "counter",
    "counters",
    "document",
    "documents",
    "due",
    "found",
    "half",
    "held",
    "index",
    "lines",
    "listed",
    "log",
    "moment",
    "number",
    "place",
    "record",
]

VERSION = b"v"
"""Which form of this layout the file has."""

due = b"t"


def _name(*names: str) -> bytes:
    """32 bytes for names of any length; JSON keeps ("a", "b") and ("ab",) apart."""
    return sha256(json.dumps(names).encode()).digest()


def moment(seconds: float) -> bytes:
    """A time as 8 bytes that sort as the numbers do: the bits of a double sort, but for the sign."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", seconds + 0.0))
    return struct.pack(">Q", bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63))


def age(queued_at: float, job_id: str) -> bytes:
    return moment(queued_at) + job_id.encode()


def place(queue: str, job_id: str) -> bytes:
    return _name(queue) + job_id.encode()


def record(at: bytes) -> bytes:
    return b"j" + at


def documents(at: bytes) -> bytes:
    return b"d" + at + b"\0"


def document(at: bytes, name: str) -> bytes:
    return documents(at) + name.encode()


def listed(queue: str, state: State, shape: str | None = None) -> bytes:
    return b"s" + (_name(queue, state) if shape is None else _name(queue, state, shape))


def held(queue: str, namespace: str) -> bytes:
    return b"n" + _name(queue, namespace)


def found(job_id: str) -> bytes:
    return b"f" + job_id.encode() + b"\0"


def counters(queue: str | None) -> bytes:
    return b"c" + (_name() if queue is None else _name(queue))


def counter(queue: str | None, state: State, shape: str) -> bytes:
    return counters(queue) + _name(state, shape)


def log(at: bytes) -> bytes:
    return b"l" + at


def lines(at: bytes) -> bytes:
    return b"m" + at + b"\0"


def half(at: bytes, name: str) -> bytes:
    return lines(at) + name.encode() + b"\0"


def number(of_line: int) -> bytes:
    return struct.pack(">Q", of_line)


def index(job: Job | None) -> set[bytes]:
    """Every key under which a record is found."""
    if job is None:
        return set()
    aged = age(job.queued_at, job.job_id)
    keys = {
        listed(job.queue, job.state) + aged,
        listed(job.queue, job.state, job.requirements.shape) + aged,
        found(job.job_id) + moment(job.queued_at) + _name(job.queue),
        due + moment(job.due_at) + place(job.queue, job.job_id),
    }
    if job.is_active:
        keys |= {held(job.queue, name) + aged for name in job.namespace_names}
    return keys
