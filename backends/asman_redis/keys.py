"""Where everything lies in Redis.

Queues are spread over ``PARTITIONS`` by a checksum of their names, and each partition has a hash tag of its own: all
that one change of a job touches lies in one slot of a cluster, and what concerns the whole store (what is due, where
a job is) asks a fixed number of keys, however many queues there are. Below the base ``{prefix:N}:`` there are

    job:QUEUE:ID            hash     r record, v version, t token of the last change, s state, h shape, p place,
                                     d due, n namespaces, doc:NAME documents
    state:S:QUEUE           zset     the jobs of a queue in one state, by place
    shape:S:QUEUE:SHAPE     zset     the same for one set of requirements
    names:QUEUE:NAMESPACE   zset     the active jobs of a namespace, by place
    find:ID                 zset     the queues that hold a job, by time
    due                     zset     all jobs, by when maintenance must look
    all                     zset     all jobs, by name
    count, count:QUEUE      hash     state and shape to number
    log:QUEUE:ID            hash     attempt, and for each half its totals
    log:QUEUE:ID:HALF:h|t   stream   the first and the last lines of a half, in chunks
    lead:ROLE               hash     (of partition 0) who does maintenance

A sorted set holds members of equal score, which Redis keeps in the order of their bytes. A time is written so that
this order is its order; a place is such a time and the job's id. Queue names are percent-encoded, so that a colon
ends them.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from urllib.parse import quote
from zlib import crc32

__all__ = ["LAYOUT", "PARTITIONS", "STATES", "Keys", "sortable"]

PARTITIONS = 16
LAYOUT = "1"
STATES = {"Queued": "1", "Running": "2", "Finished": "3", "Removed": "4"}


def sortable(number: float) -> str:
    """A number as 16 hex digits whose order is that of the numbers."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return f"{bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63):016x}"


class Keys:
    """The names of one deployment. Source: the module's docstring."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.bases = [f"{{{prefix}:{number}}}:" for number in range(PARTITIONS)]
        self.of = lru_cache(maxsize=4096)(self._of)

    def _of(self, queue: str) -> tuple[str, str]:
        """The base of a queue's keys, and its name as keys have it."""
        name = queue.encode("utf-8", "surrogatepass")
        return self.bases[crc32(name) % PARTITIONS], quote(name, safe="")

    @property
    def layout(self) -> str:
        return f"{self.bases[0]}layout"

    def topic(self, topic: str) -> str:
        """The channel of a notifier's topic."""
        return f"{self.prefix}:topic:{topic}"
