"""Where everything lies in Redis.

Queues are spread over ``PARTITIONS`` by a checksum of their names, and each partition has a hash tag of its own: all
that one change of a job touches lies in one slot of a cluster, and what concerns the whole store (what is due, where
a job is) asks a fixed number of keys, however many queues there are. Below the base ``{prefix:N}:`` there are

    job:QUEUE:ID            hash     r record, doc:NAME documents, m what the indexes hold: lines of version, token of
                                     the last change, kind, place, due, namespaces (each ended by a space)
    kind:QUEUE:KIND         zset     the jobs of a queue in one state with one set of requirements, by place
    names:QUEUE:NAMESPACE   zset     the active jobs of a namespace, by place
    all                     zset     all jobs (ID:TIME and QUEUE), by id, and below it by time
    due                     zset     all jobs (QUEUE:ID), scored by when maintenance must look
    count, count:QUEUE      hash     kind to number
    log:QUEUE:ID            hash     attempt, and for each half its totals
    log:QUEUE:ID:HALF:h|t   stream   the first and the last lines of a half, in chunks
    lead:ROLE               hash     (of partition 0) who does maintenance

A sorted set, except ``due``, holds members of equal score, which Redis keeps in the order of their bytes. A time is
written so that this order is its order; a place is such a time and the job's id. A kind is a digit for the state and
the requirements' shape: the jobs in one state are those of the kinds that ``count:QUEUE`` names. Names of queues and
namespaces are percent-encoded, so that a colon or a space ends them.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from urllib.parse import quote
from zlib import crc32

__all__ = ["LAYOUT", "PARTITIONS", "STATES", "Keys", "encoded", "sortable"]

PARTITIONS = 16
LAYOUT = "2"
STATES = {"Queued": "1", "Running": "2", "Finished": "3", "Removed": "4"}


def sortable(number: float) -> str:
    """A number as 16 hex digits whose order is that of the numbers."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return f"{bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63):016x}"


def encoded(name: str) -> str:
    """A name as keys have it."""
    return quote(_bytes(name), safe="")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


class Keys:
    """The names of one deployment. Source: the module's docstring."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.bases = [f"{{{prefix}:{number}}}:" for number in range(PARTITIONS)]
        self.of = lru_cache(maxsize=4096)(self._of)

    def _of(self, queue: str) -> tuple[str, str]:
        """The base of a queue's keys, and its name as keys have it."""
        return self.bases[crc32(_bytes(queue)) % PARTITIONS], encoded(queue)

    @property
    def layout(self) -> str:
        return f"{self.bases[0]}layout"

    def topic(self, topic: str) -> str:
        """The channel of a notifier's topic."""
        return f"{self.prefix}:topic:{topic}"
