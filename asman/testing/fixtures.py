"""Records and bytes to examine a backend with, and what all kits have in common."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from asman.job import Attempt, Callback, Job, Outcome, Reason, Requirements, State

__all__ = [
    "FAR",
    "NAMESPACES",
    "NOW",
    "QUEUE_NAMES",
    "Exam",
    "chunked",
    "differs_at",
    "fresh_id",
    "joined",
    "make_job",
    "rich_job",
]

NOW = 1_700_000_000.0
"""When the records of the kits were queued, if a test does not say otherwise."""

FAR = 4_000_000_000.0
"""Their expiry: no server that sweeps the store beside a running kit takes them for expired."""

QUEUE_NAMES = ("a", "A", "-", "~", "_", "..x", "x.y~z-_", "0", "null", "q" * 128)
NAMESPACES = ("_", "a", "A", " ", "o'neil", '"', "%", "a\\b", "a;b--", "[1,2]", "naïve", "名前空間", "🦀", "n" * 256)


class Exam:
    """What all kits share: a folder and a queue of each test's own.

    Shape:  ``durable`` and ``shared`` are what a backend claims; ``queues`` are the queue names a test has used.
    """

    durable = False
    shared = False

    folder: Path
    queue: str
    queues: list[str]

    @pytest.fixture(autouse=True)
    def _prepared(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.queues = []
        self.queue = self.new_queue()

    def new_queue(self, name: str = "") -> str:
        """A queue name that nobody else uses; ``name`` ends it, cut to what names may be."""
        made = f"kit-{uuid4().hex[:16]}-{name}"[:128]
        self.queues.append(made)
        return made

    def needs_durable(self) -> None:
        if not self.durable:
            pytest.skip("this store does not claim to keep anything after it is closed")

    def needs_shared(self) -> None:
        if not self.shared:
            pytest.skip("this store does not claim that two opened at once see the same data")


def fresh_id(seed: object = None) -> str:
    """A job id: 64 lowercase hex digits. The same seed gives the same id; without one it is random."""
    return hashlib.sha256((uuid4().hex if seed is None else repr(seed)).encode()).hexdigest()


def make_job(queue: str, job_id: str = "", **members: Any) -> Job:
    """A queued record of version 1 with these members."""
    given: dict[str, Any] = {
        "state": State.QUEUED,
        "version": 1,
        "generation": 1,
        "queued_at": NOW,
        "changed_at": NOW,
        "expires_at": FAR,
        "namespaces": (("_", NOW),),
    }
    return Job(queue=queue, job_id=job_id or fresh_id(), **{**given, **members})


def rich_job(queue: str, job_id: str = "", **members: Any) -> Job:
    """A record in which every member has a value that is not its default."""
    given: dict[str, Any] = {
        "state": State.FINISHED,
        "version": 7,
        "generation": 3,
        "attempt": 4,
        "lost": 2,
        "worker": "worker-ü",
        "protocol": 2,
        "claimed_at": NOW + 1.25,
        "lease_until": NOW + 30.5,
        "reason": Reason.SUCCESS,
        "outcome": Outcome.FAILED,
        "exit_code": 3,
        "message": 'said: "no"\n\t名前 \x00',
        "result_worker": "worker-1",
        "finished_at": NOW + 20.125,
        "listed_until": FAR + 1,
        "namespaces": (("a", NOW), ("名前", NOW + 0.1)),
        "replacements": (("a", FAR + 2),),
        "callbacks": (Callback(event="finished", namespace="a", url="https://x/", event_id="evt_1", due_at=FAR),),
        "history": (Attempt(number=1, worker="w", started_at=NOW, ended_at=NOW + 1, end="lost"),),
        "debug": True,
        "requirements": Requirements(cores=0.5, memory_bytes=1 << 40, gpus=2, max_duration_s=1.5, tags=("a", "ü")),
        "advertised": {"requirements": {"cpus": 0.5}, "tags": ["a"]},
        "forgotten": True,
    }
    return make_job(queue, job_id, **{**given, **members})


async def chunked(data: bytes, size_bytes: int = 64 << 10) -> AsyncIterator[bytes]:
    """The bytes, as an upload brings them."""
    for at in range(0, len(data), size_bytes):
        yield data[at : at + size_bytes]


async def joined(chunks: AsyncIterable[bytes]) -> bytes:
    """All chunks in one piece."""
    return b"".join([chunk async for chunk in chunks])


def differs_at(found: Sequence[object], expected: Sequence[object]) -> str:
    """Where two long values begin to differ, in words; empty if they are equal.

    A plain comparison of megabytes that fails is explained line by line where CI is set, and that takes minutes.
    """
    if found == expected:
        return ""
    shorter = min(len(found), len(expected))
    at = next((n for n in range(shorter) if found[n] != expected[n]), shorter)
    here, there = found[at : at + 20], expected[at : at + 20]
    shown = [text if len(text) < 200 else f"{text[:200]}..." for text in (repr(here), repr(there))]
    return f"item {at} of {len(found)} (expected {len(expected)}): {shown[0]} instead of {shown[1]}"
